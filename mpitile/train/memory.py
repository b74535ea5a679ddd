"""What a rank's process holds, as the system counts it, and bytes in words."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """The memory that this process holds now; where that is not told, the most so far."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        # It counts what the process was before it became this program, too.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (size,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(size) * 1024


def describe_bytes(kinds: Mapping[str, int]) -> str:
    """Bytes by kind in one line, the largest first; what is nothing is left out."""
    order = sorted((kind for kind in kinds if kinds[kind]), key=lambda kind: -kinds[kind])
    parts = ", ".join(f"{kind} {_megabytes(kinds[kind])}" for kind in order)
    return f"{_megabytes(sum(kinds.values()))} MB ({parts})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}" if size < 1e8 else f"{size / 1e6:.0f}"
