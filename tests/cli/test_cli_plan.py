"""``mpitile plan``: one object of the contract's keys, a table, and errors that name things."""

import json
import os

import pytest
from runs import called, in_a_row, mpitile, read_metrics, settings_of, write_run

from mpitile.plan.memory.bytes import KINDS

CLUSTER = """
[between]
latency_us = 150
mb_per_s = 11.7
[[device]]
name = "board"
count = 2
ranks = 2
memory = "{memory}"
gflops = 2.5
"""


@pytest.fixture
def run_file(tmp_path):
    (tmp_path / "cluster.toml").write_text(CLUSTER.format(memory="1GB"))
    return write_run(tmp_path, settings_of(tmp_path / "data", tmp_path / "out"))


def plan(*arguments, **options):
    result = called("plan", *arguments, "--json", **options)
    assert result.code == 0, result
    return json.loads(result.out)


def test_the_object_has_the_promised_keys(run_file):
    found = plan(run_file, "--cluster", run_file.parent / "cluster.toml")
    rows, columns = map(int, found["grid"].split("x"))
    assert rows * columns * found["replicas"] == 4 == len(found["ranks"])
    assert found["groups"][0] == 0 and found["groups"] == sorted(found["groups"])
    assert len(found["recompute"]) == len(found["groups"])
    assert found["step_seconds"] > 0
    for number, rank in enumerate(found["ranks"]):
        assert rank["rank"] == number
        assert tuple(rank["bytes"]) == KINDS
        assert rank["total_bytes"] == sum(rank["bytes"].values())
        assert sum(rank["seconds"].values()) == pytest.approx(found["step_seconds"])
    for number, device in enumerate(found["devices"]):
        own = [rank["total_bytes"] for rank in found["ranks"] if rank["device"] == number]
        assert (device["name"], device["total_bytes"]) == ("board", sum(own))


def test_a_process_of_its_own_says_the_same(run_file):
    arguments = ("plan", run_file, "--ranks", 2, "--json")
    assert mpitile(*arguments) == called(*arguments)


def test_the_run_file_settles_and_set_replaces(run_file):
    cluster = ("--cluster", run_file.parent / "cluster.toml")
    groups = ("--set", "tiling.groups=[0,3]")
    found = plan(run_file, *cluster, "--set", "tiling.grid=1x4", *groups)
    assert (found["grid"], found["groups"]) == ("1x4", [0, 3])
    named = ("--set", "tiling.cluster=cluster.toml", "--ranks", 2)
    assert plan(run_file, *named)["grid"] in ("1x2", "2x1")


def test_without_a_cluster_there_is_one_device(run_file):
    found = plan(run_file)
    assert [device["ranks"] for device in found["devices"]] == [os.cpu_count()]


def test_the_table_explains(run_file):
    cluster = ("--cluster", run_file.parent / "cluster.toml")
    result = called("plan", run_file, *cluster, "--explain")
    assert result.code == 0, result
    for text in ("grid ", "a step takes", "MB on each device", "board", "not chosen", "%"):
        assert text in result.out
    found = plan(run_file, *cluster, "--explain")
    names = {other["name"] for other in found["alternatives"]}
    assert "other grid" in names
    assert all(other["step_seconds"] > 0 for other in found["alternatives"])


def test_a_network_alone_will_do(run_file):
    cfg = run_file.parent / "net.cfg"
    small = plan(cfg, "--ranks", 2, "--size", "32x64", "--batch", 1)
    large = plan(cfg, "--ranks", 2, "--size", "128x64", "--batch", 8)
    assert (small["images"], large["images"]) == (1, 8)
    assert small["ranks"][0]["total_bytes"] < large["ranks"][0]["total_bytes"]


def test_a_limit_is_kept_or_what_is_missing_is_said(run_file):
    free = plan(run_file, "--ranks", 2)
    size = free["devices"][0]["total_bytes"]
    enough = plan(run_file, "--ranks", 2, "--set", f"tiling.memory_limit={size}B")
    assert enough["devices"][0]["total_bytes"] <= size
    result = called("plan", run_file, "--ranks", 2, "--set", "tiling.memory_limit=1MB")
    assert result.code == 2 and result.out == ""
    assert len(result.err.splitlines()) == 1
    assert f"{run_file}: tiling.memory_limit = '1MB', but the ranks on " in result.err
    assert "need at least" in result.err and "activations" in result.err
    (run_file.parent / "small.toml").write_text(CLUSTER.format(memory="100kB"))
    result = called("plan", run_file, "--cluster", run_file.parent / "small.toml")
    assert result.code == 2 and "small.toml: device memory, but the ranks on board" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "9"], "9 ranks on a cluster of 4"),
        (["--size", "32x32"], "--size is for a network alone"),
        (["--set", "tiling.recompute=[0]"], "tiling.recompute = [0]"),
        (["--set", "tiling.filters=[1]"], "run.toml: tiling.filters: layer 1 (maxpool) cannot be"),
        (["--set", "tiling.filters=[99]"], "run.toml: tiling.filters: there is no layer 99"),
    ],
)
def test_errors_name_what_is_wrong(run_file, arguments, message):
    cluster = [] if "--cluster" in arguments else ["--cluster", run_file.parent / "cluster.toml"]
    result = called("plan", run_file, *cluster, *arguments)
    assert result.code == 2, result
    assert message in result.err and len(result.err.splitlines()) == 1


def test_training_does_as_planned_and_reports_it(tmp_path, shapes):
    paths = {}
    for filters in ("auto", "none", [0]):
        folder = tmp_path / str(filters)
        # The file's devices have two ranks each, this machine runs all of them.
        tiling = {"cluster": "cluster.toml", "ranks_per_device": 2, "filters": filters}
        settings = settings_of(shapes, folder / "out", tiling=tiling, train={"steps": 1})
        paths[str(filters)] = write_run(folder, settings)
        (folder / "cluster.toml").write_text(CLUSTER.format(memory="1GB"))
    results = in_a_row([(tmp_path, ["train", path]) for path in paths.values()], ranks=4)
    for (filters, path), result in zip(paths.items(), results, strict=True):
        assert result.code == 0, result
        planned = plan(path)
        output = path.parent / "out"
        assert len(read_metrics(output)) == 1
        kept = json.loads((output / "plan.json").read_text())
        assert filters == "auto" or kept["filters"] == {"none": [], "[0]": [0]}[filters]
        for key in ("grid", "replicas", "groups", "recompute", "filters", "step_seconds"):
            assert kept[key] == planned[key]
        for rank, other in zip(kept["ranks"], planned["ranks"], strict=True):
            assert rank["bytes"] == other["bytes"]
            assert {"host", "image_box", "tile", "replica"} <= rank.keys()
