"""Pictures of plans: files that can be read, and numbers in them that come from the plan."""

import re
from xml.etree import ElementTree

import pytest
from planner_cases import cluster

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.costs.cost import Cost
from mpitile.plan.filters import split_at_switches
from mpitile.plan.memory.bytes import KINDS, Demand
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.report.figures import render
from mpitile.report.memory_picture import MemoryView, memory_picture
from mpitile.report.plan_pictures import (
    check_target,
    plan_pictures,
    step_pictures,
    tilings_picture,
    write_plan_pictures,
)
from mpitile.report.step_pictures import chosen_ranks, group_picture, seconds_text
from mpitile.report.step_view import group_view

CONVOLUTION = "[convolutional]\nfilters={}\nsize=3\npad=1\nactivation=leaky\n"
POOL = "[maxpool]\nsize=2\nstride=2\n"
NET = "[net]\nheight=24\nwidth=24\nchannels=2\n" + POOL.join(map(CONVOLUTION.format, (4, 5, 6)))
SVG = "{http://www.w3.org/2000/svg}"


def network(text=NET):
    return parse_network(text, "net")


def ids(content):
    root = ElementTree.fromstring(content)
    assert root.tag == SVG + "svg"
    return {element.get("id") for element in root.iter() if element.get("id")}


def texts(content):
    root = ElementTree.fromstring(content)
    return [element.text or "" for element in root.iter(SVG + "text")]


def drawn(picture):
    figure = Figure(figsize=picture.size)
    picture.draw(figure)
    return figure


def tiling(plan, layers=(), net=None):
    places = [rank // 2 for rank in range(plan.ranks)]
    return tilings_picture(Partition(net or network(), plan), places, layers)


def test_a_tiling_has_a_row_a_layer_and_names_every_rank():
    content = render([tiling(Plan(Grid(2, 3), (0, 2)), (0, 3))], "svg")
    assert {"layer-0", "layer-3", "tensor-0", "tensor-1", "tensor-2", "tensor-4"} <= ids(content)
    assert "border" in ids(content) and "shared-cells" in ids(content)
    found = texts(content)
    assert all(found.count(str(rank)) >= 4 for rank in range(6))
    assert any("owns 6x4 cells, fetches 9x10 (+275%)" in text for text in found)
    assert any(re.search("output of layer 3, maxpool 2x2/2: 6x6x5", text) for text in found)


@pytest.mark.parametrize(("block", "lines"), [((1, 1), (4, 18)), ((2, 2), (8, 6))])
def test_lines_run_between_devices(block, lines):
    """Of four tiles each, one after the other in rows of six, or in blocks of 2x2."""
    grid = Grid(4, 6, block)
    partition = Partition(network(NET.replace("24", "48")), Plan(grid, (0, 2)))
    places = [tile // 4 for tile in range(grid.tiles)]
    axis, _ = drawn(tilings_picture(partition, places, (0,))).axes
    drawn_at = {
        tuple(map(tuple, line.get_xydata())) for line in axis.lines if line.get_gid() == "border"
    }
    owned = [partition.tiling.owned(0, tile) for tile in range(grid.tiles)]
    upright = {
        ((a.x1, a.y0), (a.x1, a.y1))
        for a, here in zip(owned, places, strict=True)
        for b, there in zip(owned, places, strict=True)
        if here != there and (a.x1, a.y0) == (b.x0, b.y0)
    }
    level = {
        ((a.x0, a.y1), (a.x1, a.y1))
        for a, here in zip(owned, places, strict=True)
        for b, there in zip(owned, places, strict=True)
        if here != there and (a.x0, a.y1) == (b.x0, b.y0)
    }
    assert drawn_at == upright | level
    assert (len(upright), len(level)) == lines


@pytest.mark.parametrize(
    ("grid", "size", "options"),
    [
        (Grid(1, 1), 24, {}),
        (Grid(1, 2), 24, {"replicas": 3}),
        # Ends with 2x2 cells, so that most of the tiles have none.
        (Grid(5, 5), 9, {"row_weights": (1.0, 5.0, 1.0, 1.0, 1.0)}),
        (Grid(2, 3), 24, {"filters": (4,)}),
        (Grid(2, 2), 24, {"recompute": (True, False)}),
    ],
)
def test_any_plan_can_be_drawn(grid, size, options):
    net = network(NET.replace("24", str(size)))
    groups = split_at_switches(net, (0, 2), options.get("filters", ()))
    plan = Plan(grid, groups, **options)
    machines = cluster(*[(1, 1.0)] * plan.ranks)
    pictures = step_pictures(Partition(net, plan), Cost(net, machines),
                             StepSize(2 * plan.replicas), machines)  # fmt: skip
    content = render([tiling(plan, (0, 4), net), *pictures], "svg")
    found = ids(content)
    assert {"tiling", "groups", "timeline", "layer-0", "layer-4", "doing-forward"} <= found
    assert ("recompute-0" in found) == bool(options.get("recompute"))
    assert any("filters" in text for text in texts(content)) == bool(options.get("filters"))


@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_is_drawn_as_the_run_takes_it(overlap):
    """With sums beside the passes, or behind them: over slow links they are seen."""
    machines = cluster((1, 10.0), (1, 10.0), between=(1e-4, 1e6))
    planner = Planner(Request(network(), machines, 2, Demand(4), 2, grid="1x2", overlap=overlap))
    chosen = planner.best()
    groups = next(p for p in plan_pictures(planner, chosen, (0,)) if p.name == "groups")
    partition = Partition(network(), chosen.plan)
    seconds = {
        beside: simulate(
            step_programs(partition, planner.cost, StepSize(4, 2, "sgd", beside)), machines
        ).seconds
        for beside in (False, True)
    }
    assert seconds_text(seconds[True]) != seconds_text(seconds[False])
    assert groups.title.endswith(f"a simulated step of {seconds_text(seconds[overlap])}")


def test_the_same_plan_gives_the_same_file():
    picture = tiling(Plan(Grid(2, 2), (0, 2)))
    assert render([picture], "svg") == render([picture], "svg")


def test_bars_of_groups_are_the_views_seconds():
    net, machines = network(), cluster((2, 1.0), (2, 2.0))
    partition = Partition(net, Plan(Grid(2, 2), (0, 2)))
    timeline = simulate(step_programs(partition, Cost(net, machines), StepSize(4)), machines)
    view = group_view(partition, timeline)
    upper, lower = drawn(group_picture(view)).axes
    scale = 1000 if view.seconds < 1 else 1
    bars = {bar.get_label(): [patch.get_height() for patch in bar] for bar in lower.containers}
    assert bars["halos"][:2] == pytest.approx([scale * group.halos for group in view.groups])
    assert bars["sums"][-1] == pytest.approx(scale * view.sums)
    whole = sum(sum(heights) for heights in bars.values())
    assert whole == pytest.approx(scale * timeline.seconds)
    forward = sum(patch.get_height() for patch in upper.containers[0])
    tasks = [task for group in view.groups for task in group.tasks]
    assert forward == pytest.approx(scale * sum(task.forward for task in tasks))


def memory(limits=(5e8, 4e8), measured=()):
    ranks = [{kind: (n + 1) * (k + 1) * 10**6 for k, kind in enumerate(KINDS)} for n in range(4)]
    return ranks, MemoryView(ranks, [(0, 1), (2, 3)], ["a", "b"], limits, measured)


def test_bars_of_memory_are_the_plans_bytes():
    ranks, view = memory(measured=(10**7, 2 * 10**7, 3 * 10**7, 4 * 10**7))
    devices, single = drawn(memory_picture(view, "Memory")).axes
    for bars, kind in zip(devices.containers, KINDS, strict=True):
        sums = [sum(ranks[n][kind] for n in own) / 1e6 for own in view.devices]
        assert [patch.get_height() for patch in bars] == pytest.approx(sums)
        assert bars.get_label() == kind
    for bars, kind in zip(single.containers, KINDS, strict=True):
        assert [p.get_height() for p in bars] == pytest.approx([r[kind] / 1e6 for r in ranks])
    lines = {line.get_gid(): list(line.get_ydata()) for line in devices.lines}
    assert lines["limit"] == [400, 400] and lines["measured"] == [30, 70]


def test_limits_are_drawn_said_or_left_out():
    found = {}
    for limit in (5e8, 5e10, float("inf")):
        content = render([memory_picture(memory((limit, limit))[1], "Memory")], "svg")
        found[limit] = "limit" in ids(content), any("far above" in text for text in texts(content))
    assert list(found.values()) == [(True, False), (False, True), (False, False)]


def test_of_many_ranks_some_are_drawn():
    assert chosen_ranks(24) == list(range(24))
    many = chosen_ranks(1024)
    assert len(many) == len(set(many)) <= 64 and many[0] == 0 and many[-1] == 1023


def test_a_folder_gets_files_and_a_file_gets_all(tmp_path):
    pictures = [tiling(Plan(Grid(1, 2), (0,)), (layer,)) for layer in (0, 1)]
    written = write_plan_pictures(pictures[:1], tmp_path / "new" / "folder", "Plan")
    assert [path.name for path in written] == ["tiling.svg", "tiling.png"]
    assert written[1].read_bytes().startswith(b"\x89PNG")
    heads = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!DOCTYPE html>"}
    for ending, head in heads.items():
        path = tmp_path / f"plan.{ending}"
        assert write_plan_pictures(pictures, path, "Plan") == [path]
        assert path.read_bytes().startswith(head)
    assert {"layer-0", "layer-1"} <= ids((tmp_path / "plan.svg").read_bytes())
    with pytest.raises(InputError, match=r"plan\.svg.x.tiling\.svg: cannot be written"):
        write_plan_pictures(pictures[:1], tmp_path / "plan.svg" / "x", "Plan")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt: expected a folder, or a file that ends in"):
        check_target(tmp_path / "notes.txt")
    for ending in ("gif", "JPG"):
        with pytest.raises(InputError, match=rf"x\.{ending}: expected a folder, or a file that"):
            check_target(tmp_path / f"x.{ending}")
    check_target(tmp_path / "plans of v1.5")


def test_the_legend_of_a_tiling_has_what_is_drawn():
    def legend(plan, layers, places):
        partition = Partition(network(), plan)
        found = texts(render([tilings_picture(partition, places, layers)], "svg"))
        names = ("halo or overlap of that rank", "computed by 2 ranks", "by 3 or more")
        return [name in found for name in (*names, "between devices")]

    fused, apart = Plan(Grid(2, 2), (0,)), Plan(Grid(1, 2), (0, 1, 2, 3, 4))
    assert legend(fused, (0,), (0, 0, 1, 1)) == [True, True, True, True]
    assert legend(fused, (0,), (0, 0, 0, 0)) == [True, True, True, False]
    assert legend(apart, (2,), (0, 0)) == [True, False, False, False]
    assert legend(Plan(Grid(1, 1), (0,)), (0,), (0,)) == [False, False, False, False]


def test_a_rank_that_fetches_a_whole_map_is_said_to():
    plan = Plan(Grid(2, 3), (0, 2, 4), filters=(4,))
    found = texts(render([tiling(plan, (4,))], "svg"))
    assert any(text.endswith("fetches all 6x6") for text in found)
