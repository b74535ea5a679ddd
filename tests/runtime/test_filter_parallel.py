"""Filter-parallel layers by themselves: inference, empty slices, who agrees with whom."""

import numpy as np
import pytest
from harness import draw, random_images, random_truths, run_tiled, whole_plan
from hypothesis import given, settings
from strategies import cases

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.kernels.choice import Choices
from mpitile.layers.base import Step
from mpitile.network.shapes import infer
from mpitile.network.spec import Connected, Convolutional, Dropout, MaxPool, NetOptions, Softmax
from mpitile.plan.filters import all_filters, split_at_switches, tile_spans
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program


def conv(filters, normalize=False):
    return Convolutional(filters, 3, 1, 1, "leaky", normalize)


# Two and three filters leave ranks without any.
FEW = infer(
    NetOptions(12, 10, 3),
    [(0, o) for o in (conv(2, True), MaxPool(2, 2, 0), conv(3, True), Dropout(0.4), conv(8))]
    + [(0, o) for o in (Connected(5, "leaky"), Connected(2, "linear"), Softmax())],
    "few",
)


def divided(network, grid, replicas=1, filters=None):
    filters = all_filters(network) if filters is None else filters
    return Plan(grid, split_at_switches(network, (0,), filters), replicas, filters=filters)


def outputs(case, plan):
    """What a pass without backward computes, put together on rank 0."""
    images = random_images(case.network, case.batch, case.seed)

    def work(comm):
        topology = make_topology(comm, plan)
        spans = tile_spans(case.network, plan, topology.tile)
        parameters = Parameters(case.network, np.float64, spans=spans)
        draw(parameters, case.seed)
        share = case.batch // plan.replicas
        partition = Partition(case.network, plan)
        program = Program(partition, topology, parameters, share, training=False, merge_pools=False)
        mine = slice(topology.replica * share, (topology.replica + 1) * share)
        box = program.values[0].box
        program.values[0].array[...] = images[(mine, *box.slices())]
        found = {}

        def keep(tensor, tile):
            owned = program.part.owned[tensor]
            place = (mine, *owned.slices())
            channels = slice(tile.first_channel, tile.first_channel + tile.array.shape[3])
            found[tensor] = ((*place, channels), tile.view(owned).copy())

        program.forward(Step(training=False, reduce=comm.sum, images=case.batch), keep)
        program.close()
        return comm.gather(found)

    wholes = {}
    for found in run_ranks(plan.ranks, work)[0]:
        for tensor, (place, array) in found.items():
            shape = case.network.shape(tensor)
            size = (case.batch, shape.height, shape.width, shape.channels)
            if array.size:
                wholes.setdefault(tensor, np.full(size, np.nan))[place] = array
    return wholes


@settings(max_examples=40, deadline=None)
@given(cases(filters=True))
def test_a_pass_without_backward_computes_the_same(case):
    expected = outputs(case, whole_plan(case.network))
    found = outputs(case, case.plan)
    assert found
    for tensor, array in found.items():
        scale = np.abs(expected[tensor]).max()
        assert np.abs(array - expected[tensor]).max() <= 1e-12 * scale


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(("grid", "replicas"), [("1x4", 1), ("2x3", 1), ("1x3", 2)])
def test_ranks_without_filters_take_part(grid, replicas, merge):
    rows, columns = map(int, grid.split("x"))
    images, truths = random_images(FEW, 4, 1), random_truths(FEW, 4, 1)
    whole = run_tiled(FEW, whole_plan(FEW), images, truths)
    plan = divided(FEW, Grid(rows, columns), replicas)
    assert any(tile_spans(FEW, plan, 0)[0]) is False
    tiled = run_tiled(FEW, plan, images, truths, merge_pools=merge, ranks_per_device="auto")
    for one, other in zip(tiled, whole, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-12)
        for place, array in other.parameters.items():
            assert np.abs(one.parameters[place] - array).max() <= 1e-12 * np.abs(array).max()


@pytest.mark.parametrize("replicas", [1, 2])
def test_sliced_layers_agree_with_their_peers_alone(replicas):
    """Nothing is added up over a team; with replicas, over those of the same tile."""
    network = infer(NetOptions(8, 8, 3), [(0, conv(4, True)), (0, conv(6, True))], "n")
    plan = divided(network, Grid(1, 2), replicas)

    def work(comm):
        topology = make_topology(comm, plan)
        spans = tile_spans(network, plan, topology.tile)
        parameters = Parameters(network, np.float64, spans=spans)
        parameters.draw(0)
        program = Program(Partition(network, plan), topology, parameters, 1)
        summed = []
        plain = topology.peers.sum

        def sum_of_peers(array):
            summed.append(array.shape)
            plain(array)

        topology.peers.sum = sum_of_peers

        def over_all(array):
            raise AssertionError("a sum over all ranks")

        step = Step(training=True, reduce=over_all, images=replicas)
        program.forward(step)
        program.backward(step)
        return summed

    both = [(2,), (2,), (3,), (3,), (2, 3), (2, 2)]
    assert run_ranks(plan.ranks, work) == [both if replicas > 1 else []] * plan.ranks


def test_parameters_without_the_plan_s_slices_are_refused():
    plan = divided(FEW, Grid(1, 2))

    def work(comm):
        parameters = Parameters(FEW, np.float32)
        Program(Partition(FEW, plan), make_topology(comm, plan), parameters, 1)

    with pytest.raises(ValueError, match="parameters: expected slices"):
        run_ranks(2, work)


@pytest.mark.parametrize("kernels", ["exact", "fast"])
def test_single_precision(kernels):
    """Slices of 24 of 48 filters, large enough for fast algorithms."""
    operation = Convolutional(48, 3, 1, 1, "logistic", True)
    network = infer(NetOptions(32, 32, 16), [(0, operation), (0, operation)], "n")
    plan = divided(network, Grid(1, 2))
    images = random_images(network, 2, 5).astype(np.float32)

    def run(plan):
        def work(comm):
            topology = make_topology(comm, plan)
            spans = tile_spans(network, plan, topology.tile)
            parameters = Parameters(network, np.float32, spans=spans)
            parameters.draw(1)
            choices = Choices(exact=kernels == "exact")
            partition = Partition(network, plan)
            program = Program(partition, topology, parameters, 2, choices=choices)
            box = program.values[0].box
            program.values[0].array[...] = images[(slice(None), *box.slices())]
            step = Step(training=True, reduce=comm.sum, images=2)
            program.forward(step)
            program.backward(step)
            return [parameters.gradients_of(layer)["weights"] for layer in (0, 1)]

        return run_ranks(plan.ranks, work)

    alone, ranks = run(whole_plan(network)), run(plan)
    for layer in (0, 1):
        expected = alone[0][layer]
        found = np.concatenate([gradients[layer] for gradients in ranks], axis=-1)
        tolerance = 1e-5 if kernels == "exact" else 1e-4
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
