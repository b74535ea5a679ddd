"""What needs no MPI runs where there is none, and once where mpirun starts several."""

import json

import pytest
import runs

CLUSTER = """
[between]
latency_us = 100
mb_per_s = 10
[[device]]
name = "board"
count = 2
ranks = 2
memory = "1GB"
gflops = 2.5
"""

LAUNCHED = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_STEP_NUM_TASKS"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run file, whose data set nobody reads, and a cluster."""
    folder = tmp_path_factory.mktemp("without-mpi")
    runs.write_run(folder, runs.settings_of(folder / "no-data", folder / "out"))
    (folder / "cluster.toml").write_text(CLUSTER)
    return folder


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--help", "usage: mpitile "),
        ("train --help", "example: mpirun -np 4 mpitile train"),
        ("plan run.toml --cluster cluster.toml --explain", "a step takes"),
        ("simulate run.toml --cluster cluster.toml", "4 ranks on 2 device(s)"),
        ("record run.toml --ranks 2 --steps 1", "recording.jsonl"),
    ],
)
def test_done(place, arguments, text):
    result = runs.without_mpi(*arguments.split(), cwd=place)
    assert result.code == 0 and result.err == "", result
    assert text in result.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("plan run.toml --ranks 0", "mpitile: --ranks 0: expected at least 1"),
        ("report none", "mpitile: none: expected a run folder, got no folder"),
        ("plan", "mpitile plan: error: the following arguments are required: RUN.toml|NET.cfg"),
    ],
)
def test_refused(place, arguments, line):
    result = runs.without_mpi(*arguments.split(), cwd=place)
    assert result.code == 2 and result.out == "", result
    assert result.err.splitlines()[-1] == line


@pytest.mark.parametrize("variable", [None, *LAUNCHED])
def test_mpi_is_missed_where_it_is_needed(place, variable):
    """By a verb that trains, and by any that a launcher may have started several times."""
    arguments, env = ("train", "run.toml"), {}
    if variable:
        arguments, env = ("plan", "--help"), {variable: "0"}
    result = runs.without_mpi(*arguments, cwd=place, env=env)
    assert result.code == 1 and result.out == "", result
    (line,) = result.complaints
    assert "mpi4py" in line


def test_several_ranks_plan_once(place):
    command = ("plan", "run.toml", "--cluster", "cluster.toml", "--json")
    alone = runs.without_mpi(*command, cwd=place)
    together = runs.mpitile(*command, ranks=3, cwd=place)
    assert (alone.code, together.code) == (0, 0), together
    assert alone.out == together.out
    assert len(json.loads(alone.out)["ranks"]) == 4


REFUSED_TOGETHER = {
    "plan none.toml": "none.toml: cannot be read: No such file or directory",
    "simulate run.toml --cluster cluster.toml": "simulate runs on one rank, but 3 were started",
    "report out": "report runs on one rank, but 3 were started",
    "record run.toml --ranks 2": "record runs on one rank, but 3 were started",
}


def test_several_ranks_are_refused_in_one_line(place):
    calls = [(place, arguments.split()) for arguments in REFUSED_TOGETHER]
    results = runs.in_a_row(calls, ranks=3)
    for line, result in zip(REFUSED_TOGETHER.values(), results, strict=True):
        assert result.code == 2 and result.out == "", result
        assert result.complaints == [f"mpitile: {line}"]
