"""Tests that several real ranks run together: ``@pytest.mark.mpi(ranks=[2, 4])``.

Such a test takes the fixture `comm`, the communicator of all ranks, and perhaps
`shared_folder`, an empty folder that all of them see. pytest starts itself under mpirun,
once for each number of ranks, with all its tests in a row; what the ranks report becomes
the result here. A rank that fails alone ends all ranks, and ranks that hang are killed;
the tests behind are then started anew.
"""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from launch import Job

FOLDER = "MPITILE_TEST_REPORTS"
SILENCE_SECONDS = 90
PATIENCE_SECONDS = 5
INSIDE = FOLDER in os.environ

_REPORTS = pytest.StashKey()
_FAILURE = pytest.StashKey()


# First, so that ids of parameters come out in the same order under mpirun.
@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc):
    mark = metafunc.definition.get_closest_marker("mpi")
    if mark:
        metafunc.parametrize(
            "comm", mark.kwargs["ranks"], indirect=True, ids=lambda ranks: f"{ranks}-ranks"
        )


def _ranks(item):
    return item.callspec.params["comm"] if item.get_closest_marker("mpi") else None


@pytest.fixture
def comm(request):
    if not INSIDE:
        return None
    from mpi4py import MPI

    from mpitile.comm.mpi import MpiCommunicator

    assert MPI.COMM_WORLD.size == request.param, "not started by the mpi mark"
    return MpiCommunicator(MPI.COMM_WORLD)


@pytest.fixture
def shared_folder(request, comm):
    if comm is None:
        return None
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    folder = Path(os.environ[FOLDER]) / name
    if comm.rank == 0:
        folder.mkdir()
    comm.broadcast(None)
    return folder


# --- Outside: start the ranks and collect what they report.


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    ranks = _ranks(pyfuncitem)
    if ranks is None or INSIDE:
        return None
    config = pyfuncitem.config
    reports = config.stash.setdefault(_REPORTS, {})
    if pyfuncitem.nodeid not in reports:
        together = [
            item.nodeid
            for item in pyfuncitem.session.items
            if _ranks(item) == ranks and item.nodeid not in reports
        ]
        with tempfile.TemporaryDirectory(prefix="mpitile-ranks-") as folder:
            reports.update(_run_inside(together, ranks, Path(folder), config.rootpath))
    report = reports[pyfuncitem.nodeid]
    if report:
        pytest.fail(report, pytrace=False)
    return True


def _run_inside(names, ranks, folder, root):
    """What went wrong in each test that was begun, by name; nothing where all went well."""
    options = ["-q", "-s", "--color=no", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *names]
    with Job(command, ranks, root, {FOLDER: str(folder)}) as job:
        size, since, silent = 0, time.monotonic(), False
        while job.running and not silent:
            time.sleep(0.05)
            now = sum(path.stat().st_size for path in folder.glob("rank-*.jsonl"))
            if now > size:
                size, since = now, time.monotonic()
            silent = time.monotonic() - since > SILENCE_SECONDS
        if silent:
            # pytest has Python's stacks printed on this signal.
            for rank in range(ranks):
                job.signal(signal.SIGABRT, rank)
            time.sleep(1)
        job.kill()
        output = str(job.result)
    return _judge(names, [_read(folder / f"rank-{rank}.jsonl") for rank in range(ranks)], output)


def _read(path):
    """Failure texts by test name, of the tests that one rank has begun; None while running."""
    if not path.exists():
        return {}
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {name: failure for name, failure in map(json.loads, lines)}


def _judge(names, ranks, output):
    failures = {}
    for name in names:
        parts = [
            f"--- rank {rank}\n{reports[name]}"
            for rank, reports in enumerate(ranks)
            if reports.get(name)
        ]
        if not parts and all(reports.get(name) == "" for reports in ranks):
            failures[name] = ""
            continue
        begun = any(name in reports for reports in ranks)
        if not begun and failures:
            return failures
        unfinished = [rank for rank, reports in enumerate(ranks) if reports.get(name) is None]
        if unfinished:
            parts.append(f"--- no end on ranks {unfinished}\n{output}")
        failures[name] = "\n".join(parts)
    return failures


# --- Inside: one rank among others.


def _report(name, failure):
    from mpi4py import MPI

    with open(Path(os.environ[FOLDER]) / f"rank-{MPI.COMM_WORLD.rank}.jsonl", "a") as file:
        file.write(json.dumps([name, failure]) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if INSIDE:
        _report(item.nodeid, None)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if INSIDE:
        failure = item.stash.get(_FAILURE, "") + (report.longreprtext if report.failed else "")
        item.stash[_FAILURE] = failure
        if report.when == "teardown":
            _report(item.nodeid, failure)
            _meet(bool(failure))
    return report


def _meet(failed):
    """Wait for the other ranks; one that has failed waits a little, then ends them all."""
    from mpi4py import MPI

    everyone = MPI.COMM_WORLD.Ibarrier()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not everyone.Test():
        if failed and time.monotonic() > deadline:
            MPI.COMM_WORLD.Abort(1)
        time.sleep(0.002)
