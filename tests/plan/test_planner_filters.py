"""Filter-parallel layers: when the planner chooses them, what is settled, and what they cost."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planner_cases import cluster, mixed_groupings
from strategies import networks

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network, read_network
from mpitile.network.shapes import resize
from mpitile.plan.by_rule import split_at_whole_inputs
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.filters import filter_spans
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.plan import Plan
from mpitile.plan.search.borders import Grouping
from mpitile.plan.search.choices import TILED, Group
from mpitile.plan.search.explain import alternatives
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request, without_limits
from mpitile.plan.search.shortage import shortage

JOBS = Path(__file__).parents[2] / "jobs"
# Large maps and few weights first, small maps and many weights behind.
HEAVY = """
[net]
height=32
width=32
channels=3
[convolutional]
filters=8
size=3
pad=1
activation=leaky
[maxpool]
size=4
stride=4
[convolutional]
filters=256
size=3
pad=1
activation=leaky
batch_normalize=1
[maxpool]
size=2
stride=2
[convolutional]
filters=256
size=3
pad=1
activation=leaky
[convolutional]
filters=4
size=1
activation=linear
"""
# Two devices of two ranks on a slow link.
PAIR = cluster((2, 1), (2, 1), between=(1e-4, 1e6))


def heavy():
    return parse_network(HEAVY, "heavy.cfg")


def plan(where=PAIR, **options):
    return Planner(Request(heavy(), where, where.ranks, Demand(2), **options)).best().plan


def test_what_is_to_be_recomputed_stays_so_where_sums_are_hidden():
    where = cluster((4, 1))
    settled = plan(where, groups=[0, 2], filters="none", recompute=[1])
    assert (settled.groups, settled.recompute) == ((0, 2), (False, True))
    assert all(plan(where, groups=[0, 2], recompute="all").recompute)


def test_the_switch_is_where_maps_are_small_and_weights_many():
    network = read_network(JOBS / "cfg" / "yolov2-tiny.cfg")
    where = cluster((4, 5), (4, 5), between=(1e-4, 12e6))
    request = Request(network, where, 8, Demand(8))
    chosen = Planner(request).best().plan
    large = {layer.index for layer in network.layers if layer.output_shape.height > 52}
    heavy_layers = {10, 12, 13}
    assert heavy_layers <= set(chosen.filters)
    assert not large & set(chosen.filters)


def test_where_links_are_fast_and_images_many_layers_stay_tiled():
    fast = cluster((4, 1), between=(1e-6, 1e12))
    request = Request(heavy(), fast, 4, Demand(512))
    assert Planner(request).best().plan.filters == ()


def test_a_team_of_one_rank_divides_nothing_by_itself():
    assert plan(cluster((1, 1))).filters == ()
    # But a run that was begun with more ranks can go on.
    assert plan(cluster((1, 1)), filters=[2, 4]).filters == (2, 4)


@pytest.mark.parametrize("wanted", [[2], [4, 2, 3], [0, 1], [5]])
def test_named_layers_and_no_others_are_divided(wanted):
    assert plan(filters=wanted).filters == tuple(sorted(wanted))
    assert plan(filters="none").filters == ()


def test_named_groups_are_cut_at_named_layers():
    chosen = plan(groups=[0, 3], filters=[2, 3], recompute=[0])
    assert (chosen.groups, chosen.filters) == ((0, 2, 4), (2, 3))
    assert chosen.recompute == (True, False, False)


def test_named_groups_keep_their_borders():
    assert plan(groups=[0]).filters == ()
    chosen = plan(groups=[0, 2, 4, 5])
    assert (chosen.groups, set(chosen.filters) >= {2, 3, 4}) == ((0, 2, 4, 5), True)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([6], "tiling.filters: there is no layer 6: expected numbers from 0 to 5"),
        ([-1], "tiling.filters: there is no layer -1"),
        ([3], r"tiling.filters: layer 3 \(maxpool\) cannot be divided"),
    ],
)
def test_what_cannot_be_divided_is_named(wanted, message):
    with pytest.raises(InputError, match=message):
        plan(filters=wanted)


def test_slices_save_what_no_tiling_does():
    tiled = Planner(Request(heavy(), PAIR, 4, Demand(2), filters="none"))
    free = Planner(Request(heavy(), PAIR, 4, Demand(2))).best()
    limit = (max(free.devices) + max(tiled.best().devices)) // 2
    assert Planner(replace(tiled.request, filters="auto", memory_limit=limit)).best().fits
    capped = Planner(replace(tiled.request, memory_limit=limit))
    assert capped.best() is None
    assert 'tiling.filters = "auto"' in shortage(capped)


def test_what_the_switch_gains_is_said():
    planner = Planner(Request(heavy(), PAIR, 4, Demand(2)))
    chosen = planner.best()
    (tiled,) = (one for one in alternatives(planner, chosen) if one.name == "tiled throughout")
    assert tiled.planned.plan.filters == ()
    assert tiled.seconds > 1.5 * planner.predict(chosen.plan).step_seconds
    named = Planner(replace(planner.request, filters="none"))
    names = {other.name for other in alternatives(named, named.best())}
    assert "filters left open" in names


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_groups_tell_mixed_plans_apart_as_the_whole_step_does(replicas):
    """What the sum of groups leaves out of a step is about the same for every choice."""
    where = cluster((4, 1), (4, 1), between=(1e-4, 1e8))
    grid = "2x2" if replicas == 2 else "2x4"
    # Groups know nothing of sums beside the backward pass.
    request = Request(heavy(), where, 8, Demand(4), grid=grid, overlap=False)
    planner = Planner(replace(request, replicas=replicas))
    (layout,) = planner.layouts
    rest = []
    for groups in mixed_groupings(heavy()):
        grouping = layout.timed(
            [group.first for group in groups],
            [layer for group in groups if group.filters for layer in range(*group[:2])],
        )
        planned = layout.planned(grouping)
        rest.append(planner.predict(planned.plan).step_seconds - planned.pass_seconds)
    assert max(rest) - min(rest) < 0.03 * layout.fastest.seconds


@settings(max_examples=40, deadline=None)
@given(networks(layers=5), st.sampled_from([1, 2]), st.sampled_from([1e6, 1e8]))
def test_nothing_is_predicted_to_be_slower_than_the_naive_groupings(network, devices, bandwidth):
    where = cluster(*[(2, 1)] * devices, between=(1e-4, bandwidth))
    planner = Planner(Request(network, where, where.ranks, Demand(2), replicas="auto"))
    chosen = planner.best().plan
    best = planner.predict(chosen).step_seconds
    for starts in ((0,), range(len(network.layers))):
        starts = split_at_whole_inputs(network, starts)
        naive = Plan(chosen.grid, starts, chosen.replicas)
        assert best <= planner.predict(naive).step_seconds * (1 + 1e-9)


def test_teams_are_compared_with_their_sums_beside_passes():
    """One team's slices need no sums over others; where these are hidden, that gains little."""
    where = without_limits(read_cluster(JOBS / "clusters" / "pi3-100mbit.toml"))
    network = resize(read_network(JOBS / "cfg" / "y16.cfg"), 304, 304)

    def step_seconds(replicas):
        planner = Planner(Request(network, where, where.ranks, Demand(4), replicas=replicas))
        return planner.predict(planner.best().plan).step_seconds

    assert step_seconds("auto") <= 1.001 * min(map(step_seconds, (1, 2, 4)))


@settings(max_examples=40, deadline=None)
@given(networks(layers=4), st.sampled_from([(2, 2), (3, 1), (1, 1, 1)]), st.data())
def test_the_sums_of_groups_are_close_to_a_plan_s_bytes(network, ranks, data):
    """So that the search under a cap sees what is allocated."""
    where = cluster(*((count, 1) for count in ranks), between=(1e-4, 1e7))
    grid = data.draw(st.sampled_from(["1x{}", "{}x1"])).format(where.ranks)
    planner = Planner(Request(network, where, where.ranks, Demand(2), grid=grid, memory_limit=1))
    (layout,) = planner.layouts
    assume(min(network.shapes[0].height, network.shapes[0].width) >= where.ranks)
    groups = data.draw(st.sampled_from(list(mixed_groupings(network))[:256]))
    memory = layout.memory(0)
    stored = most = always = keeps = staging = 0
    forms = TILED
    for group in groups:
        own = memory.group(group, layout.choices.read(group, forms), False)
        stored += keeps * own.handed
        most, staging = max(most, stored + own.most), max(staging, own.staging)
        always += own.always
        stored, keeps = stored + own.stored, own.keeps
        forms = layout.choices.after(group, forms)
    planned = layout.planned(Grouping(0.0, groups, (False,) * len(groups)))
    found = most + always + staging + layout.fixed(planned, memory, 0)
    # An arena may have gaps.
    assert 0.8 * planned.devices[0] < found < 1.02 * planned.devices[0]


def test_uneven_tiles_have_uneven_slices():
    where = cluster((1, 1), (1, 3), between=(1e-4, 1e6))
    chosen = plan(where)
    assert chosen.column_weights != chosen.row_weights
    spans = filter_spans(heavy(), chosen)[2]
    assert spans[1][1] - spans[1][0] > 1.5 * (spans[0][1] - spans[0][0])


def test_a_group_is_known_by_whether_it_is_filter_parallel():
    assert Group(0, 1) != Group(0, 1, True)
    assert Grouping(0.0, (Group(0, 2), Group(2, 4, True)), ()).filters == (2, 3)
    assert plan(filters=[2]) != plan(filters="none")
    assert plan().grid in {Grid(2, 2), Grid(1, 4), Grid(4, 1)}
