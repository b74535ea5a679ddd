"""``mpitile train`` as a user starts it: what it leaves behind, and that ranks do not matter."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import runs
from launch import run

from mpitile.train.settings import read_settings

COLUMNS = "step,loss,learning_rate,images_per_s,seconds,compute_s,halo_s,reduce_s,peak_rss_mb"
STEPS = 6
EXACT = 1e-9


def exact_settings(data, output, /, **sections):
    """Shuffled, augmented, in double precision."""
    settings = runs.settings_of(
        data,
        output,
        train={"dtype": "float64", "steps": STEPS, "validate_every": 3},
        checkpoint={"every": 2, "keep": 2},
    )
    for name, values in sections.items():
        settings.setdefault(name, {}).update(values)
    return settings


@pytest.fixture(scope="module")
def results(tmp_path_factory, shapes):
    """The same run by its number of ranks: its folder, and what it has said."""
    found = {}
    for ranks in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"ranks-{ranks}")
        path = runs.write_run(folder, exact_settings(shapes, folder / "out"))
        result = runs.mpitile("train", path, ranks=ranks if ranks > 1 else None)
        assert result.code == 0, result
        found[ranks] = folder, result
    return found


@pytest.fixture(scope="module")
def outputs(results):
    """The output folders of these runs."""
    return {ranks: folder / "out" for ranks, (folder, _) in results.items()}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_files_of_a_run(outputs, ranks):
    output = outputs[ranks]
    names = {path.name for path in output.iterdir()}
    expected = {
        "metrics.csv",
        "events.jsonl",
        "run.toml",
        "plan.json",
        "network.cfg",
        "final.weights",
        "best.weights",
        "checkpoints",
    }
    assert names == expected
    header, *rows = (output / "metrics.csv").read_text().splitlines()
    assert header.startswith(COLUMNS)
    assert [row.split(",")[0] for row in rows] == [str(step + 1) for step in range(STEPS)]
    for row in runs.read_metrics(output):
        assert 0 < row["compute_s"] <= row["seconds"]
        assert row["images_per_s"] == pytest.approx(4 / row["seconds"], rel=1e-4)
        assert row["peak_rss_mb"] > 10
    written = read_settings(output / "run.toml")
    asked = read_settings(output.parent / "run.toml")
    assert replace(written, path=asked.path) == asked
    plan = json.loads((output / "plan.json").read_text())
    assert len(plan["ranks"]) == ranks
    assert all(rank["total_bytes"] == sum(rank["bytes"].values()) for rank in plan["ranks"])
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "done"
    (peak,) = (event for event in events if event["event"] == "peak")
    assert peak["predicted_bytes"] == [rank["total_bytes"] for rank in plan["ranks"]]
    assert len(peak["grown_bytes"]) == ranks and min(peak["grown_bytes"]) > 0
    assert kinds.count("checkpoint") == 3 and kinds.count("validation") == 2
    shards = {f"shard-{rank:05d}.h5" for rank in range(ranks)}
    folders = sorted((output / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step-000004", "step-000006"]
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {*shards, "manifest.json"}


def weights(output):
    """All numbers of ``final.weights`` behind the header of 20 bytes."""
    return np.fromfile(output / "final.weights", "<f4", offset=20)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_do_not_change_the_run(outputs, ranks):
    expected = runs.losses(outputs[1])
    np.testing.assert_allclose(runs.losses(outputs[ranks]), expected, rtol=EXACT)
    # In double precision, so that only the rounding to the file's numbers may differ.
    np.testing.assert_allclose(
        weights(outputs[ranks]), weights(outputs[1]), rtol=2.5e-7, atol=1e-12
    )


@pytest.mark.parametrize(
    "ranks, tiling",
    [
        (4, {"replicas": 2, "grid": "1x2", "wait": "sleep"}),
        (3, {"grid": "3x1", "groups": list(range(8)), "row_weights": [1, 2, 1], "wait": "spin"}),
    ],
    ids=["replicas", "uneven-tiles"],
)
def test_other_plans_do_not_change_the_run(tmp_path, shapes, outputs, ranks, tiling):
    settings = exact_settings(shapes, tmp_path / "out", tiling=tiling)
    output = runs.train(tmp_path, settings, ranks=ranks)
    np.testing.assert_allclose(runs.losses(output), runs.losses(outputs[1]), rtol=EXACT)


def test_recomputation_does_not_change_a_bit(tmp_path, shapes, outputs):
    groups = json.loads((outputs[2] / "plan.json").read_text())["groups"]
    tiling = {"groups": groups, "recompute": [0, 2]}
    settings = exact_settings(shapes, tmp_path / "out", tiling=tiling)
    output = runs.train(tmp_path, settings, ranks=2)
    assert runs.losses(output) == runs.losses(outputs[2])
    for name in ("final.weights", "best.weights"):
        assert (output / name).read_bytes() == (outputs[2] / name).read_bytes()
    plans = [json.loads((path / "plan.json").read_text()) for path in (output, outputs[2])]
    flags = [plan["recompute"] for plan in plans]
    assert flags[0][:3] == [True, False, True] and not any(flags[1])
    assert len(flags[0]) == len(flags[1]) == len(plans[0]["groups"])
    kept, dropped = (plan["ranks"][0]["total_bytes"] for plan in reversed(plans))
    assert dropped < kept


def test_classifier_with_subdivisions_adam_and_dropout(tmp_path, shape_folders):
    curves = []
    for ranks, read in ((None, "all"), (4, "root")):
        folder = tmp_path / f"{ranks}"
        settings = exact_settings(
            shape_folders,
            folder / "out",
            data={"format": "folders", "read": read},
            train={"optimizer": "adam", "subdivisions": 2},
        )
        curves.append(runs.losses(runs.train(folder, settings, runs.CLASSIFIER, ranks)))
    np.testing.assert_allclose(curves[1], curves[0], rtol=EXACT)


# Every rank starts in a folder of its own, as on devices that share no files.
IN_OWN_FOLDER = """
import os, sys
from mpi4py import MPI
from mpitile.cli.main import main
os.chdir(sys.argv[1] if MPI.COMM_WORLD.rank == 0 else sys.argv[2])
main(sys.argv[3:])
"""


def test_same_plan_same_bytes_whoever_reads(tmp_path, shapes):
    """Two runs in single precision, and one where rank 0 alone has the images."""
    whole = []
    for name in ("first", "second"):
        folder = tmp_path / name
        output = runs.train(folder, runs.settings_of(shapes, folder / "out"), ranks=3)
        whole.append((output / "final.weights").read_bytes())
    assert whole[0] == whole[1]

    folder, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = runs.settings_of(shapes.name, folder / "out", data={"read": "root"})
    command = [
        sys.executable,
        "-c",
        IN_OWN_FOLDER,
        shapes.parent,
        elsewhere,
        "train",
        runs.write_run(folder, settings),
    ]
    result = run(command, ranks=3)
    assert result.code == 0, result
    assert (folder / "out" / "final.weights").read_bytes() == whole[0]

    result = run([*command, "--set", "data.read=all"], ranks=3)
    assert result.code == 2, result
    (line,) = result.complaints
    assert line.startswith(f"mpitile: rank 1: {shapes.name}: ") and "data.root" in line


def test_progress_is_told_once_and_to_the_error_stream(results):
    _, result = results[2]
    assert result.out == ""
    for text in ("step 6/6", "2 ranks, grid ", "trained 6 steps; weights in "):
        assert result.err.count(text) == 1, text


def test_an_earlier_run_is_set_aside(tmp_path, shapes):
    settings = runs.settings_of(shapes, tmp_path / "out", checkpoint={"every": 3})
    output = runs.train(tmp_path, settings)
    first = (output / "final.weights").read_bytes()
    runs.train(tmp_path, settings, arguments=["--set", "train.seed=8"])
    assert (output / "earlier-1" / "final.weights").read_bytes() == first
    assert (output / "earlier-1" / "checkpoints" / "step-000006").is_dir()
    assert (output / "final.weights").read_bytes() != first
    assert len(runs.read_metrics(output)) == STEPS


def test_weights_to_start_from(tmp_path, shapes):
    """All layers' or the first one's: a rate of 0 leaves its kernels as they were read."""
    settings = runs.settings_of(shapes, tmp_path / "out")
    whole = (runs.train(tmp_path, settings) / "final.weights").read_bytes()
    # Biases, scales, running means and variances of 8 filters stand before 3x3x3x8 weights.
    start, end = 20 + 4 * 4 * 8, 20 + 4 * (4 * 8 + 216)
    still = ["--set", "train.learning_rate=0", "--set", "train.seed=8"]
    outputs, calls = [tmp_path / "all", tmp_path / "one"], []
    for output, content in zip(outputs, (whole, whole[:end]), strict=True):
        given = output.with_suffix(".weights")
        given.write_bytes(content)
        places = ["--set", f"network.weights={given}", "--set", f"output.dir={output}"]
        calls.append((tmp_path, ["train", "run.toml", *still, *places]))
    for result, output in zip(runs.in_a_row(calls), outputs, strict=True):
        assert result.code == 0, result
        assert (output / "final.weights").read_bytes()[start:end] == whole[start:end]
