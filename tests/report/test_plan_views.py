"""What pictures of plans show, held against the geometry and the simulator that it comes from."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import cluster
from strategies import cases

from mpitile.errors import InputError
from mpitile.geometry.box import Box
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.costs.cost import Cost
from mpitile.plan.filters import filter_spans, split_at_switches
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.simulation.intervals import COMPUTE, FLIGHT, HALO, REDUCE, Interval
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.report.step_view import (
    BACKWARD,
    DOINGS,
    FORWARD,
    HALOS,
    IMAGES,
    OTHER,
    SUMS,
    doing,
    group_view,
    step_view,
)
from mpitile.report.tile_maps import layer_tilings, telling_layers
from mpitile.report.tiling_picture import rank_colours, shared_cells

CONVOLUTION = "[convolutional]\nfilters={}\nsize=3\npad=1\nactivation=leaky\n"
NET = "[net]\nheight=24\nwidth=24\nchannels=2\n" + "".join(map(CONVOLUTION.format, (4, 5, 6, 3)))


def network(text=NET):
    return parse_network(text, "net")


def simulated(net, plan, images=1, passes=1):
    machines = cluster(*[(1, 1.0)] * plan.ranks)
    partition = Partition(net, plan)
    programs = step_programs(partition, Cost(net, machines), StepSize(images, passes))
    return partition, simulate(programs, machines)


@settings(max_examples=40, deadline=None)
@given(case=cases(layers=5), data=st.data())
def test_maps_are_those_of_the_partition(case, data):
    partition = Partition(case.network, case.plan)
    layer = data.draw(st.integers(0, len(case.network.layers) - 1))
    (tiling,) = layer_tilings(partition, [layer])
    *inputs, output = tiling.maps
    assert [one.tensor for one in inputs] == sorted(
        {tensor for part in partition.needs for needs in part for tensor in needs.fetched
         if needs.first <= layer < needs.stop}
    )  # fmt: skip
    assert all(one.action == ("fetches" if one.tensor else "reads") for one in inputs)
    assert output.tensor == layer + 1 and output.action == "computes"
    for tile in range(case.plan.grid.tiles):
        part = partition.boxes(tile)
        assert output.reach[tile] == part.computed(layer)
        for one in tiling.maps:
            assert one.owned[tile] == part.owned[one.tensor]
            reach, owned = one.reach[tile], one.owned[tile]
            inside = [
                (y, x)
                for y in range(reach.y0, reach.y1)
                for x in range(reach.x0, reach.x1)
                if not (owned.y0 <= y < owned.y1 and owned.x0 <= x < owned.x1)
            ]
            assert one.beyond(tile) == len(inside)
    beyond = [sum(one.beyond(tile) for one in tiling.maps) for tile in range(len(output.owned))]
    assert beyond[tiling.focus] == max(beyond)


@settings(max_examples=40, deadline=None)
@given(case=cases(layers=5))
def test_a_few_telling_layers_of_any_plan(case):
    partition = Partition(case.network, case.plan)
    found = telling_layers(partition)
    assert 1 <= len(found) <= 4 and list(found) == sorted(set(found))
    assert set(found) <= set(range(len(case.network.layers)))


def test_the_layer_with_most_overlap_is_shown():
    # Group 1 computes a border of two cells in its first layer, group 2 none.
    partition = Partition(network(), Plan(Grid(2, 2), (0, 1, 3)))
    assert 1 in telling_layers(partition)
    tiling = next(one for one in layer_tilings(partition) if one.layer == 1)
    assert tiling.title == "layer 1: conv 3x3 (group 1, layers 1-2)"
    assert [one.beyond(tiling.focus) for one in tiling.maps] == [14**2 - 12**2, 13**2 - 12**2]


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_is_not_there_is_named(layer):
    with pytest.raises(InputError, match=f"--layer {layer}: expected a number from 0 to 3"):
        layer_tilings(Partition(network(), Plan(Grid(1, 2), (0,))), [layer])


def test_layers_divided_by_filters_have_slices_and_whole_inputs():
    net = network()
    plan = Plan(Grid(2, 3), split_at_switches(net, (0,), (2,)), filters=(2,))
    partition = Partition(net, plan)
    assert 2 in telling_layers(partition)
    divided, behind = layer_tilings(partition, [2, 3])
    before, output = divided.maps
    assert output.spans == filter_spans(net, plan)[2] and not before.spans
    assert set(before.reach) == {Box(0, 24, 0, 24)}
    assert "divided by filters" in divided.title and "divided" not in behind.title
    assert behind.maps[0].spans == output.spans


boxes = st.builds(
    lambda y, h, x, w: Box(y, y + h, x, x + w), *[st.integers(0, 8), st.integers(0, 6)] * 2
)


@given(st.lists(boxes, max_size=6))
def test_shared_cells_are_counted(some):
    counts = {}
    for box in some:
        for cell in ((y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)):
            counts[cell] = counts.get(cell, 0) + 1
    found = {}
    for box, count in shared_cells(some):
        for cell in ((y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)):
            assert cell not in found
            found[cell] = count
    assert found == {cell: count for cell, count in counts.items() if count > 1}


@pytest.mark.parametrize("devices", [[0], [0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [4, 4, 2, 2]])
def test_ranks_of_a_picture_have_colours_of_their_own(devices):
    assert len(set(rank_colours(devices))) == len(devices)


@settings(max_examples=40, deadline=None)
@given(case=cases(layers=5), passes=st.integers(1, 2))
def test_groups_and_the_rest_are_the_whole_step(case, passes):
    partition, timeline = simulated(case.network, case.plan, case.plan.replicas, passes)
    view = group_view(partition, timeline)
    assert [(group.first, group.stop) for group in view.groups] == list(partition.ranges)
    whole = sum(group.seconds for group in view.groups) + view.other + view.sums + view.idle
    assert whole == pytest.approx(timeline.seconds)
    ranks = len(timeline.ranks)
    computing = sum(group.computing for group in view.groups) + view.other
    assert computing == pytest.approx(sum(rank.compute_s for rank in timeline.ranks) / ranks)
    for group, flag in zip(view.groups, case.plan.recompute or [False] * 99, strict=False):
        assert group.recompute == flag
        assert flag or not any(task.again for task in group.tasks)
        assert 0 <= group.overlap <= group.computing * (1 + 1e-9)
        layers = [n for task in group.tasks for n in range(task.first, task.last + 1)]
        assert layers == list(range(group.first, group.stop))
    if ranks == 1:
        assert not any(group.overlap or group.halos for group in view.groups)


def test_overlap_is_the_share_of_cells_that_others_own():
    partition, timeline = simulated(network(), Plan(Grid(1, 2), (0, 2)))
    view = group_view(partition, timeline)
    first, last = view.groups[1].tasks
    # 13 of 24 columns are computed where 12 are owned.
    assert first.overlap == pytest.approx(first.seconds / 13)
    assert last.overlap == 0


def test_recomputing_takes_as_long_as_forward():
    plan = Plan(Grid(1, 2), (0, 2), recompute=(True, False))
    view = group_view(*simulated(network(), plan))
    again = [task.again for task in view.groups[0].tasks]
    assert any(again)
    assert all(task.again in (0, task.forward) for task in view.groups[0].tasks)


@settings(max_examples=25, deadline=None)
@given(case=cases(layers=4))
def test_bars_keep_each_ranks_time(case):
    _, timeline = simulated(case.network, case.plan, case.plan.replicas)
    view = step_view(timeline.intervals, ["d"] * case.plan.ranks, timeline.seconds)
    for rank, bars in enumerate(view.bars):
        own = [one for one in timeline.intervals if one.rank == rank and one.kind != FLIGHT]
        for what in DOINGS:
            drawn = sum(end - start for start, end, name in bars if name == what)
            spent = sum(one.end - one.start for one in own if doing(one) == what)
            assert drawn == pytest.approx(spent, abs=1e-3 * timeline.seconds * (1 + len(own) / 4))
        assert all(a[1] <= b[0] + 1e-12 for a, b in pairwise(bars))


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (COMPUTE, "3 forward", FORWARD),
        (COMPUTE, "forward 3", FORWARD),
        (COMPUTE, "backward_input 3", BACKWARD),
        (COMPUTE, "update", OTHER),
        (HALO, "0 pack", HALOS),
        (HALO, "partial deltas of group 1", HALOS),
        (REDUCE, "sum of gradients", SUMS),
        (REDUCE, "sum of images", IMAGES),
    ],
)
def test_what_an_interval_is(kind, name, expected):
    assert doing(Interval(0, 0.0, 1.0, kind, name)) == expected
