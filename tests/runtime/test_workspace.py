"""The scratch memory of kernels: enough for every call, and no more than calls want."""

import hypothesis.strategies as st
import numpy as np
import pytest
from harness import random_truths
from hypothesis import given, settings
from strategies import cases

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.kernels import algorithms, conv
from mpitile.kernels.choice import Choices
from mpitile.layers.base import Step
from mpitile.network.shapes import infer
from mpitile.network.spec import Connected, Convolutional, MaxPool, NetOptions
from mpitile.plan.filters import all_filters, split_at_switches, tile_spans
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.runtime.shapes import network_shapes
from mpitile.runtime.workspace import KernelMemory

# Numbers out of all bounds are of memory that nobody has written.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

FLOAT32 = np.dtype(np.float32)


def conv_of(filters, size=3, stride=1, normalize=True):
    return Convolutional(filters, size, stride, size // 2, "leaky", normalize)


# Bands, a stride, a connected layer, and channels enough for fast algorithms and large gradients.
OPERATIONS = (
    conv_of(48),
    MaxPool(2, 2, 0),
    conv_of(70, normalize=False),
    MaxPool(2, 2, 0),
    conv_of(32, 1),
    conv_of(40, 3, 2),
    conv_of(520),
    conv_of(600),
    Connected(12, "leaky"),
)
DEEP = infer(NetOptions(72, 60, 16), [(0, operation) for operation in OPERATIONS], "deep")


def step_of(network, plan, batch, choices):
    """The wanted and the taken algorithm of each convolution of a step, and the memory.

    Of the call what it wants and has; of each rank all scratch memory.
    """
    calls, sizes = [], []
    decide = conv._algorithm

    def spy(wanted, operation, x, weights, box, stride, padding, workspace, groups):
        name = decide(wanted, operation, x, weights, box, stride, padding, workspace, groups)
        call = conv.Call(
            operation, weights.shape, stride, padding, groups, len(x.array), box, x.box
        )
        calls.append((wanted, name, conv.workspace_size(call, (name,)), workspace.size))
        return name

    def work(comm):
        topology = make_topology(comm, plan)
        spans = tile_spans(network, plan, topology.tile)
        parameters = Parameters(network, np.float32, spans=spans)
        parameters.draw(1)
        images = batch // plan.replicas
        program = Program(Partition(network, plan), topology, parameters, images, choices=choices)
        sizes.append(program._scratch.size)
        truths = random_truths(network, images, 1)
        step = Step(training=True, reduce=comm.sum, images=batch, truths=truths)
        program.forward(step)
        program.backward(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "_algorithm", spy)
        run_ranks(plan.ranks, work)
    return calls, sizes


def assert_enough(calls):
    for wanted, name, size, workspace in calls:
        assert wanted in (None, name)
        assert name == "depthwise" or size <= workspace


@settings(max_examples=30)
@given(cases(filters=True), st.booleans())
def test_every_call_finds_its_workspace(case, exact):
    calls, _ = step_of(case.network, case.plan, case.batch, Choices(exact=exact))
    assert_enough(calls)


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
@pytest.mark.parametrize(
    ("grid", "filters"), [(Grid(1, 1), ()), (Grid(2, 2), ()), (Grid(1, 3), all_filters(DEEP))]
)
def test_whatever_is_measured_finds_its_workspace(algorithm, grid, filters):
    plan = Plan(grid, split_at_switches(DEEP, (0, 2, 4), filters), filters=filters)
    table = {
        shape.key: algorithm
        for shape in network_shapes(DEEP, grid, 2, filters)
        if algorithms.possible(algorithm, shape.operation, (shape.kernel_height,) * 2, 1, FLOAT32)
    }
    calls, _ = step_of(DEEP, plan, 2, Choices(table=table, measured=True))
    assert {name for _, name, _, _ in calls} >= {algorithm}
    assert_enough(calls)


@pytest.mark.parametrize("filters", [(), all_filters(DEEP)])
def test_the_largest_call_decides(filters):
    plan = Plan(Grid(2, 2), split_at_switches(DEEP, (0, 2, 4), filters), filters=filters)
    calls, sizes = step_of(DEEP, plan, 2, Choices())
    assert_enough(calls)
    assert max(size for _, _, size, _ in calls) == max(workspace for _, _, _, workspace in calls)
    assert max(size for _, _, size, _ in calls) <= max(sizes)


def test_smaller_tiles_want_less():
    network = infer(NetOptions(26, 26, 256), [(0, conv_of(512)), (0, conv_of(512))], "n")

    def wanted(grid, **choices):
        partition = Partition(network, Plan(grid, (0,)))
        memory = KernelMemory(Choices(**choices), FLOAT32)
        (found,) = memory(partition, [partition.boxes(0)], 4, ())
        return max(found.values())

    sizes = [wanted(grid) for grid in (Grid(1, 1), Grid(2, 2), Grid(4, 6))]
    assert sizes[0] > sizes[1] > 2 * sizes[2]
    assert wanted(Grid(2, 2), exact=True) < sizes[1] <= wanted(Grid(2, 2), measured=True)
