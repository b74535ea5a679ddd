"""What the ranks of a run hold: predicted by kind, and measured."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpitile.comm.reduce import bytes_in_flight
from mpitile.plan.partition import Partition
from mpitile.runtime.footprint import program_bytes
from mpitile.train.setup import Job

# Arrays as long as the trained values, by optimiser.
STATES = {"sgd": 1, "adam": 2}

_STATUS = Path("/proc/self/status")


def rank_bytes(job: Job, rank: int) -> dict[str, int]:
    """Bytes that a rank of a run will hold by kind, known without allocating any.

    "images" are the tile of the present pass and what is read ahead; "sums" is what MPI
    holds while gradients are added up. Not in it are the decoder's buffers for the
    image file that is being read, and an interpreter with its libraries.
    """
    tile = rank % job.plan.grid.tiles
    dtype = np.dtype(job.settings.train.dtype)
    found = program_bytes(Partition(job.network, job.plan), tile, job.team_images, dtype)
    found["images"] += staging_bytes(job, rank)
    found["optimizer"] = STATES[job.optimizer] * found["gradients"]
    found["sums"] = bytes_in_flight(job.plan.ranks, found["gradients"])
    return found


def staging_bytes(job: Job, rank: int) -> int:
    """Bytes of the buffers into which a rank reads images and from which it sends them."""
    partition = Partition(job.network, job.plan)
    shape = job.network.shape(0)
    cell = shape.channels * np.dtype(job.settings.train.dtype).itemsize
    tiles = [_image_cells(partition, tile) for tile in range(job.plan.grid.tiles)]
    if job.settings.data.read == "all":
        return 2 * job.team_images * tiles[rank % len(tiles)] * cell
    if rank:
        return 0
    # Rank 0 reads all images whole, and cuts them into every rank's box.
    whole = 2 * job.pass_images * shape.height * shape.width
    return (whole + job.pass_images * sum(tiles)) * cell


def _image_cells(partition: Partition, tile: int) -> int:
    return partition.part(tile).stored[0].cells


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
