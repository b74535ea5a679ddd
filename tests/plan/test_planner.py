"""The planner against enumerating all plans, and what it says where none fits."""

from itertools import chain, combinations, pairwise, product
from math import inf

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import networks

from mpitile.errors import InputError
from mpitile.geometry.needs import group_ranges
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.network.merging import merged_pools
from mpitile.network.receptive import needs_whole_input
from mpitile.plan.bytes import Demand, plan_bytes
from mpitile.plan.cluster import KINDS, OPERATIONS, Cluster, Device, DeviceSpeed, Link
from mpitile.plan.cost import Cost
from mpitile.plan.devices import cluster_devices
from mpitile.plan.explain import alternatives
from mpitile.plan.generic import generic_cluster
from mpitile.plan.group_bytes import GroupBytes
from mpitile.plan.group_lives import Lives
from mpitile.plan.group_times import GroupTimes
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.planner import Planner
from mpitile.plan.request import Request, first_ranks
from mpitile.plan.search import cheapest_within, fastest
from mpitile.plan.shortage import shortage
from mpitile.plan.tile_weights import tile_weights
from mpitile.plan.traffic import group_traffic


def speed(gflops, call=1e-6):
    return DeviceSpeed(
        flops={(kind, name): gflops * 1e9 for kind in KINDS for name in OPERATIONS},
        bytes=gflops * 1e9,
        call=call,
        clear=gflops * 1e9,
        copy=gflops * 1e9,
        piece=1e-6,
        sum=gflops * 1e9,
        update={"sgd": 1e-9, "adam": 2e-9},
    )


def cluster(*devices, medium="switched", between=(1e-5, 1e8), memory=None):
    """Devices given by their ranks and GFLOP/s."""
    return Cluster(
        tuple(
            Device(f"d{number}", ranks, memory, speed(gflops))
            for number, (ranks, gflops) in enumerate(devices)
        ),
        Link(1e-6, 1e9),
        Link(*between),
        medium,
    )


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


def forced(network):
    return {layer.index for layer in network.layers if needs_whole_input(layer)} - {0}


def groupings(network):
    """All ways to cut a network into groups."""
    must = forced(network)
    free = [n for n in range(1, len(network.layers)) if n not in must]
    for some in chain.from_iterable(combinations(free, n) for n in range(len(free) + 1)):
        yield (0, *sorted({*some, *must}))


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
    found = []
    for group, (first, stop) in enumerate(partition.ranges):
        forward, backward = [], []
        for rank in range(plan.ranks):
            needs = partition.needs[rank % plan.grid.tiles][group]
            times = {name: 0.0 for name in OPERATIONS}
            for layer in range(first, stop):
                if layer + 1 in merged:
                    continue
                box = needs.computed[layer - first]
                for name in OPERATIONS:
                    times[name] += cost.compute(
                        cost.cluster.device_of(rank),
                        layer,
                        name,
                        images,
                        box.height,
                        box.width,
                        layer in merged,
                    )
            forward.append(times.pop("forward"))
            backward.append(sum(times.values()))
        tiles = plan.grid.tiles
        messages = [
            (base + source, base + target, size * images * cost.itemsize)
            for (source, target), size in group_traffic(partition, group).items()
            for base in range(0, plan.ranks, tiles)
        ]
        link = max(cost.exchange(messages).values(), default=0.0)
        found.append((max(forward), max(backward), link))
    return found


@settings(max_examples=80)
@given(layouts(layers=6), st.data())
def test_the_seconds_of_groups_are_those_of_their_boxes(layout, data):
    network, plan, where, images = layout
    cost = Cost(network, where)
    times = GroupTimes(network, cost, plan, images, every=True)
    starts = data.draw(st.sampled_from(list(groupings(network))[:64]))
    plan = Plan(plan.grid, starts, plan.replicas)
    assume(not partly_empty(network, Partition(network, plan).tiling))
    ranges = group_ranges(starts, len(network.layers))
    for group, (forward, backward, link) in zip(
        ranges, reference(network, plan, cost, images), strict=True
    ):
        own = times.groups[group]
        assert own.forward == pytest.approx(forward)
        assert own.backward == pytest.approx(backward)
        assert own.exchange >= link * (1 - 1e-9)
        if not link:
            assert own.exchange == 0
        else:
            # The rest is packing, far faster here than any link.
            assert own.exchange <= 1.5 * link + 1e-4


@settings(max_examples=60)
@given(layouts(layers=6))
def test_the_fastest_grouping_is_the_best_of_all(layout):
    network, plan, where, images = layout
    cost = Cost(network, where)
    every = GroupTimes(network, cost, plan, images, every=True).groups
    best = min(
        sum(every[group].stored for group in group_ranges(starts, len(network.layers)))
        for starts in groupings(network)
    )
    few = GroupTimes(network, cost, plan, images)
    found = fastest(few.groups, len(network.layers))
    assert found.seconds == pytest.approx(best)
    ranges = group_ranges(found.starts, len(network.layers))
    assert sum(every[group].stored for group in ranges) == pytest.approx(found.seconds)


@settings(max_examples=40)
@given(layouts(layers=3), st.floats(0.3, 1.1))
def test_the_search_within_a_cap_is_the_best_of_all(layout, share):
    network, plan, where, images = layout
    assume(len(network.layers) <= 6)
    cost, layers = Cost(network, where), len(network.layers)
    times = GroupTimes(network, cost, plan, images, every=True)
    places = [plan.grid.position(tile) for tile in range(plan.grid.tiles)]
    demand = Demand(images * plan.replicas)
    memory = GroupBytes(
        network,
        times.rows,
        times.columns,
        times.exchanges,
        places,
        images,
        demand,
        Lives(network, 4),
    )

    def added_up(starts, flags):
        seconds = stored = most = always = keeps = 0
        for group, flag in zip(group_ranges(starts, layers), flags, strict=True):
            own = memory.group(*group, flag)
            again = memory.again(*group) if flag else ()
            seconds += times.groups[group].recomputed(again)
            stored += keeps * own.handed
            most = max(most, stored + own.most)
            always += own.always
            stored, keeps = stored + own.stored, own.keeps
        return seconds, most + always

    ways = [
        added_up(starts, flags)
        for starts in groupings(network)
        for flags in product((False, True), repeat=len(starts))
    ]
    room = share * max(size for _, size in ways)
    best = min((seconds for seconds, size in ways if size <= room), default=inf)
    found = cheapest_within(times.groups, memory, lambda group: (False, True), layers, room)
    assert (found[0].seconds if found else inf) == pytest.approx(best)
    for grouping in found:
        assert grouping.size <= room
        seconds, size = added_up(grouping.starts, grouping.recompute)
        assert (grouping.seconds, grouping.size) == (pytest.approx(seconds), size)


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
        cost = planner.cost
        times = GroupTimes(network, cost, layout.base, 2 // layout.base.replicas, every=True)
        for starts in groupings(network):
            ranges = group_ranges(starts, len(network.layers))
            plan = Plan(
                layout.base.grid,
                starts,
                layout.base.replicas,
                layout.base.row_weights,
                layout.base.column_weights,
            )
            sizes = [sum(kinds.values()) for kinds in plan_bytes(Partition(network, plan), demand)]
            devices = (sum(sizes[r] for r in where.ranks_of(d)) for d in range(len(where.devices)))
            if max(devices) <= limit:
                best = min(best, sum(times.groups[group].stored for group in ranges))
    if chosen is None:
        assert best == inf
        return
    assert max(chosen.devices) <= limit
    ranks_bytes = plan_bytes(Partition(network, chosen.plan), demand)
    assert [dict(kinds) for kinds in chosen.ranks] == list(ranks_bytes)
    # Plans of about the same pass are judged by the whole step.
    assert chosen.pass_seconds <= 1.03 * best * (1 + 1e-9)


CHAIN = """
[net]
height=64
width=64
channels=3
[convolutional]
filters=8
size=3
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
filters=16
size=3
pad=1
activation=leaky
[convolutional]
filters=16
size=3
pad=1
activation=leaky
"""


def small():
    return parse_network(CHAIN, "chain.cfg")


def test_where_nothing_is_gained_groups_are_long():
    # One rank has nothing to exchange; a pool may be cheaper apart from its convolution.
    network = parse_network(CHAIN.replace("[maxpool]\nsize=2\nstride=2\n", ""), "chain.cfg")
    chosen = Planner(Request(network, generic_cluster(["a"]), 1, Demand(1))).best()
    assert chosen.plan == Plan(Grid(1, 1), (0,))


def test_replicas_need_no_halos():
    slow = cluster((1, 1), (1, 1), between=(1e-3, 1e6))
    chosen = Planner(Request(small(), slow, 2, Demand(2), replicas="auto")).best()
    assert (chosen.plan.replicas, str(chosen.plan.grid)) == (2, "1x1")
    one = Planner(Request(small(), slow, 2, Demand(1), replicas="auto")).best()
    assert one.plan.replicas == 1


def test_slow_links_make_groups_longer():
    def starts(latency):
        where = cluster((1, 1), (1, 1), between=(latency, 1e8))
        return Planner(Request(small(), where, 2, Demand(1))).best().plan.groups

    assert len(starts(1e-7)) > len(starts(1))
    assert starts(1) == (0,)


def test_what_is_settled_stays():
    request = Request(
        small(), generic_cluster(["a"] * 4), 4, Demand(2), grid="1x2", replicas=2, groups=[0, 2]
    )
    chosen = Planner(request).best().plan
    assert chosen == Plan(Grid(1, 2), (0, 2), 2)


def test_all_may_be_told_to_recompute():
    where = generic_cluster(["a"] * 2)
    request = Request(small(), where, 2, Demand(2), groups=[0, 2], recompute="all")
    assert Planner(request).best().plan.recompute == (True, True)
    request = Request(small(), where, 2, Demand(2), groups=[0, 2], recompute=[1])
    assert Planner(request).best().plan.recompute == (False, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": "2x2"}, "grid 2x2 with 1 replica"),
        ({"grid": "two"}, "grid 'two'"),
        ({"replicas": 3}, "tiling.replicas = 3: expected a positive divisor of the 2 ranks"),
        ({"groups": [1]}, "do not cover"),
        ({"recompute": [0]}, "numbers of groups need tiling.groups"),
        ({"groups": [0, 2], "recompute": [2]}, "there is no group 2"),
    ],
)
def test_what_does_not_go_together_is_named(options, message):
    with pytest.raises(InputError, match=message):
        Planner(Request(small(), generic_cluster(["a"] * 2), 2, Demand(1), **options)).best()


def test_faster_devices_get_larger_tiles():
    network = small()
    where = cluster((2, 1), (2, 3))
    cost = Cost(network, where)
    rows, columns = tile_weights(network, cost, Plan(Grid(2, 2), (0,)), 1)
    assert rows[1] / rows[0] == pytest.approx(3, rel=0.05)
    assert columns[0] == columns[1]
    assert tile_weights(network, Cost(network, cluster((4, 1))), Plan(Grid(2, 2), (0,)), 1) == (
        None,
        None,
    )
    # A row of both kinds goes as fast as its slower one, unless columns can tell them apart.
    rows, columns = tile_weights(network, cost, Plan(Grid(1, 4), (0,)), 1)
    assert rows == (1.0,) and columns[2] / columns[0] == pytest.approx(3, rel=0.05)


def test_weights_make_mixed_clusters_faster():
    network, where = small(), cluster((2, 1), (2, 4), between=(1e-7, 1e10))
    chosen = Planner(Request(network, where, 4, Demand(4))).best()
    even = Request(
        network,
        where,
        4,
        Demand(4),
        row_weights=(1.0,) * chosen.plan.grid.rows,
        column_weights=(1.0,) * chosen.plan.grid.columns,
        grid=str(chosen.plan.grid),
    )
    assert chosen.pass_seconds < 0.75 * Planner(even).best().pass_seconds


def test_fewer_ranks_than_the_cluster_has():
    where = first_ranks(cluster((4, 1), (4, 1)), 5)
    assert [device.ranks for device in where.devices] == [4, 1]
    with pytest.raises(InputError, match="9 ranks on a cluster of 8"):
        first_ranks(cluster((4, 1), (4, 1)), 9)


def test_what_is_missing_is_said_and_what_would_help():
    where = cluster((2, 1))
    free = Planner(Request(small(), where, 2, Demand(4))).best()
    limit = max(free.devices) // 2
    planner = Planner(Request(small(), where, 2, Demand(4), memory_limit=limit))
    assert planner.best() is None
    text = shortage(planner)
    assert "the ranks on d0 need at least" in text and "activations" in text
    assert "train.subdivisions = " in text and "such devices" in text
    for_sure = int(text.split("train.subdivisions = ")[1].split()[0])
    other = Request(small(), where, 2, Demand(4 // for_sure), passes=for_sure, memory_limit=limit)
    assert Planner(other).best().fits


def test_weights_that_do_not_fit_ask_for_fewer_ranks():
    weights = sum(
        3 * kinds["gradients"]
        for kinds in Planner(Request(small(), cluster((4, 1)), 4, Demand(1))).best().ranks
    )
    planner = Planner(Request(small(), cluster((4, 1)), 4, Demand(1), memory_limit=weights // 2))
    assert "whatever the tiling" in shortage(planner) or "on each device" in shortage(planner)


def test_alternatives_are_other_plans_and_no_faster_ones_fit():
    planner = Planner(Request(small(), cluster((4, 1), (4, 1)), 8, Demand(8)))
    chosen = planner.best()
    others = alternatives(planner, chosen)
    names = {other.name for other in others}
    assert {"one group", "other grid"} <= names
    assert len({other.planned.plan for other in others} | {chosen.plan}) == len(others) + 1
    own = planner.predict(chosen).step_seconds
    grids = [other.seconds for other in others if other.name == "other grid"]
    assert min(grids) >= 0.97 * own
    assert [other.seconds for other in others] == sorted(other.seconds for other in others)


@pytest.mark.parametrize("recompute", ["none", "all"])
def test_the_groups_tell_plans_apart_as_the_whole_step_does(recompute):
    """What the sum of groups leaves out of a step is the same for every grouping."""
    where = cluster((2, 1), (2, 1), between=(1e-4, 1e8))
    rest = []
    for starts in groupings(small()):
        request = Request(
            small(), where, 4, Demand(4), grid="2x2", groups=starts, recompute=recompute
        )
        planner = Planner(request)
        chosen = planner.best()
        rest.append(planner.predict(chosen).step_seconds - chosen.pass_seconds)
    assert max(rest) - min(rest) < 0.02 * chosen.pass_seconds
