"""Open MPI on the devices: its hostfile, its command line, and the job that it is."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from emulation import Refusal
from emulation.links import SUBNET, Address

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def path_with_tools(path: str) -> str:
    """`path` with what sudo, or a plain user's shell, may leave out: Python's folder, sbin."""
    folders = [str(Path(sys.executable).parent), *path.split(os.pathsep), *_SYSTEM_FOLDERS]
    return os.pathsep.join(dict.fromkeys(folder for folder in folders if folder))


def find_mpirun() -> str:
    """The full path of Open MPI's mpirun, so that its daemon is found beside it."""
    program = shutil.which("mpirun")
    if program is None:
        raise Refusal("no mpirun found: pip install 'mpitile[mpi]'")
    allowed = {**os.environ, **dict.fromkeys(_ROOT, "1")}
    version = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False, env=allowed
    ).stdout.partition("\n")[0]
    number = version.rpartition(" ")[2].partition(".")[0]
    if "Open MPI" not in version or not number.isdecimal() or int(number) < 5:
        raise Refusal(f"needs Open MPI 5 or later, but {program} is {version or 'unknown'}")
    return program


def hostfile(devices: list[Address], ranks: int) -> str:
    """The text of a hostfile with a slot for each rank."""
    return "".join(f"{each.device} slots={ranks}\n" for each in devices)


def mpirun_command(mpirun: str, folder: Path, ranks: int, command: tuple[str, ...]) -> list[str]:
    """The command that starts `ranks` ranks in all; TCP is all that devices have in common."""
    return [
        *(mpirun, "-np", str(ranks), "--hostfile", str(folder / "hostfile")),
        *("--map-by", "slot", "--bind-to", "none"),
        *("--prtemca", "plm_ssh_agent", f"/bin/sh {folder / 'agent.sh'}"),
        *("--prtemca", "prte_if_include", SUBNET),
        *("--mca", "btl_tcp_if_include", SUBNET),
        *("--mca", "pml", "ob1", "--mca", "btl", "self,sm,tcp"),
        *("sh", str(Path(__file__).with_name("rank.sh")), *command),
    ]


def job_environment(given: dict[str, str], folder: Path, limited: bool) -> dict[str, str]:
    """The variables of mpirun and of all ranks: those `given`, and what the devices need.

    Parameters
    ----------
    limited : whether ranks have only a share of a core, which they must not spend on waiting.
    """
    own = {
        **dict.fromkeys(_ROOT, "1"),
        "MPITILE_EMULATION": str(folder),
        "TMPDIR": str(folder),
    }
    if limited:
        own |= {"MPITILE_WAIT": "sleep", "OMPI_MCA_mpi_yield_when_idle": "1"}
    return {**dict.fromkeys(_THREADS, "1"), **given, **own}


class Job:
    """The running mpirun.

    Parameters
    ----------
    inside : the command that enters the head's namespaces.
    """

    def __init__(
        self, inside: list[str], command: list[str], environment: dict[str, str], folder: Path
    ) -> None:
        self._inside = inside
        self._number = folder / "mpirun.pid"
        # Entering a mount namespace leads to its root folder.
        script = 'echo $$ >"$0" && cd "$1" && shift && exec "$@"'
        note = ["sh", "-c", script, str(self._number), os.getcwd()]
        self._process = subprocess.Popen(
            [*inside, *note, *command],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def wait(self, seconds: float) -> int | None:
        """The exit code; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(seconds)
            return 128 - code if code < 0 else code
        return None

    def signal(self, name: str) -> bool:
        """Send mpirun a signal; whether it was there to have it."""
        with suppress(FileNotFoundError):
            number = self._number.read_text().strip()
            kill = ["sh", "-c", f"kill -s {name} {number}"]
            return bool(number) and subprocess.call([*self._inside, *kill]) == 0
        return False
