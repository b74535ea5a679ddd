"""Starts commands, under mpirun or not, and ends them whatever they do.

mpirun gives its ranks process groups of their own and the MPIs have different ways to
clean up, so every job carries a mark in its environment by which its processes are found.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

MARK = "MPITILE_TEST_JOB"

# Containers run everything as root; Open MPI wants to be told twice that it is meant.
_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "PRTE_ALLOW_RUN_AS_ROOT")
_ALLOWED = {name + ending: "1" for name in _ROOT for ending in ("", "_CONFIRM")}
_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")


@functools.cache
def mpirun():
    """The command that starts ranks, with what it needs where ranks outnumber cores.

    None where there is no mpirun. One beside Python, from a wheel, comes first: it belongs to
    the MPI that mpi4py then finds.
    """
    program = shutil.which("mpirun", path=Path(sys.executable).parent) or shutil.which("mpirun")
    if program is None:
        return None
    version = subprocess.run(
        [program, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **_ALLOWED},
    ).stdout
    # MPICH and its kin neither count cores nor bind ranks to them unless asked.
    flags = ["--oversubscribe", "--bind-to", "none"] if "Open MPI" in version else []
    return [program, *flags]


@dataclass(frozen=True)
class Result:
    """How a job ended; `out` and `err` are those of all ranks."""

    code: int
    out: str
    err: str

    @property
    def complaints(self):
        """The lines that mpitile itself, not mpirun, has put on the error stream."""
        return [line for line in self.err.splitlines() if line.startswith("mpitile: ")]

    def __str__(self):
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Job:
    """A running command; also a context manager that leaves no process behind.

    Parameters
    ----------
    command : program and arguments.
    ranks : how many to start under mpirun, without which the test is skipped; None starts
        the command alone.
    cwd : folder to start in.
    env : variables to add.
    """

    def __init__(self, command, ranks=None, cwd=None, env=None):
        self._mark = uuid.uuid4().hex
        self._files = ExitStack()
        # Files, not pipes: those could be held open by a process that outlives the job.
        self._out = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        self._err = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        # Two mpiruns of Open MPI that share this folder may remove it under each other.
        folder = self._files.enter_context(
            tempfile.TemporaryDirectory(prefix="mpitile-", ignore_cleanup_errors=True)
        )
        # Ranks that are killed leave their shared memory behind, so let it lie there, too.
        places = dict.fromkeys(("TMPDIR", "OMPI_MCA_btl_sm_backing_directory"), folder)
        own = {**places, MARK: self._mark}
        start = [] if ranks is None else [*(mpirun() or _skip()), "-np", str(ranks)]
        self._process = subprocess.Popen(
            [*start, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            cwd=cwd,
            env={**os.environ, **_ALLOWED, **(env or {}), **own},
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        self._files.close()

    @property
    def pid(self):
        """The process of the command itself: mpirun's, where there is one."""
        return self._process.pid

    @property
    def running(self):
        return self._process.poll() is None

    def wait(self, timeout):
        """The result; after `timeout` seconds everything is killed and the test fails."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end within {timeout} s, killed: {self.result}") from None
        # mpirun is gone, so whatever is left of its ranks has no business here.
        self.kill()
        return self.result

    @property
    def result(self):
        return Result(self._process.returncode, _text(self._out), _text(self._err))

    def kill(self):
        """SIGKILL to all processes at once, as a power cut would be."""
        deadline = time.monotonic() + 30
        while pids := [*self.processes()]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            if time.monotonic() > deadline:
                raise AssertionError(f"processes {pids} cannot be killed")
            time.sleep(0.01)
        self._process.wait()

    def processes(self):
        """The environment, by process number, of each living process of the job."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with suppress(OSError):
                entries = (folder / "environ").read_bytes().split(b"\0")
                if f"{MARK}={self._mark}".encode() in entries:
                    pairs = (entry.decode(errors="replace").partition("=") for entry in entries)
                    found[int(folder.name)] = {name: value for name, _, value in pairs}
        return found

    def pid_of(self, rank):
        """The process of one rank under mpirun."""
        for pid, environment in self.processes().items():
            if any(environment.get(name) == str(rank) for name in _RANK_VARIABLES):
                return pid
        raise AssertionError(f"rank {rank} has no process: {self.result}")

    def signal(self, number, rank=None):
        """Send a signal to one rank, else to the command itself: mpirun, where there is one."""
        os.kill(self._process.pid if rank is None else self.pid_of(rank), number)


def run(command, ranks=None, timeout=120, cwd=None, env=None):
    """Start a command, wait for it and return its `Result`."""
    with Job(command, ranks, cwd, env) as job:
        return job.wait(timeout)


def _skip():
    pytest.skip("needs an mpirun: pip install 'mpitile[mpi]', or a system MPI")


def _text(file):
    file.seek(0)
    return file.read().decode(errors="replace")
