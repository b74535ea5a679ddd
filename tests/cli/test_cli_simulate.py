"""``record`` and ``simulate`` from the command line, and traces of real runs."""

import json

import pytest
import runs

from mpitile.errors import EXIT_INPUT

CLUSTER = """\
medium = "switched"
[inside]
latency_us = 1
mb_per_s = 1000
[between]
latency_us = 100
mb_per_s = 10
[[device]]
name = "small"
count = 2
ranks = 2
memory = "1GB"
gb_per_s = 1
call_us = 100
[device.gflops]
"3x3" = 5
"1x1" = 3
other = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run file of a network without a data set, a cluster and a recording."""
    folder = tmp_path_factory.mktemp("simulate")
    settings = runs.settings_of(folder / "no-data", folder / "out", tiling={"grid": "2x2"})
    runs.write_run(folder, settings)
    (folder / "cluster.toml").write_text(CLUSTER)
    result = runs.mpitile(
        "record", "run.toml", "--ranks", 4, "--steps", 2, "--out", "rec.jsonl", cwd=folder
    )
    assert result.code == 0, result
    assert "4 ranks, grid 2x2" in result.out
    return folder


def simulate(place, *arguments):
    return runs.called("simulate", "run.toml", "--cluster", "cluster.toml", *arguments, cwd=place)


@pytest.mark.parametrize("recording", [(), ("--recording", "rec.jsonl", "--speed", 10)])
def test_a_step_is_simulated_and_traced(place, recording):
    result = simulate(place, *recording, "--json", "--trace", "trace.json")
    assert result.code == 0, result
    found = json.loads(result.out)
    assert found["grid"] == "2x2"
    assert len(found["timeline"]) == len(found["ranks"]) == 4
    assert found["ranks"][3]["total_bytes"] == sum(found["ranks"][3]["bytes"].values()) > 0
    for rank in found["timeline"]:
        parts = sum(rank[name] for name in ("compute_s", "halo_s", "reduce_s", "wait_s"))
        assert parts == pytest.approx(found["step_seconds"])
    trace = json.loads((place / "trace.json").read_text())["traceEvents"]
    assert {event["pid"] for event in trace} == {0, 1}
    assert {event["tid"] for event in trace if event["ph"] == "X"} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "tiling",
    [
        {"grid": "1x2", "replicas": 2, "filters": [2, 4]},
        {"grid": "2x2", "filters": [0, 1, 2, 3, 4]},
    ],
    ids=["slices of replicas", "slices"],
)
def test_a_recording_sends_what_was_planned_on_any_devices(tmp_path, tiling):
    """It is made on this host alone, as if its ranks were one device."""
    settings = runs.settings_of(tmp_path / "no-data", tmp_path / "out", tiling=tiling)
    runs.write_run(tmp_path, settings)
    recorded = ("--recording", "recording.jsonl")
    result = runs.mpitile("record", "run.toml", "--ranks", 4, "--steps", 1, cwd=tmp_path)
    assert result.code == 0, result
    for count, ranks in ((2, 2), (4, 1)):
        (tmp_path / "cluster.toml").write_text(
            CLUSTER.replace("count = 2\nranks = 2", f"count = {count}\nranks = {ranks}")
        )
        sent = []
        for source in (recorded, ()):
            result = simulate(tmp_path, *source, "--json")
            assert result.code == 0, result
            found = json.loads(result.out)
            sent.append([rank["sent"] for rank in found["timeline"]])
            assert 0 < found["step_seconds"] < 60
        # At the end of a step it is also told how much each device has sent, which are 8 bytes.
        figures = 8 * (count - 1) * 2 * 3
        assert sent[0] == pytest.approx(sent[1], abs=figures)
        assert min(sent[0]) > 0


def test_words_for_the_reader(place):
    result = simulate(place, "--sums", "hierarchical", "--overlap")
    assert result.code == 0, result
    assert "4 ranks on 2 device(s), grid 2x2" in result.out
    assert "step" in result.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--speed", "nan"), "--speed nan: expected a positive number"),
        (("--recording", "run.toml"), "run.toml:1: not JSON"),
        (("--ranks", "5"), "--ranks 5, but cluster.toml has 4"),
        (("--recording", "rec.jsonl", "--ranks", "2"), "--ranks 2, but rec.jsonl has 4"),
        (("--set", "tiling.grid=3x3"), "grid 3x3"),
        (("--trace", "no/trace.json"), "no/trace.json: cannot be written"),
    ],
)
def test_bad_input_is_named(place, arguments, complaint):
    result = simulate(place, *arguments)
    assert result.code == EXIT_INPUT, result
    assert complaint in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--ranks", "4", "--steps", "0"), "--steps 0: expected at least 1"),
        (("--ranks", "3"), "grid 2x2"),
        (("--ranks", "4", "--out", "no/rec.jsonl"), "--out no/rec.jsonl"),
    ],
)
def test_bad_recordings_are_refused(place, arguments, complaint):
    result = runs.called("record", "run.toml", *arguments, cwd=place)
    assert result.code == EXIT_INPUT, result
    assert complaint in result.err
    assert result.err.count("\n") == 1


def test_a_real_run_is_traced(shapes, tmp_path):
    settings = runs.settings_of(
        shapes,
        tmp_path / "out",
        train={"steps": 2},
        output={"dir": str(tmp_path / "out"), "trace": True},
    )
    output = runs.train(tmp_path, settings, ranks=2)
    trace = json.loads((output / "trace.json").read_text())["traceEvents"]
    assert {event["tid"] for event in trace if event["ph"] == "X"} == {0, 1}
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    arguments = ("--cluster", "cluster.toml", "--recording", output / "recording.jsonl")
    result = runs.mpitile("simulate", "run.toml", *arguments, "--json", cwd=tmp_path)
    assert result.code == 0, result
    assert len(json.loads(result.out)["timeline"]) == 2
