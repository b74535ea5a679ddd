"""Chosen networks and cuts: what random ones would meet too seldom."""

import numpy as np
import pytest
from harness import (
    assert_close,
    assert_same_parameters,
    assert_same_pass,
    random_images,
    random_truths,
    run_tiled,
    whole_plan,
)

from mpitile.geometry.tiling import Grid
from mpitile.network.shapes import infer
from mpitile.network.spec import (
    AvgPool,
    Connected,
    Convolutional,
    MaxPool,
    NetOptions,
    Region,
    Reorg,
    Route,
    Shortcut,
    Softmax,
)
from mpitile.plan.plan import Plan


def conv(filters, size=3, stride=1, normalize=True, activation="leaky", padding=None):
    padding = size // 2 if padding is None else padding
    return Convolutional(filters, size, stride, padding, activation, normalize)


POOL = MaxPool(2, 2, 1)

# The shape of YOLOv2: a passthrough by route and reorg, then a region loss.
PASSTHROUGH = [
    conv(8), POOL, conv(8), POOL, conv(4, 1), conv(8),
    POOL, conv(8), conv(8),
    Route((5,)), conv(4, 1), Reorg(2), Route((11, 8)),
    conv(8), conv(14, 1, normalize=False, activation="linear"),
    Region(((1.1, 0.8), (0.6, 2.0)), 2, True, True, True, 0.6, 5.0, 1.0, 1.0, 1.0),
]  # fmt: skip

RESIDUAL = [
    conv(8), conv(8, 1), conv(8), Shortcut(0), conv(8, stride=2), conv(4, 1), conv(12),
    Shortcut(4), Shortcut(3, "leaky"), POOL, AvgPool(), Softmax(),
]  # fmt: skip

# Padding as large as the kernel: the output grows, and middle tiles own nothing before it.
GROWING = [
    conv(4, 5, 3, padding=0), POOL, conv(3, normalize=False), Shortcut(1),
    conv(4, padding=3, normalize=False), conv(3, padding=3),
    conv(3, 1, normalize=False),
]  # fmt: skip

CLASSIFIER = [
    conv(6, 5, 2), MaxPool(3, 2, 2), conv(8), conv(4, 4, padding=1, normalize=False),
    Connected(8, "leaky"), Connected(3, "linear"), Softmax(),
]  # fmt: skip

NETWORKS = {
    "passthrough": (PASSTHROUGH, (48, 32)),
    "residual": (RESIDUAL, (30, 22)),
    "growing": (GROWING, (13, 17)),
    "classifier": (CLASSIFIER, (33, 40)),
}
GRIDS = [Grid(1, 1), Grid(1, 2), Grid(2, 1), Grid(2, 2), Grid(3, 2), Grid(3, 3), Grid(1, 5)]


def make(name):
    operations, (height, width) = NETWORKS[name]
    options = NetOptions(height=height, width=width)
    return infer(options, [(0, operation) for operation in operations], name)


def groupings(network):
    layers = len(network.layers)
    return {"one": (0,), "each": tuple(range(layers)), "thirds": (0, layers // 3, 2 * layers // 3)}


@pytest.mark.parametrize("grouping", ["one", "each", "thirds"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_grid_takes_the_same_steps(name, grouping):
    network = make(name)
    images, truths = random_images(network, 2, 3), random_truths(network, 2, 3)
    whole = run_tiled(network, whole_plan(network), images, truths, steps=2)
    for grid in GRIDS:
        plan = Plan(grid, groupings(network)[grouping])
        tiled = run_tiled(network, plan, images, truths, steps=2)
        for actual, expected in zip(tiled, whole, strict=True):
            assert_same_pass(actual, expected, 1e-12)
            assert_same_parameters(actual.parameters, expected.parameters, 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_replicas_take_the_same_steps(name):
    network = make(name)
    images, truths = random_images(network, 4, 1), random_truths(network, 4, 1)
    whole = run_tiled(network, whole_plan(network), images, truths, steps=2)
    plan = Plan(Grid(1, 2), (0, 2, 5), replicas=4)
    tiled = run_tiled(network, plan, images, truths, steps=2)
    assert_same_pass(tiled[-1], whole[-1], 1e-12)
    assert_same_parameters(tiled[-1].parameters, whole[-1].parameters, 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_stays_within_its_rounding(name):
    network = make(name)
    images, truths = random_images(network, 2, 3), random_truths(network, 2, 3)
    plan = Plan(Grid(2, 2), groupings(network)["thirds"])
    (whole,) = run_tiled(network, whole_plan(network), images, truths, steps=1, dtype=np.float32)
    (tiled,) = run_tiled(network, plan, images, truths, steps=1, dtype=np.float32)
    assert_same_pass(tiled, whole, 1e-5)


def test_two_runs_are_bit_identical():
    network = make("passthrough")
    images, truths = random_images(network, 2, 3), random_truths(network, 2, 3)
    plan = Plan(Grid(2, 2), (0, 4, 9))
    first, second = (run_tiled(network, plan, images, truths) for _ in range(2))
    assert [one.loss for one in first] == [one.loss for one in second]
    for place, values in first[-1].parameters.items():
        assert np.array_equal(values, second[-1].parameters[place])
    for one, other in zip(first[-1].deltas, second[-1].deltas, strict=True):
        assert np.array_equal(one, other)


def test_the_harness_sees_a_wrong_halo(monkeypatch):
    """Without the adjoint exchange gradients differ, and the comparison says so."""
    network = make("residual")
    images, truths = random_images(network, 1, 3), random_truths(network, 1, 3)
    plan = Plan(Grid(2, 2), groupings(network)["each"])
    (whole,) = run_tiled(network, whole_plan(network), images, truths, steps=1)
    monkeypatch.setattr("mpitile.comm.exchange.Exchange.end_adjoint", lambda self: None)
    (tiled,) = run_tiled(network, plan, images, truths, steps=1)
    assert_close("loss", tiled.loss, whole.loss, 1e-12)
    with pytest.raises(AssertionError, match="deltas"):
        assert_same_pass(tiled, whole, 1e-3)
