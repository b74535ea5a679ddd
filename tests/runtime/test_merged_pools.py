"""Pools merged with their convolutions: the same step with less memory."""

import numpy as np
import pytest
from harness import random_images, random_truths, run_tiled

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.network.merging import merged_pools
from mpitile.plan.plan import Plan

CFG = """
[net]
height=22
width=29
channels=3

[convolutional]
filters=6
size=3
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=5
size=4
stride=1
pad=1
activation=logistic

[maxpool]
size=2
stride=3
padding=0

[convolutional]
filters=4
size=1
activation=relu
"""

NORMALIZED = CFG.replace("activation=leaky", "activation=leaky\nbatch_normalize=1")

PLANS = [
    Plan(Grid(1, 1), (0,)),
    Plan(Grid(2, 2), (0,)),
    Plan(Grid(3, 1), (0, 2)),
    Plan(Grid(2, 3), (0, 2, 4)),
    Plan(Grid(1, 2), (0,), replicas=2),
]


@pytest.mark.parametrize("bands", [1 << 19, 3000, 1])
@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("cfg", [CFG, NORMALIZED], ids=["biases", "batch norm"])
def test_merging_changes_nothing_but_memory(cfg, plan, bands, monkeypatch):
    for name in ("BAND_ELEMENTS", "POOLED_ELEMENTS"):
        monkeypatch.setattr(f"mpitile.plan.bands.{name}", bands)
    network = parse_network(cfg, "merged")
    assert merged_pools(network, plan.groups) == {1, 3}
    images, truths = random_images(network, 2, 1), random_truths(network, 2, 1)
    apart = run_tiled(network, plan, images, truths)
    merged = run_tiled(network, plan, images, truths, merge_pools=True)
    for expected, given in zip(apart, merged, strict=True):
        assert given.loss == pytest.approx(expected.loss, rel=1e-12)
        assert [t for t, values in enumerate(given.tensors) if values is None] == [1, 3]
        for name, gradient in expected.gradients.items():
            assert_close(given.gradients[name], gradient)
        for tensor in (0, 2, 4, 5):
            assert_close(given.tensors[tensor], expected.tensors[tensor])
            assert_close(given.deltas[tensor], expected.deltas[tensor])


def assert_close(given, expected):
    assert np.abs(given - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("cfg", "pool", "reason"),
    [
        (CFG, "size=3\nstride=2", "windows overlap"),
        (NORMALIZED, "size=2\nstride=2\npadding=0", "cells of the last column have no window"),
        (NORMALIZED, "size=1\nstride=2", "cells between windows"),
    ],
)
def test_what_is_not_merged(cfg, pool, reason):
    network = parse_network(cfg.replace("size=2\nstride=2", pool), "apart")
    assert merged_pools(network, (0,)) == {3}, reason


def test_no_merging_across_groups_or_past_other_readers():
    network = parse_network(CFG, "groups")
    assert merged_pools(network, (0, 1)) == {3}
    shared = parse_network(CFG + "\n[route]\nlayers=0\n", "route")
    assert merged_pools(shared, (0,)) == {3}


BLOCK = "\n[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"
POOLED = BLOCK + "\n[maxpool]\nsize=2\nstride=2\n"
COARSE = "[net]\nheight=24\nwidth=24\n" + 4 * POOLED + BLOCK


@pytest.mark.parametrize("bands", [1 << 19, 1])
@pytest.mark.parametrize("grid", [Grid(2, 2), Grid(4, 1), Grid(1, 5)], ids=str)
def test_windows_that_cross_cut_lines(grid, bands, monkeypatch):
    """Tensors with fewer cells than tiles: some tiles own cells whose windows are others'."""
    for name in ("BAND_ELEMENTS", "POOLED_ELEMENTS"):
        monkeypatch.setattr(f"mpitile.plan.bands.{name}", bands)
    network = parse_network(COARSE, "coarse")
    images, truths = random_images(network, 6, 1), random_truths(network, 6, 1)
    apart = run_tiled(network, Plan(grid, (0,)), images, truths, steps=1)
    merged = run_tiled(network, Plan(grid, (0,)), images, truths, steps=1, merge_pools=True)
    for name, gradient in apart[0].gradients.items():
        assert_close(merged[0].gradients[name], gradient)
