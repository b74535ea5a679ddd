"""Runs an MPI job on a cluster of devices emulated on this machine.

    sudo .venv/bin/python jobs/emulate.py --devices 2 --ranks 4 --rate 100mbit -- COMMAND ...

`--help` tells the options. The package `emulation` beside this file does the work.
"""

import json
import os
import shutil
import signal
import sys
from dataclasses import asdict

from emulation import Refusal, cleaner
from emulation.cluster import Cluster, Limits
from emulation.groups import Groups
from emulation.hierarchies import find_hierarchies
from emulation.launch import (
    Job,
    find_mpirun,
    job_environment,
    mpirun_command,
    path_with_tools,
)
from emulation.links import addresses
from emulation.options import Options, parse
from emulation.pace import Pace, choose_pace

_SAMPLE_SECONDS = 0.2
_PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "taskset": "util-linux",
}


def main() -> int:
    options = parse(sys.argv[1:])
    os.environ["PATH"] = path_with_tools(os.environ.get("PATH", os.defpath))
    stop = Stop()
    try:
        return run(options, stop)
    except Refusal as refusal:
        say(str(refusal))
        return 2


def run(options: Options, stop: "Stop") -> int:
    """Make the devices, run the command on them, remove them; the command's exit code."""
    check_machine()
    mpirun = find_mpirun()
    for folder in cleaner.leftovers():
        say(f"removing what an earlier run left behind ({folder.name})")
        cleaner.remove(folder)
    cores = sorted(os.sched_getaffinity(0))
    ranks = options.devices * options.ranks
    pace = choose_pace(ranks, len(cores), options.core_speed, options.share)
    folder = cleaner.folder_of_this_run()
    groups = Groups(find_hierarchies(), f"mpitile-{folder.name}")
    check_groups(groups, options, pace)
    limits = Limits(options.memory, pace, pace.link_rate(options.rate))
    with Cluster(
        addresses(options.devices), options.ranks, limits, groups, cores, folder
    ) as cluster:
        describe(options, pace, len(cores), groups.has("memory"))
        command = mpirun_command(mpirun, folder, ranks, options.command)
        environment = job_environment(dict(os.environ), folder, pace.limited)
        code = stop.code
        if not stop.asked:
            code = follow(cluster.start(command, environment), cluster, stop)
        measured = cluster.measured()
    tell(measured, pace)
    if options.report:
        write_report(options, pace, measured, code)
    return code


def check_machine() -> None:
    """Refuse where the first of the needs is not met."""
    if not sys.platform.startswith("linux"):
        raise Refusal(f"needs Linux namespaces, but this is {sys.platform}")
    if os.geteuid() != 0:
        raise Refusal("needs root for namespaces and control groups: start it with sudo")
    for program, package in _PACKAGES.items():
        if shutil.which(program) is None:
            raise Refusal(f"needs the command {program}: install the package {package}")


def check_groups(groups: Groups, options: Options, pace: Pace) -> None:
    """Refuse what the control groups of this machine cannot do."""
    if pace.limited and not groups.has("cpu"):
        raise Refusal(
            "more ranks than cores need control groups with the cpu controller, writable here"
        )
    if options.memory is not None and not groups.has("memory"):
        raise Refusal("--memory needs control groups with the memory controller, writable here")


class Stop:
    """How often the user has asked to stop."""

    def __init__(self) -> None:
        self.asked = 0
        self.code = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.asked += 1
        self.code = 128 + number


def follow(job: Job, cluster: Cluster, stop: Stop) -> int:
    """The job's exit code. Asked once, it saves and ends; asked twice, it is left to its end."""
    told = False
    while (code := job.wait(_SAMPLE_SECONDS)) is None:
        cluster.sample_memory()
        if stop.asked and not told:
            # mpirun hands it on to all ranks.
            told = job.signal("USR1")
        if stop.asked > 1:
            return stop.code
    return code


def describe(options: Options, pace: Pace, cores: int, measured: bool) -> None:
    """Say what has been set up."""
    memory = f"{options.memory / 1e6:.0f} MB each" if options.memory else "no limit of memory"
    say(
        f"{_counted(options.devices, 'device')} of {_counted(options.ranks, 'rank')}, {memory}, "
        f"{_mbit(options.rate)} Mbit/s links"
    )
    crowd = f"{_counted(options.devices * options.ranks, 'rank')} on {_counted(cores, 'core')}"
    if pace.limited:
        say(
            f"{crowd}: {pace.share:.4g} of a core each "
            f"({pace.quota_us} of every {pace.period_us} us), waits sleep"
        )
    else:
        say(f"{crowd}: a core each")
    say(
        f"links run at {_mbit(pace.link_rate(options.rate))} Mbit/s here; "
        f"device seconds = measured seconds x {pace.device_seconds:.4g}"
    )
    if not measured:
        say("memory of devices is not measured: no writable control group has that controller")


def tell(measured: list[dict], pace: Pace) -> None:
    """Say what the devices have used."""
    for each in measured:
        parts = []
        if each["memory_held_bytes"] is not None:
            parts.append(f"held {_mb(each['memory_held_bytes'])} MB at most")
        if each["memory_peak_bytes"] is not None:
            parts.append(f"peak with cached files {_mb(each['memory_peak_bytes'])} MB")
        parts.append(
            f"sent {_mb(each['sent_bytes'])} MB, received {_mb(each['received_bytes'])} MB"
        )
        if each["memory_kills"]:
            kills = _counted(each["memory_kills"], "kill")
            parts.append(f"{kills} because memory ran out")
        say(f"{each['device']}: {', '.join(parts)}")


def write_report(options: Options, pace: Pace, measured: list[dict], code: int) -> None:
    """Write everything that was set and measured."""
    asked = {**asdict(options), "report": str(options.report)}
    found = {
        "options": asked,
        "share_of_core": pace.share,
        "device_seconds_per_second": pace.device_seconds,
        "link_bits_per_second": pace.link_rate(options.rate),
        "devices": measured,
        "exit_code": code,
    }
    options.report.write_text(json.dumps(found, indent=2) + "\n")


def say(text: str) -> None:
    """A line to the error stream: the command has the other one for itself."""
    print(f"emulate.py: {text}", file=sys.stderr, flush=True)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _mbit(rate: float) -> str:
    return f"{rate / 1e6:.4g}"


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f}"


if __name__ == "__main__":
    sys.exit(main())
