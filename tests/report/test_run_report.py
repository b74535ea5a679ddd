"""The report of a run folder: one page that holds all it shows, whatever state the run is in."""

import base64
import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from runs import DETECTOR

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from mpitile.errors import InputError
from mpitile.plan.simulation.intervals import COMPUTE, HALO, Interval
from mpitile.report.run_files import read_events, read_metrics, read_run, read_trace
from mpitile.report.run_pictures import block_means, loss_picture, running_mean, time_picture
from mpitile.report.run_report import facts, state, write_report
from mpitile.report.trace import write_trace

HEADER = (
    "step,loss,learning_rate,images_per_s,seconds,compute_s,halo_s,reduce_s,peak_rss_mb,"
    "load_s,sent_mb"
)
RUN = """
[network]
cfg = "elsewhere/net.cfg"
[data]
format = "yolo"
root = "nowhere"
[train]
steps = 40
batch = 4
[tiling]
memory_limit = "100MB"
[output]
dir = "out"
"""
START = {"event": "start", "step": 0, "text": "2 ranks"}
STOPPED = {"event": "stopped", "step": 20}
DONE = {"event": "done", "step": 40, "text": "trained"}
SCORES = [
    {"event": "validation", "step": 20, "mean_ap50": 0.25, "mean_ap": 0.125, "images": 4},
    {"event": "validation", "step": 30, "mean_ap50": None, "mean_ap": None, "images": 0},
    {"event": "validation", "step": 40, "mean_ap50": 0.75, "mean_ap": 0.5, "images": 4},
]
PEAK = {"event": "peak", "predicted_bytes": [5000000] * 2, "grown_bytes": [6000000, 7000000],
        "devices": [[0, 1]]}  # fmt: skip


def row(step):
    return f"{step},{100 / step},0.001,8,0.5,0.25,0.125,0.0625,100,0.03,{step % 3}"


def write(folder, steps=40, events=(START, *SCORES, PEAK, DONE), plan=True):
    """A run folder of that many steps."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").write_text(RUN)
    rows = [HEADER, *map(row, range(1, steps + 1))]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if plan:
        kinds = {"weights": 10**6, "activations": 4 * 10**6}
        ranks = [{"rank": n, "host": "pi", "device": 0, "bytes": kinds} for n in range(2)]
        plan = {"grid": "1x2", "replicas": 1, "groups": [0, 4], "recompute": [False, True],
                "step_seconds": 0.4, "ranks": ranks}  # fmt: skip
        (folder / "plan.json").write_text(json.dumps(plan))
        (folder / "network.cfg").write_text(DETECTOR)
    return folder


def page_of(folder):
    """The page's tree, with all that it embeds by kind; nothing may lie elsewhere."""
    write_report(folder, folder / "report.html")
    text = (folder / "report.html").read_text("utf-8")
    head, _, body = text.partition("\n")
    assert head == "<!DOCTYPE html>"
    tree = ElementTree.fromstring(body)
    assert not re.search(
        r"https?:|//|<script|<link|url\(|@import", re.sub(r'src="[^"]*"', "", text)
    )
    pictures = []
    for image in tree.iter("img"):
        form, _, data = image.get("src").partition(";base64,")
        assert form in ("data:image/svg+xml", "data:image/png") and image.get("alt")
        pictures.append((form, base64.b64decode(data, validate=True)))
    return tree, pictures


def names(folder):
    return sorted(path.name for path in (folder / "report").iterdir())


def headings(tree):
    return [heading.text for heading in tree.iter("h2")]


def test_a_finished_run(tmp_path):
    folder = write(tmp_path / "out")
    Image.new("RGB", (1400, 700), "red").save(folder / "photo.detected.png")
    write(folder / "earlier-1", steps=3)
    tree, pictures = page_of(folder)
    assert headings(tree) == ["Learning", "Time", "Memory", "The plan", "Detections"]
    expected = ("groups", "loss", "memory", "speed", "tiling", "time", "timeline", "validation")
    assert names(folder) == sorted(f"{n}.{form}" for n in expected for form in ("png", "svg"))
    inside = [content for form, content in pictures if form == "data:image/svg+xml"]
    files = [(folder / "report" / f"{name}.svg").read_bytes() for name in expected]
    assert sorted(inside) == sorted(files)
    assert [form for form, _ in pictures].count("data:image/png") == 1
    table = {tr.find("th").text: tr.find("td").text for tr in tree.iter("tr")}
    assert table["best mAP@0.5"] == "0.75"
    assert table["ranks"] == "2 on 1 device(s)"
    assert table["images per second"] == "8 (median)"
    assert table["a step takes"].startswith("500 ms")
    assert table["memory measured"] == "processes grew by 7.0 MB at most, 13.0 MB in all"
    assert table["earlier-1"] == "an earlier run, 3 steps"
    assert tree.find("body/p").text == "Finished after 40 steps."


def test_a_run_without_any_step(tmp_path):
    for content in ("", HEADER, HEADER + "\n"):
        folder = write(tmp_path / f"out{len(content)}", 0, [START], plan=False)
        (folder / "metrics.csv").write_text(content)
        tree, _ = page_of(folder)
        assert headings(tree) == ["Learning", "The plan"]
        assert not (folder / "report").exists()
        assert "Not finished: step 0 of 40" in state(read_run(folder))


def test_a_run_that_broke_off_in_the_middle_of_a_line(tmp_path):
    folder = write(tmp_path / "out", 5, [START], plan=False)
    with (folder / "metrics.csv").open("a") as file:
        file.write("6,16.6")
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "valid')
    run = read_run(folder)
    assert run.metrics["step"] == (1, 2, 3, 4, 5) and len(run.events) == 1
    assert state(run) == "Not finished: step 5 of 40. It runs still, or has been broken off."
    page_of(folder)


@pytest.mark.parametrize("steps", [1, 700])
def test_runs_of_any_length(tmp_path, steps):
    folder = write(tmp_path / "out", steps, [START], plan=False)
    tree, _ = page_of(folder)
    assert headings(tree) == ["Learning", "Time", "The plan"]


def test_a_run_that_was_taken_up_again_and_stopped(tmp_path):
    again = {"event": "start", "step": 10, "text": "resumed"}
    folder = write(tmp_path / "out", 20, [START, again, STOPPED], plan=False)
    page_of(folder)
    assert b'id="resumed"' in (folder / "report" / "loss.svg").read_bytes()
    assert state(read_run(folder)).startswith("Stopped by a signal after step 20 of 40")
    write(folder, 20, [START, DONE, again])
    assert state(read_run(folder)).startswith("Not finished")


def test_a_run_whose_loss_is_no_number(tmp_path):
    folder = write(tmp_path / "out", 3, [START], plan=False)
    broken = row(4).replace("25.0", "nan"), row(5).replace("20.0", "inf")
    with (folder / "metrics.csv").open("a") as file:
        file.write("\n".join(broken) + "\n")
    tree, _ = page_of(folder)
    assert any("2 step(s) without a finite loss" in image.get("alt") for image in tree.iter("img"))


def test_older_columns_will_do(tmp_path):
    folder = write(tmp_path / "out", 0, [START], plan=False)
    (folder / "metrics.csv").write_text("step,loss\n1,5.0\n2,4.0\n")
    page_of(folder)
    assert "loss.svg" in names(folder) and "time.svg" not in names(folder)
    assert ("loss", "5 at first, 4.5 over the last 2 steps") in facts(read_run(folder))


def test_what_is_foreign_is_escaped(tmp_path):
    folder = write(tmp_path / "<b> & 'co'", 0, [START], plan=False)
    (folder / "run.toml").write_text(RUN.replace("elsewhere", "<i>&"))
    tree, _ = page_of(folder)
    assert tree.find("head/title").text == "Run <b> & 'co'"
    assert tree.find("body/table/tr/td").text == "<i>&/net.cfg"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.toml", None, "expected a run folder, but there is no run.toml"),
        ("run.toml", "[network", "run.toml: not a TOML file"),
        ("metrics.csv", "step,los\n1,2\n", r"metrics.csv:1: expected a column 'loss'"),
        ("metrics.csv", "step,loss\n1,2\n2,x\n", r"metrics.csv:3: expected numbers"),
        ("metrics.csv", "step,loss\n1,2\n2\n", r"metrics.csv:3: expected 2 numbers, got 1"),
        ("events.jsonl", "{}\n", r"events.jsonl:1: expected a JSON object with an 'event'"),
        ("events.jsonl", "x\n", r"events.jsonl:1: expected a JSON object"),
        ("plan.json", "{}", r"plan.json: expected a plan"),
        ("plan.json", "[]", r"plan.json: expected a plan"),
        (
            "plan.json",
            '{"grid": "1x1", "replicas": 1, "groups": [0], "recompute": [false], "ranks": []}',
            r"plan.json: expected a plan .*0 ranks of a plan for 1",
        ),
        (
            "plan.json",
            '{"grid": "1x1", "replicas": 1, "groups": [0, 99], "recompute": [false, false], '
            '"ranks": [{"bytes": {}}]}',
            r"plan.json: groups \[0, 99\] do not cover the network",
        ),
        ("network.cfg", "[net]\nheight=x\n", r"network.cfg:2"),
        ("trace.json", "[]", r"trace.json: expected a trace"),
        ("a.detected.png", "no picture", r"a.detected.png: expected a picture"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    folder = write(tmp_path / "out", 3)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        write_report(folder, folder / "report.html")
    assert len(str(caught.value).splitlines()) == 1
    assert not (folder / "report.html").exists()


def test_what_is_no_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="none: expected a run folder, got no folder"):
        write_report(tmp_path / "none", tmp_path / "page.html")


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    folder = write(tmp_path / "out", 1, [START], plan=False)
    (folder / "page").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_report(folder, folder / "page.html")


def test_curves_are_the_columns():
    metrics = read_columns(40)
    figure = Figure()
    loss_picture(metrics, [10]).draw(figure)
    lines = {line.get_gid(): line for line in figure.axes[0].lines}
    assert list(lines["loss"].get_ydata()) == [100 / step for step in range(1, 41)]
    assert set(lines["resumed"].get_xdata()) == {10.5}
    # From 100 to 2.5.
    assert figure.axes[0].get_yscale() == "log"
    figure = Figure()
    time_picture(metrics).draw(figure)
    (axis,) = figure.axes
    areas = {area.get_gid(): area.get_paths()[0].get_extents() for area in axis.collections}
    heights = {name: (round(area.y0, 6), round(area.y1, 6)) for name, area in areas.items()}
    assert heights == {
        "part-compute_s": (0, 250),
        "part-halo_s": (250, 375),
        "part-reduce_s": (375, 437.5),
        "part-load_s": (437.5, 467.5),
    }
    assert set(axis.lines[0].get_ydata()) == {500}


def read_columns(steps):
    values = zip(*([float(cell) for cell in row(n + 1).split(",")] for n in range(steps)),
                 strict=True)  # fmt: skip
    return dict(zip(HEADER.split(","), values, strict=True))


numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=700)


@given(numbers)
def test_means_of_blocks_keep_the_mean(values):
    found = block_means(values)
    size = len(values) // 150 + 1
    assert len(found) == -(-len(values) // size) <= 150
    assert found[0] == pytest.approx(sum(values[:size]) / size, abs=1e-6)
    last = values[size * (len(found) - 1) :]
    assert found[-1] == pytest.approx(sum(last) / len(last), abs=1e-6)


@given(numbers, st.integers(1, 20))
def test_a_running_mean_is_that_of_the_last_values(values, width):
    found = running_mean([*values, float("nan")], width)
    for place in range(len(values)):
        part = values[max(0, place + 1 - width) : place + 1]
        assert found[place] == pytest.approx(sum(part) / len(part), abs=1e-3)


def test_the_typical_step_of_a_trace(tmp_path):
    intervals = []
    for start, length in ((0.0, 9.0), (10.0, 3.0), (20.0, 4.0)):
        for rank in range(2):
            late = start + rank
            intervals.append(Interval(rank, late, late + 1, COMPUTE, "start"))
            intervals.append(Interval(rank, late + 1, late + length, HALO, "halos 0"))
    write_trace(tmp_path / "trace.json", ["a", "b"], intervals)
    found = read_trace(tmp_path / "trace.json")
    assert found.number == 2 and found.devices == ("a", "b")
    assert [(one.rank, one.start, one.end, one.name) for one in found.intervals] == [
        (0, 0, 1, "start"),
        (0, 1, 4, "halos 0"),
        (1, 1, 2, "start"),
        (1, 2, 5, "halos 0"),
    ]
    write_trace(tmp_path / "empty.json", ["a"], [])
    assert read_trace(tmp_path / "empty.json") is None
    assert read_trace(tmp_path / "none.json") is None
    folder = write(tmp_path / "out", 0, plan=False)
    write_trace(folder / "trace.json", ["a", "b"], intervals)
    tree, _ = page_of(folder)
    assert "A step as it was" in headings(tree)


def test_missing_files_are_empty(tmp_path):
    assert read_metrics(tmp_path / "no.csv") == {"step": (), "loss": ()}
    assert read_events(tmp_path / "no.jsonl") == ()
