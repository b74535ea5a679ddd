"""Devices really are apart, run what they are told, and are gone afterwards, whatever happens.

These tests need root, namespaces, control groups and Open MPI 5; they are skipped elsewhere,
with the reason that emulate.py gives.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from emulation import cleaner
from launch import Job, run

ROOT = Path(__file__).parents[2]
EMULATE = [sys.executable, ROOT / "jobs" / "emulate.py"]
SLEEPING = ["--devices", "2", "--ranks", "1", "--memory", "200MB", "--", "sleep", "100"]
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module", autouse=True)
def _possible():
    options = ["--devices", "1", "--ranks", "1", "--memory", "100MB", "--share", "0.5"]
    done = run([*EMULATE, *options, "--", "true"], timeout=60)
    if done.code == 2:
        pytest.skip(done.err.strip())
    assert done.code == 0, done


def emulate(tmp_path, options, *command, timeout=60):
    """The result of a run and its report."""
    report = tmp_path / "report.json"
    done = run([*EMULATE, *options, "--report", report, "--", *command], timeout=timeout)
    return done, json.loads(report.read_text()) if report.exists() else None


def traces(pid):
    """Folder and control groups of the run by that process."""
    found = [*cleaner.RUNS.glob(f"{pid}-*")]
    found += Path("/sys/fs/cgroup").rglob(f"mpitile-{pid}-*")
    return found


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_for_ranks(job):
    def ranks_run():
        names = [variables.get("OMPI_COMM_WORLD_RANK") for variables in job.processes().values()]
        return {"0", "1"} <= set(names)

    wait_until(ranks_run, f"no ranks: {job.result}")


def test_two_devices_train_as_one_over_the_cable(tmp_path):
    interfaces = {folder.name for folder in Path("/sys/class/net").iterdir()}
    cfg = ROOT / "jobs" / "cfg" / "bccd-tiny.cfg"
    check = [sys.executable, "-m", "mpitile", "check", cfg, "--grid", "1x2", "--size", "32x32"]
    options = ["--devices", "2", "--ranks", "1", "--rate", "1gbit"]
    done, report = emulate(tmp_path, options, *check, "--steps", "1")
    assert done.code == 0, done
    assert "2 ranks, against one rank" in done.out
    first, second = report["devices"]
    # The gradients of all weights cross the cable both ways, in float64.
    weights = 8 * 50_000
    assert first["sent_bytes"] > weights < second["sent_bytes"]
    # What one sends the other receives, but for a little that goes to and from mpirun.
    assert first["received_bytes"] == pytest.approx(second["sent_bytes"], rel=0.05, abs=3e5)
    assert {folder.name for folder in Path("/sys/class/net").iterdir()} == interfaces


def test_devices_share_neither_name_nor_memory(tmp_path):
    script = "touch /dev/shm/of-$(uname -n); sleep 0.5; echo $(uname -n) $(ls /dev/shm | grep ^of)"
    options = ["--devices", "2", "--ranks", "2"]
    done, _ = emulate(tmp_path, options, "sh", "-c", script)
    assert sorted(done.out.split("\n")) == [
        "",
        *["device1 of-device1"] * 2,
        *["device2 of-device2"] * 2,
    ]
    assert not [*Path("/dev/shm").glob("of-device*")]


def test_a_rank_gets_no_more_than_its_share(tmp_path):
    program = (
        "import os, time\n"
        "start, used = time.monotonic(), time.process_time()\n"
        "while time.monotonic() < start + 1: pass\n"
        "share = (time.process_time() - used) / (time.monotonic() - start)\n"
        "print(share, os.environ['MPITILE_WAIT'])"
    )
    options = ["--devices", "1", "--ranks", "1", "--share", "0.2", "--core-speed", "0.1"]
    done, report = emulate(tmp_path, options, sys.executable, "-c", program)
    share, wait = done.out.split()
    assert float(share) < 0.3
    assert wait == "sleep"
    assert report["device_seconds_per_second"] == pytest.approx(2)
    assert report["link_bits_per_second"] == pytest.approx(2e8)


def test_a_device_has_no_more_than_its_memory(tmp_path):
    program = "import sys; held = bytearray(int(sys.argv[1])); print(len(held))"
    options = ["--devices", "1", "--ranks", "1", "--memory", "100MB"]
    command = [sys.executable, "-c", program]
    done, report = emulate(tmp_path, options, *command, "50000000")
    assert done.code == 0, done
    assert 50e6 < report["devices"][0]["memory_peak_bytes"] <= 100e6
    done, report = emulate(tmp_path, options, *command, "200000000")
    assert done.code not in (0, 2)
    assert report["devices"][0]["memory_kills"] == 1
    assert "memory ran out" in done.err


def test_the_commands_exit_code_and_working_directory_are_kept(tmp_path):
    script = "pwd; exit 7"
    done = run(
        [*EMULATE, "--devices", "1", "--ranks", "1", "--", "sh", "-c", script],
        timeout=60,
        cwd=tmp_path,
    )
    assert done.code == 7
    assert done.out.strip() == str(tmp_path)


def test_links_that_cannot_be_made_leave_nothing_behind():
    options = ["--devices", "2", "--rate", "0.0001kbit"]
    with Job([*EMULATE, *options, "--", "true"]) as job:
        pid = job.pid
        wait_until(lambda: not job.running, "emulate.py goes on")
        assert job.result.code == 2
        assert len(job.result.err.strip().splitlines()) == 1
        assert not job.processes()
        assert not traces(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(number):
    with Job([*EMULATE, *SLEEPING]) as job:
        pid = job.pid
        wait_for_ranks(job)
        assert len(traces(pid)) > 1
        job.signal(number)
        wait_until(lambda: not job.running, "emulate.py goes on")
        assert job.result.code not in (0, 2)
        assert not job.processes()
        assert not traces(pid)


def test_a_second_signal_ends_a_command_that_ignores_the_first():
    ignoring = ["sh", "-c", "trap '' USR1; echo ready; sleep 100"]
    with Job([*EMULATE, "--devices", "1", "--ranks", "1", "--", *ignoring]) as job:
        pid = job.pid
        wait_until(lambda: "ready" in job.result.out, "no rank")
        job.signal(signal.SIGINT)
        time.sleep(1)
        assert job.running
        job.signal(signal.SIGINT)
        wait_until(lambda: not job.running, "emulate.py goes on")
        assert job.result.code == 128 + signal.SIGINT
        assert not job.processes()
        assert not traces(pid)


def test_nothing_is_left_after_sigkill():
    with Job([*EMULATE, *SLEEPING]) as job:
        pid = job.pid
        wait_for_ranks(job)
        job.signal(signal.SIGKILL)
        wait_until(lambda: not job.processes(), "processes are left")
        assert not traces(pid)


def test_what_sigkill_to_all_leaves_behind_the_next_run_removes():
    with Job([*EMULATE, *SLEEPING]) as job:
        pid = job.pid
        wait_for_ranks(job)
        # Else it may be faster than the SIGKILL to itself.
        (cleaning,) = (number for number in job.processes() if _is_cleaner(number))
        os.kill(cleaning, signal.SIGKILL)
        job.kill()
        assert traces(pid)
    done = run([*EMULATE, "--devices", "1", "--ranks", "1", "--", "true"], timeout=60)
    assert done.code == 0, done
    assert "removing what an earlier run left behind" in done.err
    assert not traces(pid)


def _is_cleaner(pid):
    return b"cleaner.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
