"""``mpitile plan --plot`` and ``mpitile report``: files that lie where they should, and errors."""

import re
from xml.etree import ElementTree

import pytest
import runs
from runs import called, mpitile, settings_of, write_run

pytest.importorskip("matplotlib")

PICTURES = {"tiling", "groups", "timeline", "memory"}


def page(path):
    head, _, body = path.read_text("utf-8").partition("\n")
    assert head == "<!DOCTYPE html>"
    return ElementTree.fromstring(body)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, shapes):
    """The output folder of a short run on two ranks, with a trace."""
    folder = tmp_path_factory.mktemp("run")
    settings = settings_of(
        shapes, folder / "out", train={"steps": 3}, output={"dir": str(folder / "out")}
    )
    settings["output"]["trace"] = True
    return runs.train(folder, settings, ranks=2)


def test_a_plan_is_drawn_into_a_folder(tmp_path):
    path = write_run(tmp_path, settings_of(tmp_path / "data", tmp_path / "out"))
    out = tmp_path / "pictures"
    result = called("plan", path, "--ranks", 4, "--plot", out, "--layer", 2, "--layer", 0)
    assert result.code == 0, result
    assert {p.name for p in out.iterdir()} == {
        f"{name}.{form}" for name in PICTURES for form in ("svg", "png")
    }
    assert all(str(path) in result.out for path in out.iterdir())
    text = (out / "tiling.svg").read_text("utf-8")
    assert re.findall(r'id="layer-(\d+)"', text) == ["2", "0"]


def test_a_plan_is_drawn_into_one_page(tmp_path):
    path = write_run(tmp_path, settings_of(tmp_path / "data", tmp_path / "out"))
    out = tmp_path / "plan.html"
    assert called("plan", path, "--ranks", 2, "--plot", out, "--json").code == 0
    assert len(list(page(out).iter("img"))) == len(PICTURES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "out", "--layer", "99"], "--layer 99: expected a number from 0 to "),
        (["--layer", "1"], "--layer 1: expected --plot OUT_DIR with it"),
        (["--plot", "run.toml"], "--plot run.toml: expected a folder, or a file that ends in"),
        (["--plot", "run.toml/x"], "cannot be written"),
    ],
)
def test_errors_of_plots_name_what_is_wrong(tmp_path, arguments, message):
    write_run(tmp_path, settings_of(tmp_path / "data", tmp_path / "out"))
    result = called("plan", "run.toml", "--ranks", 2, *arguments, cwd=tmp_path)
    assert result.code == 2 and result.out == "", result
    assert len(result.complaints) == 1 and message in result.complaints[0]


def test_a_run_is_reported(run_folder):
    result = runs.without_mpi("report", run_folder)
    assert result.code == 0, result
    assert result.out == f"{run_folder / 'report.html'}\n"
    tree = page(run_folder / "report.html")
    found = [heading.text for heading in tree.iter("h2")]
    assert found == ["Learning", "Time", "A step as it was", "Memory", "The plan"]
    assert (run_folder / "report" / "tiling.png").exists()
    assert "Finished after 3 steps." in tree.find("body/p").text
    measured = (run_folder / "report" / "memory.svg").read_text("utf-8")
    assert 'id="measured"' in measured


def test_a_new_run_sets_an_earlier_ones_report_aside(tmp_path, shapes):
    out = tmp_path / "out"
    (out / "report").mkdir(parents=True)
    for name in ("report.html", "a.detected.png", "report/loss.svg"):
        (out / name).touch()
    runs.train(tmp_path, settings_of(shapes, out, train={"steps": 1}))
    left = {path.relative_to(out / "earlier-1").as_posix() for path in out.rglob("earlier-1/**/*")}
    assert left == {"report.html", "a.detected.png", "report", "report/loss.svg"}
    assert not (out / "report.html").exists() and (out / "network.cfg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: expected a run folder, got no folder"),
        (["."], ".: expected a run folder, but there is no run.toml in it"),
        ([".", "--out", "page.pdf"], "--out page.pdf: expected a file that ends in .html"),
    ],
)
def test_errors_of_reports_name_what_is_wrong(tmp_path, arguments, message):
    result = called("report", *arguments, cwd=tmp_path)
    assert result.code == 2 and result.out == "", result
    assert result.complaints == [f"mpitile: {message}"]


def test_without_matplotlib_one_line_says_so(tmp_path):
    """Also that nothing else needs it."""
    folder = tmp_path / "hidden" / "matplotlib"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('hidden')\n")
    path = write_run(tmp_path, settings_of(tmp_path / "data", tmp_path / "out"))
    hidden = {"PYTHONPATH": f"{folder.parent}:{runs.DRAW.parents[1]}"}
    for arguments in (["plan", path, "--ranks", 2, "--plot", tmp_path / "x"], ["report", tmp_path]):
        result = mpitile(*arguments, env=hidden)
        assert result.code == 2 and result.out == "", result
        assert len(result.err.splitlines()) == 1
        assert "pictures need matplotlib: pip install 'mpitile[plot]'" in result.err
    assert mpitile("plan", path, "--ranks", 2, env=hidden).code == 0
