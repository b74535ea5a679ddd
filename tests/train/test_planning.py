"""Plans that are kept in run folders, and go on being what was chosen."""

import json

import pytest
from planner_cases import cluster

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.plan import Plan
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request
from mpitile.train.planning import earlier_plan, plan_keys, read_plan, settle

CFG = """
[net]
height=16
width=16
channels=3
[convolutional]
filters=4
size=3
pad=1
[maxpool]
size=2
stride=2
[convolutional]
filters=8
size=1
"""
PLANS = [
    Plan(Grid(2, 2), (0,)),
    Plan(Grid(2, 2), (0, 2), recompute=(True, False)),
    Plan(Grid(1, 4), (0, 2), column_weights=(1.0, 2.0, 1.0, 1.0), filters=(0, 1)),
    Plan(Grid(1, 2), (0, 1, 2), 2, filters=(0, 2)),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_is_read_as_it_was_kept(plan, tmp_path):
    assert read_plan(json.loads(json.dumps(plan_keys(plan)))) == plan
    (tmp_path / "plan.json").write_text(json.dumps(plan_keys(plan)))
    assert earlier_plan(tmp_path, 4) == plan
    assert earlier_plan(tmp_path, 3) is None


@pytest.mark.parametrize("plan", PLANS)
def test_what_was_left_open_goes_on_as_it_was_chosen(plan):
    network = parse_network(CFG, "small.cfg")
    request = Request(network, cluster((4, 1)), 4, Demand(2), replicas="auto")
    assert Planner(settle(request, plan)).best().plan == plan
    assert settle(request, plan).filters == (plan.filters or "none")
