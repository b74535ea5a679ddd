"""What a rank's process holds, as the system counts it, and bytes in words."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

_STATUS = Path("/proc/self/status")
_ROLLUP = Path("/proc/self/smaps_rollup")


def resident_bytes() -> int:
    """The memory that this process holds now; where that is not told, the most so far.

    Of memory that it shares with other processes only its part counts, so that the sum over
    processes is what they hold together.
    """
    return _status("VmRSS") - _shared_elsewhere()


def peak_bytes() -> int:
    """The most memory that this process has held so far, shared memory as it is now."""
    return peak_resident_bytes() - _shared_elsewhere()


def peak_resident_bytes() -> int:
    """The most memory that this process has had mapped so far, shared or not."""
    return _status("VmHWM")


def _shared_elsewhere() -> int:
    """What other processes have to answer for of the shared memory that this one has touched.

    Pages are divided among the processes that have touched them.
    """
    try:
        own = _field(_ROLLUP, "Pss_Shmem")
        return _field(_STATUS, "RssShmem") - own
    except (OSError, KeyError):
        return 0


def _status(name: str) -> int:
    try:
        return _field(_STATUS, name)
    except OSError:
        # It counts what the process was before it became this program, too.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _field(path: Path, name: str) -> int:
    """Bytes of a line of a file of the kernel's.

    Raises
    ------
    KeyError : there is no such line.
    """
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def describe_bytes(kinds: Mapping[str, int]) -> str:
    """Bytes by kind in one line, the largest first; what is nothing is left out."""
    order = sorted((kind for kind in kinds if kinds[kind]), key=lambda kind: -kinds[kind])
    parts = ", ".join(f"{kind} {_megabytes(kinds[kind])}" for kind in order)
    return f"{_megabytes(sum(kinds.values()))} MB ({parts})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}" if size < 1e8 else f"{size / 1e6:.0f}"
