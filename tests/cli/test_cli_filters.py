"""Whole runs with filter-parallel layers: killed and resumed, by other ranks too, and scored."""

import json
import re
import sys
import time

import numpy as np
import pytest
import runs
from launch import Job

STEPS = 24
FILTERS = [2, 4, 5, 6]


def settings_of(data, output, filters, steps=STEPS, every=5, **sections):
    train = {"steps": steps, **sections.pop("train", {})}
    return runs.settings_of(
        data,
        output,
        train=train,
        checkpoint={"every": every, "keep": 1},
        tiling={"filters": filters},
        **sections,
    )


def test_killed_and_resumed_to_the_last_bit(tmp_path, shapes):
    train = {"validate_every": 10, "optimizer": "adam"}
    settings = settings_of(shapes, tmp_path / "out", FILTERS, train=train)
    whole = runs.train(
        tmp_path / "whole",
        settings_of(shapes, tmp_path / "whole" / "out", FILTERS, train=train),
        ranks=4,
    )
    assert json.loads((whole / "plan.json").read_text())["filters"] == FILTERS
    output = tmp_path / "out"
    path = runs.write_run(tmp_path, settings)
    with Job([sys.executable, "-m", "mpitile", "train", path], 4) as job:
        deadline = time.monotonic() + 90
        while not any(output.glob("checkpoints/step-*/manifest.json")):
            assert job.running and time.monotonic() < deadline, job.result
            time.sleep(0.002)
        job.kill()
    assert not (output / "final.weights").exists()
    result = runs.mpitile("train", path, "--resume", ranks=4)
    assert result.code == 0, result
    assert "resumed after step " in result.err and "another plan" not in result.err
    for name in ("final.weights", "best.weights"):
        assert (output / name).read_bytes() == (whole / name).read_bytes(), name
    assert runs.losses(output) == runs.losses(whole)

    # The weights that training scored best get the same score, by slices and by one rank.
    best = max(
        float(figure)
        for figure in re.findall(
            r"validation.*?mAP@0\.5 (\d\.\d+)", (whole / "events.jsonl").read_text()
        )
    )
    for ranks in (4, None):
        arguments = ("eval", path, "--weights", whole / "best.weights")
        result = runs.mpitile(*arguments, ranks=ranks)
        assert result.code == 0, result
        figure = float(re.search(r"^all +\d+ +(\d\.\d+)", result.out, re.MULTILINE)[1])
        assert figure == pytest.approx(best, abs=2e-4)


def test_other_ranks_with_other_slices_go_on(tmp_path, shapes):
    exact = {"dtype": "float64", "optimizer": "adam"}
    settings = settings_of(shapes, tmp_path / "out", FILTERS, 3, 3, train=exact)
    output = runs.train(tmp_path, settings, ranks=4)
    for ranks, filters, steps in ((2, '"none"', 5), (3, "[0, 6]", 7)):
        changed = f"train.steps={steps}", f"tiling.filters={filters}"
        arguments = ["--resume", *(word for change in changed for word in ("--set", change))]
        result = runs.mpitile("train", tmp_path / "run.toml", *arguments, ranks=ranks)
        assert result.code == 0, result
        assert "which another plan or other devices wrote" in result.err
    alone = settings_of(shapes, tmp_path / "alone" / "out", "none", 7, 7, train=exact)
    whole = runs.train(tmp_path / "alone", alone)
    assert runs.losses(output) == pytest.approx(runs.losses(whole), rel=1e-11)
    one, other = (
        np.fromfile(folder / "final.weights", "<f4", offset=20) for folder in (whole, output)
    )
    np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7)


def test_a_damaged_shard_of_slices_is_refused(tmp_path, shapes):
    settings = settings_of(shapes, tmp_path / "out", FILTERS, 2, 2)
    output = runs.train(tmp_path, settings, ranks=2)
    shard = output / "checkpoints" / "step-000002" / "shard-00001.h5"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    arguments = ("--resume", "--set", "train.steps=3")
    result = runs.mpitile("train", tmp_path / "run.toml", *arguments, ranks=2)
    assert result.code == 2, result
    assert len(result.complaints) == 1 and "shard-00001.h5: damaged" in result.complaints[0]
