"""The planner's search against enumerating all plans of small networks."""

from dataclasses import replace
from itertools import islice, pairwise, product
from math import inf

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planner_cases import cluster, mixed_groupings
from strategies import networks

from mpitile.geometry.tiling import Grid
from mpitile.network.merging import merged_pools
from mpitile.plan.clusters.cluster import OPERATIONS
from mpitile.plan.clusters.devices import cluster_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.filter_times import FilterTimes
from mpitile.plan.costs.group_moves import GroupMoves
from mpitile.plan.costs.group_times import GroupTimes
from mpitile.plan.memory.bytes import Demand, plan_bytes
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.search.borders import Grouping, fastest
from mpitile.plan.search.choices import TILED, Choices, EveryGroup
from mpitile.plan.search.group_bytes import GroupBytes
from mpitile.plan.search.group_lives import Lives
from mpitile.plan.search.layout import Layout
from mpitile.plan.search.mirrored import mirrored
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request
from mpitile.plan.search.within import groupings_within


@st.composite
def clusters(draw, ranks):
    """Of this many ranks on one to three devices."""
    devices = []
    while ranks:
        own = draw(st.integers(1, ranks)) if len(devices) < 2 else ranks
        devices.append((own, draw(st.sampled_from([1, 1, 2.5]))))
        ranks -= own
    latency, bandwidth = draw(st.sampled_from([1e-6, 1e-4])), draw(st.sampled_from([1e7, 1e9]))
    medium = draw(st.sampled_from(["switched", "shared"]))
    return cluster(*devices, medium=medium, between=(latency, bandwidth))


@st.composite
def layouts(draw, layers=4):
    """A small network, a grid on a cluster, and images of a pass of a team."""
    network = draw(networks(layers=layers))
    grid = Grid(draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    plan = Plan(grid, (0,), draw(st.integers(1, 2)))
    return network, plan, draw(clusters(plan.ranks)), draw(st.integers(1, 2))


def partly_empty(network, tiling):
    """Whether a tile owns rows of a tensor but no columns, or the other way round."""
    for tensor in range(len(network.shapes)):
        axes = [
            {a < b for a, b in pairwise(cuts)}
            for cuts in (tiling.rows[tensor], tiling.columns[tensor])
        ]
        if any(False in axis for axis in axes):
            return True
    return False


def reference(network, plan, cost, images):
    """For each group: forward and backward on the slowest rank, and its exchange in one way."""
    partition = Partition(network, plan)
    merged = merged_pools(network, plan.groups)
    moves = GroupMoves(partition, cost, images)
    found = []
    for group, (first, stop) in enumerate(partition.ranges):
        forward, backward = [], []
        for rank in range(plan.ranks):
            tile = rank % plan.grid.tiles
            needs = partition.needs[tile][group]
            times = {name: 0.0 for name in OPERATIONS}
            for layer in range(first, stop):
                if layer + 1 in merged:
                    continue
                box = needs.computed[layer - first]
                span = partition.channels(layer + 1, tile)
                for name in OPERATIONS:
                    times[name] += cost.compute(
                        cost.cluster.device_of(rank),
                        layer,
                        name,
                        images,
                        box.height,
                        box.width,
                        layer in merged,
                        span[1] - span[0] if span else None,
                    )
            forward.append(times.pop("forward"))
            backward.append(sum(times.values()))
        link = max(cost.exchange(moves.messages(group)).values(), default=0.0)
        found.append((max(forward), max(backward), link))
    return found


def all_choices(network, cost, plan, images, every=True):
    """Everything that may be chosen on a grid."""
    times = GroupTimes(network, cost, plan, images, every=every)
    divided = FilterTimes(network, cost, plan, images, times.sums)
    return times, divided, Choices(network, times, divided, lambda group: True)


def some_mixed(network, most=256):
    """Not all of them where there are many."""
    return list(islice(mixed_groupings(network), most))


@settings(max_examples=80)
@given(layouts(layers=4), st.data())
def test_the_seconds_of_groups_are_those_of_their_boxes(layout, data):
    network, plan, where, images = layout
    cost = Cost(network, where)
    _, _, choices = all_choices(network, cost, plan, images)
    groups = data.draw(st.sampled_from(some_mixed(network)))
    grouping = Grouping(0.0, groups, ())
    plan = Plan(plan.grid, grouping.starts, plan.replicas, filters=grouping.filters)
    assume(not partly_empty(network, Partition(network, plan).tiling))
    forms = TILED
    for group, (forward, backward, link) in zip(
        groups, reference(network, plan, cost, images), strict=True
    ):
        own = choices.seconds(group, forms)
        forms = choices.after(group, forms)
        assert own.forward == pytest.approx(forward)
        assert own.backward == pytest.approx(backward)
        assert own.exchange >= link * (1 - 1e-9)
        if not group.filters:
            if not link:
                assert own.exchange == 0
            else:
                # The rest is packing, far faster here than any link.
                assert own.exchange <= 1.5 * link + 1e-4


@settings(max_examples=60)
@given(layouts(layers=4))
def test_the_fastest_grouping_is_the_best_of_all(layout):
    network, plan, where, images = layout
    assume(len(network.layers) <= 7)
    cost = Cost(network, where)
    _, _, every = all_choices(network, cost, plan, images)
    best = min(every.total(groups) for groups in mixed_groupings(network))
    _, _, few = all_choices(network, cost, plan, images, every=False)
    found = fastest(few)
    assert found.seconds == pytest.approx(best)
    assert every.total(found.groups) == pytest.approx(found.seconds)


@settings(max_examples=40)
@given(layouts(layers=6))
def test_all_groups_are_known_with_and_without_their_seconds(layout):
    network, plan, where, images = layout
    cost, every = Cost(network, where), EveryGroup(network)
    few = GroupTimes(network, cost, plan, images)
    times = GroupTimes(network, cost, plan, images, every=True)
    more = few.with_every()
    assert more.groups == times.groups
    assert few.groups.items() <= more.groups.items()
    assert every.groups == list(times.groups)
    for group in every.groups:
        assert set(every.fetched(*group)) == set(times.fetched(*group))


@settings(max_examples=40)
@given(layouts(layers=3), st.floats(0.3, 1.1))
def test_the_search_within_a_cap_is_the_best_of_all(layout, share):
    network, plan, where, images = layout
    assume(len(network.layers) <= 5)
    cost = Cost(network, where)
    times, divided, choices = all_choices(network, cost, plan, images)
    demand = Demand(images * plan.replicas)
    lives = Lives(network, 4)
    ranks = range(plan.ranks)
    memory = GroupBytes(network, plan, times, divided, ranks, images, demand, lives)

    def added_up(groups, flags):
        seconds = stored = most = always = keeps = staging = 0
        forms = TILED
        for group, flag in zip(groups, flags, strict=True):
            own = memory.group(group, choices.read(group, forms), flag)
            again = memory.again(group) if flag else ()
            seconds += choices.seconds(group, forms).recomputed(again)
            stored += keeps * own.handed
            most = max(most, stored + own.most)
            always += own.always
            staging = max(staging, own.staging)
            stored, keeps = stored + own.stored, own.keeps
            forms = choices.after(group, forms)
        return seconds, most + always + staging

    ways = [
        added_up(groups, flags)
        for groups in mixed_groupings(network)
        for flags in product((False, True), repeat=len(groups))
    ]
    room = share * max(size for _, size in ways)
    best = min((seconds for seconds, size in ways if size <= room), default=inf)
    found = list(groupings_within(choices, memory, lambda group: (False, True), room))
    assert (found[0].seconds if found else inf) == pytest.approx(best)
    for grouping in found:
        assert grouping.size <= room
        seconds, size = added_up(grouping.groups, grouping.recompute)
        assert (grouping.seconds, grouping.size) == (pytest.approx(seconds), size)


@given(networks(layers=4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.data())
def test_mirrored_grids_take_as_long(network, rows, columns, replicas, data):
    where = data.draw(clusters(replicas * rows * columns))
    request = Request(network, where, where.ranks, Demand(2), replicas=replicas)
    planner = Planner(request)
    blocks = data.draw(st.sampled_from([(1, 1), (rows, 1), (1, columns)]))
    plan = Plan(Grid(rows, columns, blocks), (0,), replicas)
    for turned in ((1, 1), blocks[::-1]):
        other = replace(plan, grid=Grid(columns, rows, turned))
        if mirrored(network, planner.cost, plan, other):
            one, two = (Layout(planner, base).fastest for base in (plan, other))
            assert one.seconds == pytest.approx(two.seconds)
            assert one.groups == two.groups


@settings(max_examples=25)
@given(networks(layers=3), st.integers(1, 4), st.floats(0.75, 1.0), st.data())
def test_what_is_chosen_fits_and_little_is_faster(network, ranks, share, data):
    assume(len(network.layers) <= 6)
    where = data.draw(clusters(ranks))
    request = Request(network, where, ranks, Demand(2), replicas="auto")
    free = Planner(request).best()
    assert free is not None
    demand = Demand(2, devices=cluster_devices(where))
    limit = int(share * max(free.devices))
    planner = Planner(
        Request(network, where, ranks, Demand(2), replicas="auto", memory_limit=limit)
    )
    chosen = planner.best()
    best = inf
    for layout in planner.layouts:
        images = 2 // layout.base.replicas
        _, _, choices = all_choices(network, planner.cost, layout.base, images)
        for groups in mixed_groupings(network):
            grouping = Grouping(0.0, groups, ())
            plan = replace(layout.base, groups=grouping.starts, filters=grouping.filters)
            sizes = [sum(kinds.values()) for kinds in plan_bytes(Partition(network, plan), demand)]
            devices = (sum(sizes[r] for r in where.ranks_of(d)) for d in range(len(where.devices)))
            if max(devices) <= limit:
                best = min(best, choices.total(groups))
    if chosen is None:
        assert best == inf
        return
    assert max(chosen.devices) <= limit
    ranks_bytes = plan_bytes(Partition(network, chosen.plan), demand)
    assert [dict(kinds) for kinds in chosen.ranks] == list(ranks_bytes)
    # Plans of about the same pass are judged by the whole step.
    assert chosen.pass_seconds <= 1.03 * best * (1 + 1e-9)
