"""Removes what a run has made, whatever has become of the run.

A run writes down in a folder of its own, before making anything, which control groups it will
make. Its processes all live in one process namespace that ends with the run, and network and
mounts end with them; groups and folder remain. This file, started as a program with the folder
as its argument, waits until the run ends, however it does (its end of a pipe is closed), and
removes them. Where this process is killed, too, the next run does it.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

RUNS = Path("/run/mpitile-emulation")
GROUPS = "groups"

_PATIENCE_SECONDS = 15.0


def identity(pid: int) -> str:
    """A process, told from a later one of the same number; empty if there is none."""
    with suppress(OSError):
        # The name, in brackets, may hold blanks. The start time is field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return f"{pid}-{fields[19]}"
    return ""


def folder_of_this_run(runs: Path = RUNS) -> Path:
    """Where this process's run keeps its files; the name says whose it is."""
    return runs / identity(os.getpid())


def register(folder: Path, groups: list[Path]) -> None:
    """Make a run's folder and note in it the groups that have to be removed after it."""
    folder.mkdir(mode=0o755, parents=True)
    (folder / GROUPS).write_text("".join(f"{group}\n" for group in groups))


def leftovers(runs: Path = RUNS) -> list[Path]:
    """Folders of runs whose process is gone."""
    folders = sorted(runs.glob("*-*"))
    return [folder for folder in folders if identity(_owner(folder)) != folder.name]


def _owner(folder: Path) -> int:
    return int(folder.name.partition("-")[0])


def remove(folder: Path) -> None:
    """End what is left of a run's processes and remove its groups and its folder.

    Raises
    ------
    OSError : where a group cannot be removed.
    """
    with suppress(FileNotFoundError):
        for line in (folder / GROUPS).read_text().splitlines():
            _remove_group(Path(line))
    shutil.rmtree(folder, ignore_errors=True)


def _remove_group(top: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while top.exists():
        try:
            for group in [*_inner_groups(top), top]:
                _kill_members(group)
                with suppress(FileNotFoundError):
                    group.rmdir()
        except OSError:
            # Killed processes take a moment to go.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _inner_groups(top: Path) -> list[Path]:
    folders = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
    return [folder for folder in folders if folder != top]


def _kill_members(group: Path) -> None:
    with suppress(FileNotFoundError):
        for pid in (group / "cgroup.procs").read_text().split():
            # A process that another process namespace hides is listed as 0.
            if pid != "0":
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    try:
        remove(Path(sys.argv[1]))
    except OSError as error:
        print(f"emulate.py: {error.filename}: cannot be removed: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
