"""The parts of jobs/emulate.py that need neither root nor namespaces."""

import os
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path, PurePosixPath

import pytest
from emulation import Refusal, cleaner, launch, links, options
from emulation.groups import Groups, apply, cpu_settings, memory_settings
from emulation.hierarchies import Hierarchy, locate, nearest_delegating
from emulation.pace import USABLE, Pace, choose_pace
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "jobs" / "emulate.py"
BOTH = frozenset({"cpu", "memory"})


def test_options():
    read = options.parse(
        ["--devices", "3", "--rate", "1gbit", "--memory", "700MB", "--", "a", "--b"]
    )
    assert (read.devices, read.ranks, read.rate, read.memory) == (3, 4, 1e9, 700_000_000)
    assert read.command == ("a", "--b")
    assert options.parse(["--devices", "1", "--", "a"]).rate == 1e8


@pytest.mark.parametrize(
    "arguments",
    [
        ["--devices", "2"],
        ["--devices", "0", "--", "true"],
        ["--devices", "201", "--", "true"],
        ["--devices", "2", "--rate", "100", "--", "true"],
        ["--devices", "2", "--memory", "1Gbit", "--", "true"],
        ["--devices", "2", "--core-speed", "nan", "--", "true"],
        ["--devices", "2", "--share", "1.5", "--", "true"],
    ],
)
def test_bad_usage_ends_with_2_before_anything_is_made(arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "emulate.py: error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_rates_and_sizes():
    assert options.rate("11.5mbit") == 11.5e6
    assert options.size("1.5GiB") == 3 * 2**29
    for text in ("", "mbit", "-1mbit", "0mbit", "1 mbit/s"):
        with pytest.raises(ArgumentTypeError, match="expected a rate"):
            options.rate(text)


@given(
    ranks=st.integers(1, 400),
    cores=st.integers(1, 64),
    speed=st.floats(0.01, 10),
)
def test_pace_keeps_the_ratio_and_fits_the_cores(ranks, cores, speed):
    pace = choose_pace(ranks, cores, speed, None)
    on_one_core = -(-ranks // cores)
    assert pace.limited == (on_one_core > 1)
    if pace.limited:
        # The quota is in whole microseconds.
        assert pace.quota_us / pace.period_us * on_one_core == pytest.approx(USABLE, rel=1e-3)
        assert pace.quota_us >= 1000
    # A second of computing and a second of sending take equally long here.
    measured_computing = speed / pace.share
    measured_sending = 1e8 / pace.link_rate(1e8)
    assert measured_computing == pytest.approx(measured_sending)
    assert measured_computing * pace.device_seconds == pytest.approx(1.0)


def test_a_share_is_taken_only_where_it_fits():
    assert choose_pace(8, 2, 1.0, 0.1).share == 0.1
    assert choose_pace(2, 2, 1.0, 0.5).limited
    with pytest.raises(Refusal, match=r"8 ranks on 2 cores get at most 0\.225"):
        choose_pace(8, 2, 1.0, 0.5)
    with pytest.raises(Refusal, match="less than the kernel"):
        choose_pace(8, 2, 1.0, 1e-4)


@pytest.mark.parametrize("rate", [7.5e6, 1e8, 1e9, 1.2e10])
def test_buckets_hold_a_frame_and_make_up_for_late_timers(rate):
    command = links.shaper("eth0", rate)
    said = dict(zip(command[7::2], command[8::2], strict=True))
    # Ethernet has 1448 of 1538 bytes for TCP's data.
    held = float(said["rate"].removesuffix("bit"))
    assert held == pytest.approx(rate * 1448 / 1538)
    assert int(said["burst"]) >= 256 * 1024
    assert int(said["burst"]) > int(said["mtu"]) > 1538
    assert float(said["peakrate"].removesuffix("bit")) > held


@pytest.mark.parametrize("rate", [7.5e6, 1e8, 1e9, 1.2e10])
def test_no_packet_is_larger_than_its_bucket(rate):
    option, size = links.segments(rate)
    assert option == "gso_max_size"
    assert 1538 < int(size) <= 1 << 16
    assert int(size) + 1538 < links.peak_bucket(rate)


def test_names_and_hostfile():
    devices = links.addresses(2)
    assert launch.hostfile(devices, 4) == "device1 slots=4\ndevice2 slots=4\n"
    assert "10.77.0.2 device2\n" in links.hosts(devices)
    everyone = [links.HEAD, *links.addresses(options.MOST_DEVICES)]
    assert len({each.ip for each in everyone}) == options.MOST_DEVICES + 1
    assert all(len(each.port) < 16 for each in everyone)


def test_the_users_variables_win_but_for_what_the_devices_need():
    given = {"OMP_NUM_THREADS": "2", "TMPDIR": "/elsewhere", "PATH": "/bin"}
    made = launch.job_environment(given, Path("/run/x"), limited=True)
    assert made["OMP_NUM_THREADS"] == "2"
    assert made["OPENBLAS_NUM_THREADS"] == "1"
    assert made["TMPDIR"] == "/run/x"
    assert made["MPITILE_WAIT"] == "sleep"
    assert "MPITILE_WAIT" not in launch.job_environment(given, Path("/run/x"), limited=False)


V1 = """31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hierarchies_of_version_1_are_found():
    own = "4:memory:/box/session\n2:cpu,cpuacct:/\n0::/\n"
    root = Path("/sys/fs/cgroup")
    found = {controllers: place for version, controllers, *place in locate(own, V1)}
    assert found[frozenset({"memory"})] == [root / "memory", PurePosixPath("session")]
    assert found[frozenset({"cpu"})] == [root / "cpu,cpuacct", PurePosixPath(".")]
    assert found[frozenset()] == [root / "unified", PurePosixPath(".")]


def test_hierarchies_of_version_2_are_found():
    own = "0::/user.slice/session-1.scope\n"
    group = PurePosixPath("user.slice/session-1.scope")
    assert locate(own, V2) == [(2, frozenset(), Path("/sys/fs/cgroup"), group)]


def test_version_2_takes_the_nearest_group_that_hands_controllers_on(tmp_path):
    for folder, enabled in (("", "cpu memory pids"), ("user", "memory pids"), ("user/one", "")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "cgroup.subtree_control").write_text(enabled + "\n")
        (tmp_path / folder / "cgroup.controllers").write_text("cpu memory pids\n")
    found = nearest_delegating(tmp_path, PurePosixPath("user/one"))
    assert found == Hierarchy(2, BOTH, tmp_path)
    (tmp_path / "user" / "cgroup.subtree_control").write_text("memory cpu\n")
    assert nearest_delegating(tmp_path, PurePosixPath("user/one")).base == tmp_path / "user"


@pytest.mark.parametrize("version", [1, 2])
def test_limits_are_written_and_use_is_read(version, tmp_path):
    groups = Groups([Hierarchy(version, BOTH, tmp_path)], "run")
    pace = Pace(0.25, 1.0)
    groups.make({"device1": ["rank-0", "rank-1"]}, 10**9, pace)
    device = tmp_path / "run" / "device1"
    for name, value in memory_settings(version, 10**9).items():
        if "sw" not in name:
            assert (device / name).read_text() == value
    for name, value in cpu_settings(version, pace).items():
        assert (device / "rank-1" / name).read_text() == value
        assert "2500" in value or "10000" in value
        assert not (device / "daemon" / name).exists()
    delegated = (device / "cgroup.subtree_control").exists()
    assert delegated == (version == 2)

    if version == 1:
        stat, peak, events = "total_rss {}\ntotal_shmem 5\n", "memory.max_usage_in_bytes", None
        (device / "rank-0" / "memory.oom_control").write_text("under_oom 0\noom_kill 2\n")
        (device / "memory.oom_control").write_text("under_oom 0\noom_kill 0\n")
    else:
        stat, peak, events = "anon {}\nshmem 5\n", "memory.peak", "low 0\noom_kill 2\n"
        (device / "memory.events").write_text(events)
    (device / peak).write_text("123\n")
    for held in (40, 70, 20):
        (device / "memory.stat").write_text(stat.format(held))
        groups.sample("device1")
    use = groups.memory_use("device1")
    assert (use.peak, use.held, use.kills) == (123, 75, 2)


def test_a_limit_that_the_kernel_refuses_is_said(tmp_path):
    (tmp_path / "cpu.max").mkdir()
    with pytest.raises(Refusal, match=r"cpu\.max: cannot be set to '2500 10000'"):
        apply(tmp_path, cpu_settings(2, Pace(0.25, 1.0)))


def test_leftovers_are_runs_whose_process_is_gone(tmp_path):
    mine = cleaner.folder_of_this_run(tmp_path)
    cleaner.register(mine, [])
    gone = subprocess.Popen(["true"])
    gone.wait()
    reused = tmp_path / f"{os.getpid()}-1"
    for folder in (reused, tmp_path / f"{gone.pid}-77"):
        cleaner.register(folder, [])
    assert set(cleaner.leftovers(tmp_path)) == {reused, tmp_path / f"{gone.pid}-77"}


def test_removing_takes_groups_and_folder(tmp_path):
    folder, group = tmp_path / "1-1", tmp_path / "group"
    (group / "device1" / "rank-0").mkdir(parents=True)
    (group / "device2").mkdir()
    cleaner.register(folder, [group, tmp_path / "never made"])
    (folder / "note").write_text("x")
    cleaner.remove(folder)
    assert not group.exists() and not folder.exists()
    cleaner.remove(folder)
