"""The files that rank 0 writes while it trains."""

import json
import math

import pytest
from full_disk import fill_disk, needs_full_disk

from mpitile.errors import InputError
from mpitile.train.run_folder import (
    COLUMNS,
    RunFolder,
    StepMetrics,
    earlier_folder,
    set_aside,
)


def metrics(step, loss=1.5):
    return StepMetrics(step, loss, 0.001, 10.0, 0.4, 0.3, 0.05, 0.04, 120.0, 0.01, 2.5)


def open_folder(path, step=0):
    return RunFolder(path, step, "[train]\nseed = 1\n", {"grid": "2x2", "ranks": []})


def rows(path):
    return (path / "metrics.csv").read_text().splitlines()


def test_a_new_folder_has_all_files(tmp_path):
    path = tmp_path / "runs" / "new"
    folder = open_folder(path)
    assert rows(path) == [",".join(COLUMNS)]
    folder.add_metrics(metrics(1, 1 / 3))
    folder.add_event("checkpoint", step=1)
    # Both are there before the folder is closed: a run may be killed.
    assert rows(path)[1].split(",")[:3] == ["1", repr(1 / 3), "0.001"]
    assert json.loads((path / "events.jsonl").read_text())["event"] == "checkpoint"
    folder.close()
    assert (path / "run.toml").read_text() == "[train]\nseed = 1\n"
    assert json.loads((path / "plan.json").read_text()) == {"grid": "2x2", "ranks": []}


def test_columns_begin_as_users_were_told():
    assert ",".join(COLUMNS).startswith(
        "step,loss,learning_rate,images_per_s,seconds,compute_s,halo_s,reduce_s,peak_rss_mb"
    )


def test_rows_of_steps_to_be_done_again_are_dropped(tmp_path):
    folder = open_folder(tmp_path)
    for step in range(1, 13):
        folder.add_metrics(metrics(step))
    folder.close()
    before = rows(tmp_path)
    resumed = open_folder(tmp_path, step=9)
    assert rows(tmp_path) == before[:10]
    resumed.add_metrics(metrics(10, 7.0))
    resumed.close()
    assert rows(tmp_path)[:10] == before[:10]
    assert rows(tmp_path)[10].startswith("10,7.0,")


def test_half_a_row_is_dropped(tmp_path):
    folder = open_folder(tmp_path)
    for step in (1, 2):
        folder.add_metrics(metrics(step))
    folder.close()
    path = tmp_path / "metrics.csv"
    before = rows(tmp_path)
    path.write_text(path.read_text() + "3,1.5,0.001")
    open_folder(tmp_path, step=5).close()
    assert rows(tmp_path) == before
    assert path.read_text().endswith("\n")


def test_a_run_from_the_start_has_no_old_rows(tmp_path):
    folder = open_folder(tmp_path)
    folder.add_metrics(metrics(1))
    folder.close()
    open_folder(tmp_path, step=0).close()
    assert rows(tmp_path) == [",".join(COLUMNS)]


def test_events_are_appended(tmp_path):
    for step in (0, 4):
        folder = open_folder(tmp_path, step)
        folder.add_event("start", step=step)
        folder.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 4]


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def test_events_are_json_whatever_the_numbers(tmp_path):
    folder = open_folder(tmp_path)
    folder.add_event(
        "validation",
        step=3,
        text='a "quoted"\nline',
        mean_ap=math.nan,
        ap50=(0.5, math.nan, math.inf),
        classes={"disc": [-math.inf, 1.0]},
    )
    folder.close()
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    event = json.loads(line, parse_constant=refuse)
    assert event["mean_ap"] is None and event["ap50"] == [0.5, None, None]
    assert event["classes"] == {"disc": [None, 1.0]}
    assert event["text"] == 'a "quoted"\nline' and event["time"] > 1e9


@needs_full_disk
@pytest.mark.parametrize("name", ["metrics.csv", "events.jsonl"])
def test_what_cannot_be_written_is_kept_for_all_ranks(tmp_path, name):
    folder = open_folder(tmp_path)
    folder.add_metrics(metrics(1))
    folder.add_event("checkpoint", step=1)
    assert folder.failure is None
    fill_disk(folder, name)
    for step in (2, 3):
        folder.add_metrics(metrics(step))
        folder.add_event("checkpoint", step=step)
    folder.close()
    said = f"output.dir {tmp_path}: {name} cannot be written: No space left on device"
    assert isinstance(folder.failure, InputError) and str(folder.failure) == said
    other = "events.jsonl" if name == "metrics.csv" else "metrics.csv"
    assert len((tmp_path / other).read_text().splitlines()) >= 3


def test_an_earlier_runs_files_are_set_aside(tmp_path):
    assert earlier_folder(tmp_path / "none") is None
    assert earlier_folder(tmp_path) is None
    for number in (1, 2):
        folder = open_folder(tmp_path)
        folder.add_metrics(metrics(number))
        folder.close()
        (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
        (tmp_path / "best.weights").write_text(str(number))
        (tmp_path / "notes.txt").write_text("mine")
        target = earlier_folder(tmp_path)
        assert target == tmp_path / f"earlier-{number}"
        set_aside(tmp_path, target)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"notes.txt", "run.toml"}
    for number in (1, 2):
        kept = tmp_path / f"earlier-{number}"
        assert (kept / "best.weights").read_text() == str(number)
        assert rows(kept)[1].startswith(f"{number},")
        assert (kept / "checkpoints" / "step-000001").is_dir()


def test_one_checkpoint_is_enough_for_an_earlier_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert earlier_folder(tmp_path) == tmp_path / "earlier-1"


def test_several_ranks_may_set_the_same_files_aside(tmp_path):
    open_folder(tmp_path).close()
    target = earlier_folder(tmp_path)
    set_aside(tmp_path, target)
    set_aside(tmp_path, target)
    set_aside(tmp_path, None)
    assert (target / "metrics.csv").exists() and not (tmp_path / "metrics.csv").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output\.dir .*file.*cannot be written"):
        open_folder(tmp_path / "file")
    with pytest.raises(InputError, match=r"output\.dir .*cannot be written"):
        set_aside(tmp_path / "file", tmp_path / "file" / "earlier-1")


def test_files_that_a_run_is_started_from_stay_and_are_copied(tmp_path):
    """With output.dir = "." they may be the very files that the run writes."""
    for name in ("run.toml", "network.cfg"):
        (tmp_path / name).write_text("# By hand.\n")
    earlier = earlier_folder(tmp_path)
    set_aside(tmp_path, earlier)
    assert (tmp_path / "network.cfg").read_text() == "# By hand.\n"
    open_folder(tmp_path).close()
    assert (earlier / "run.toml").read_text() == "# By hand.\n"
    assert (earlier / "network.cfg").read_text() == "# By hand.\n"
