"""What the planner chooses, and what it says where nothing fits."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from planner_cases import cluster, groupings

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network, read_network
from mpitile.network.shapes import resize
from mpitile.plan.clusters.generic import generic_cluster
from mpitile.plan.costs.cost import Cost
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.plan import Plan
from mpitile.plan.search.explain import alternatives
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request, first_ranks
from mpitile.plan.search.shortage import shortage
from mpitile.plan.search.tile_weights import tile_weights

CFGS = Path(__file__).parents[2] / "jobs" / "cfg"
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
    assert f" MB more than the {limit / 1e6:.3g} MB there (MB: weights " in text
    assert "train.subdivisions = " in text and "such devices" in text
    for_sure = int(text.split("train.subdivisions = ")[1].split()[0])
    other = Request(small(), where, 2, Demand(4 // for_sure), passes=for_sure, memory_limit=limit)
    assert Planner(other).best().fits


def test_weights_that_do_not_fit_ask_for_fewer_ranks():
    """Gradients exist once a rank: with large filters they are what a device has no room for."""
    text = "[net]\nheight=8\nwidth=8\nchannels=64\n"
    text += "[convolutional]\nfilters=512\nsize=3\npad=1\nactivation=leaky\n"
    where = cluster((4, 1))
    request = Request(parse_network(text, "net"), where, 4, Demand(1), filters="none")
    (four,) = Planner(request).best().devices
    (one,) = Planner(replace(request, ranks=1)).best().devices
    said = shortage(Planner(replace(request, memory_limit=(one + four) // 2)))
    ranks = int(re.search(r"with (\d) rank\(s\) on each device", said)[1])
    fewer = replace(request, ranks=ranks, memory_limit=(one + four) // 2)
    assert 1 <= ranks < 4 and Planner(fewer).best().fits
    hopeless = shortage(Planner(replace(request, memory_limit=one // 10)))
    assert hopeless.endswith("whatever the tiling")


def test_alternatives_are_other_plans_and_no_faster_ones_fit():
    planner = Planner(Request(small(), cluster((4, 1), (4, 1)), 8, Demand(8)))
    chosen = planner.best()
    others = alternatives(planner, chosen)
    names = {other.name for other in others}
    assert {"one group", "other grid"} <= names
    assert len({other.planned.plan for other in others} | {chosen.plan}) == len(others) + 1
    own = planner.predict(chosen.plan).step_seconds
    grids = [other.seconds for other in others if other.name == "other grid"]
    assert min(grids) >= 0.97 * own
    assert [other.seconds for other in others] == sorted(other.seconds for other in others)


def test_other_groups_on_the_same_grid_are_no_other_grid():
    """Sums beside the passes may favour other groups than the sum of these does."""
    planner = Planner(Request(small(), cluster((4, 1), (4, 1)), 8, Demand(8)))
    best = planner.layouts[0].best().plan
    chosen = planner.evaluate(replace(best, groups=(0,), filters=(), recompute=()), lambda: 1.0)
    found = {other.planned.plan: other.name for other in alternatives(planner, chosen)}
    assert found[best] == "other groups"
    others = [plan for plan, name in found.items() if name == "other grid"]
    assert others and all(plan.grid != best.grid for plan in others)


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
        rest.append(planner.predict(chosen.plan).step_seconds - chosen.pass_seconds)
    assert max(rest) - min(rest) < 0.02 * chosen.pass_seconds


@pytest.mark.parametrize("more", [0, 500, 10200])
def test_what_only_just_fits_is_found(more):
    network = resize(read_network(CFGS / "yolov2-tiny.cfg"), 64, 64)
    request = Request(network, cluster(*[(1, 1)] * 4), 4, Demand(1))
    leanest = min(max(layout.leanest().devices) for layout in Planner(request).layouts)
    found = Planner(replace(request, memory_limit=leanest + more)).best()
    assert found is not None
    assert found.fits
    assert found.pass_seconds > 0
