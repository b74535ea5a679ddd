"""Runs that are killed or told to stop, and go on as if nothing had happened."""

import shutil
import signal
import sys
import time

import pytest
import runs
from launch import Job

STEPS = 60
EVERY = 7


def settings_of(data, output):
    return runs.settings_of(
        data, output, train={"steps": STEPS}, checkpoint={"every": EVERY, "keep": 1}
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, shapes):
    """``final.weights`` and the losses of the whole run, by its number of ranks."""
    whole = {}
    for ranks in (1, 3):
        folder = tmp_path_factory.mktemp("uninterrupted")
        output = runs.train(folder, settings_of(shapes, folder / "out"), ranks=ranks)
        whole[ranks] = (output / "final.weights").read_bytes(), runs.losses(output)
    return whole


def begin(path, ranks):
    return Job([sys.executable, "-m", "mpitile", "train", path], ranks)


def wait_until(job, condition):
    deadline = time.monotonic() + 90
    while not condition():
        assert job.running, job.result
        assert time.monotonic() < deadline, f"nothing happens: {job.result}"
        time.sleep(0.002)


def steps_done(output):
    path = output / "metrics.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def check_resumed(path, output, ranks, uninterrupted):
    weights, losses = uninterrupted[ranks]
    result = runs.mpitile("train", path, "--resume", ranks=ranks)
    assert result.code == 0, result
    assert result.err.count("resumed after step ") == 1
    assert (output / "final.weights").read_bytes() == weights
    rows = runs.read_metrics(output)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["loss"] for row in rows] == losses
    assert [path.name for path in (output / "checkpoints").iterdir()] == [f"step-{STEPS:06d}"]


@pytest.mark.parametrize("ranks", [1, 3])
def test_killed_and_resumed(tmp_path, shapes, uninterrupted, ranks):
    output = tmp_path / "out"
    path = runs.write_run(tmp_path, settings_of(shapes, output))
    with begin(path, ranks) as job:
        wait_until(job, lambda: any(output.glob("checkpoints/step-*/manifest.json")))
        saved = steps_done(output)
        wait_until(job, lambda: steps_done(output) > saved + 1)
        job.kill()
    assert not (output / "final.weights").exists()
    # What a cut in the middle of writing may leave: half a row, and shards without manifest.
    with open(output / "metrics.csv", "a") as file:
        file.write(f"{STEPS - 1},0.5")
    torn = output / "checkpoints" / f"step-{STEPS - 1:06d}"
    torn.mkdir()
    (torn / "shard-00000.h5").write_bytes(b"half")
    check_resumed(path, output, ranks, uninterrupted)


@pytest.mark.parametrize(
    "ranks, target, number",
    [
        (None, None, signal.SIGTERM),
        (None, None, signal.SIGINT),
        (3, 1, signal.SIGTERM),
        (3, 0, signal.SIGUSR1),
    ],
    ids=["alone-term", "alone-int", "rank-1-term", "rank-0-usr1"],
)
def test_stopped_by_a_signal_and_resumed(tmp_path, shapes, uninterrupted, ranks, target, number):
    output = tmp_path / "out"
    path = runs.write_run(tmp_path, settings_of(shapes, output))
    with begin(path, ranks) as job:
        wait_until(job, lambda: steps_done(output) >= 10)
        job.signal(number, target)
        result = job.wait(60)
    assert result.code == 3, result
    done = steps_done(output)
    assert result.complaints == [
        f"mpitile: stopped by a signal after step {done} of {STEPS}, which is saved; "
        "--resume continues"
    ]
    assert 10 <= done < STEPS
    assert (output / "checkpoints" / f"step-{done:06d}" / "manifest.json").exists()
    assert not (output / "final.weights").exists()
    check_resumed(path, output, ranks or 1, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_to_mpirun(tmp_path, shapes, uninterrupted, number):
    """What mpirun makes of it differs, and how long it waits; the run can always go on."""
    output = tmp_path / "out"
    path = runs.write_run(tmp_path, settings_of(shapes, output))
    with begin(path, 3) as job:
        wait_until(job, lambda: steps_done(output) >= 10)
        job.signal(number)
        result = job.wait(60)
    assert result.code != 0, result
    check_resumed(path, output, 3, uninterrupted)


def test_a_rank_that_dies_ends_all_and_they_go_on(tmp_path, shapes, uninterrupted):
    """The others wait for it in memory that they shared with it."""
    output = tmp_path / "out"
    path = runs.write_run(tmp_path, settings_of(shapes, output))
    with begin(path, 3) as job:
        wait_until(job, lambda: steps_done(output) >= 10)
        job.signal(signal.SIGKILL, rank=1)
        result = job.wait(60)
    assert result.code != 0, result
    check_resumed(path, output, 3, uninterrupted)


@pytest.mark.parametrize("ranks, per_device", [(1, "auto"), (3, 2)])
def test_other_ranks_and_devices_go_on(tmp_path, begun, ranks, per_device):
    settings, whole = begun
    output = shutil.copytree(settings["output"]["dir"], tmp_path / "out")
    path = runs.write_run(tmp_path, settings)
    others = f"output.dir={output}", "train.steps=6", f"tiling.ranks_per_device={per_device}"
    arguments = ["--resume", *(part for other in others for part in ("--set", other))]
    result = runs.mpitile("train", path, *arguments, ranks=ranks)
    assert result.code == 0, result
    assert "which another plan or other devices wrote" in result.err
    assert runs.losses(output) == pytest.approx(runs.losses(whole), rel=1e-11)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, shapes):
    """Two ranks' settings of a run with a checkpoint after 3 steps; the output of 6 steps."""
    folder = tmp_path_factory.mktemp("begun")
    train = {"steps": 3, "dtype": "float64"}
    settings = runs.settings_of(shapes, folder / "out", train=train, checkpoint={"every": 3})
    other = runs.settings_of(shapes, folder / "other", train=train | {"steps": 6})
    paths = (
        runs.write_run(folder, settings),
        runs.write_run(folder / "whole", other),
    )
    for result in runs.in_a_row([(folder, ["train", path]) for path in paths], ranks=2):
        assert result.code == 0, result
    return settings, folder / "other"


def test_lost_shards_come_back_from_copies_on_other_devices(tmp_path, shapes):
    """Four ranks on two devices: all of one device's files are gone."""
    settings = runs.settings_of(
        shapes,
        tmp_path / "out",
        train={"steps": 6},
        tiling={"ranks_per_device": 2},
        checkpoint={"every": 3, "partner": True},
    )
    path = runs.write_run(tmp_path, settings)
    whole = runs.mpitile("train", path, ranks=4)
    assert whole.code == 0, whole
    expected = (tmp_path / "out" / "final.weights").read_bytes()
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-000006")
    (tmp_path / "out" / "final.weights").unlink()
    saved = tmp_path / "out" / "checkpoints" / "step-000003"
    # Ranks 0 and 1, and the copies that they kept.
    for kind, number in ("shard", 0), ("shard", 1), ("copy", 2), ("copy", 3):
        (saved / f"{kind}-{number:05d}.h5").unlink()
    result = runs.mpitile("train", path, "--resume", ranks=4)
    assert result.code == 0, result
    assert "with shard-00000.h5, shard-00001.h5 from copies on other devices" in result.err
    assert (tmp_path / "out" / "final.weights").read_bytes() == expected


def test_resume_without_checkpoint_of_what_is_finished_and_with_more_steps(tmp_path, shapes):
    settings = runs.settings_of(shapes, tmp_path / "out", checkpoint={"every": 6})
    path = runs.write_run(tmp_path, settings)
    other = runs.settings_of(shapes, tmp_path / "other", train={"steps": 9})
    whole = runs.write_run(tmp_path / "whole", other)
    calls = [["train", path, "--resume"], ["train", whole]]
    anew, longer = runs.in_a_row([(tmp_path, call) for call in calls], ranks=2)
    assert (anew.code, longer.code) == (0, 0), anew
    assert "no checkpoint in " in anew.err

    files = [tmp_path / "out" / name for name in ("final.weights", "metrics.csv")]
    before = [file.read_bytes() for file in files]
    result = runs.mpitile("train", path, "--resume", ranks=2)
    assert result.code == 0, result
    assert [file.read_bytes() for file in files] == before

    result = runs.mpitile("train", path, "--resume", "--set", "train.steps=9", ranks=2)
    assert result.code == 0, result
    expected = (tmp_path / "other" / "final.weights").read_bytes()
    assert files[0].read_bytes() == expected
    assert runs.losses(tmp_path / "out") == runs.losses(tmp_path / "other")
