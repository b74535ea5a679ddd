"""What the ranks of a run hold: predicted by kind, and measured."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpitile.plan.devices import Devices, expected_devices
from mpitile.plan.partition import Partition
from mpitile.runtime.footprint import program_bytes
from mpitile.train.setup import Job
from mpitile.train.state import state_bytes

_STATUS = Path("/proc/self/status")
_ROLLUP = Path("/proc/self/smaps_rollup")


def rank_bytes(job: Job, rank: int, devices: Devices | None = None) -> dict[str, int]:
    """Bytes that a rank of a run will hold by kind, known without allocating any.

    What a device's ranks share is in the account of the first of them. "images" are the tile
    of the present pass and what is read ahead; "sums" is what gradients of other devices are
    received in. Not in it are the decoder's buffers for the image file that is being read, and
    an interpreter with its libraries.

    Parameters
    ----------
    devices : which ranks share a device; as the run file says, on one host, if left out.
    """
    if devices is None:
        devices = expected_devices(job.plan.ranks, job.settings.tiling.ranks_per_device)
    tile = rank % job.plan.grid.tiles
    dtype = np.dtype(job.settings.train.dtype)
    found = program_bytes(Partition(job.network, job.plan), tile, job.team_images, dtype)
    found["images"] += staging_bytes(job, rank)
    return found | state_bytes(job.network, dtype, job.optimizer, devices, rank)


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
