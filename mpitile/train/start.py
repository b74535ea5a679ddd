"""What happens between reading the run file and the first step."""

from __future__ import annotations

import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpitile.checkpoint import shards
from mpitile.checkpoint.copies import keepers
from mpitile.checkpoint.weights_file import read_weights
from mpitile.comm.agree import on_first, together
from mpitile.comm.communicator import Communicator
from mpitile.errors import InputError
from mpitile.plan.clusters.devices import Devices, group_ranks
from mpitile.train.forecast import job_bytes, job_seconds
from mpitile.train.planning import plan_keys, rank_keys
from mpitile.train.run_folder import NETWORK, RunFolder, earlier_folder, set_aside
from mpitile.train.settings import RunSettings, write_settings
from mpitile.train.setup import Job
from mpitile.train.trainer import Trainer


def check_memory(job: Job, world: Communicator) -> None:
    """Hold the arrays of each device's ranks against ``tiling.memory_limit``. Collective.

    The planner has done so for the devices that it knows of; ranks may have been placed in
    another way. Nothing has been allocated yet.

    Raises
    ------
    InputError : on all ranks; says which device needs how much.
    """
    settings = job.settings
    allowed = settings.tiling.memory_bytes
    if allowed is None:
        return
    devices = _devices(settings, world)
    sizes = [sum(kinds.values()) for kinds in job_bytes(job, devices)]
    needed = [sum(sizes[rank] for rank in ranks) for ranks in devices.ranks]
    most = max(needed)
    if most > allowed:
        fullest = devices.ranks[needed.index(most)]
        host = world.allgather(socket.gethostname())[fullest[0]]
        ranks = ", ".join(map(str, fullest))
        raise InputError(
            f"{settings.path}: tiling.memory_limit = {settings.tiling.memory_limit!r}, but the "
            f"ranks on {host} ({ranks}) need {most / 1e6:.0f} MB: spread them over more devices, "
            f"or lower train.batch ({job.batch}) or raise train.subdivisions ({job.subdivisions})"
        )


def find_keepers(settings: RunSettings, world: Communicator) -> tuple[int, ...]:
    """For each rank the one that is to keep a copy of its shards, if any is. Collective."""
    return keepers(_devices(settings, world)) if settings.checkpoint.partner else ()


def _devices(settings: RunSettings, world: Communicator) -> Devices:
    """As they are, also where ranks of one have no room to share memory. Collective."""
    return group_ranks(world.hosts(), settings.tiling.ranks_per_device)


def starting_point(trainer: Trainer, resume: bool) -> tuple[float | None, str]:
    """Fill the trainer from a checkpoint or a weights file, or leave it as drawn. Collective.

    Returns
    -------
    The best validation figure so far, and where the weights come from, for the user.
    """
    world, settings = trainer.topology.world, trainer.job.settings
    checkpoints = Path(settings.output.dir) / "checkpoints"
    newest = shards.latest(checkpoints, world) if resume else None
    if newest:
        restored = shards.restore(newest, world)
        progress = shards.load(newest, world, trainer.arrays, trainer.job.fingerprint)
        trainer.done = progress.step
        origin = f"resumed after step {progress.step} from {newest}"
        if restored:
            origin += f", with {', '.join(restored)} from copies on other devices"
        if progress.plan != trainer.progress(None).plan:
            origin += ", which another plan or other devices wrote: numbers go on as theirs would, "
            origin += "but for rounding"
        return progress.best, origin
    nothing = f"no checkpoint in {checkpoints}, " if resume else ""
    if settings.network.weights is None:
        return None, f"{nothing}weights drawn from seed {settings.train.seed}"
    path = settings.input_path(settings.network.weights)
    layers, _ = together(world, lambda: read_weights(path, trainer.parameters, partial=True))
    return None, f"{nothing}weights of the first {layers} layers from {path}"


def open_run_folder(trainer: Trainer, base: int) -> RunFolder | None:
    """The run's files on rank 0, None elsewhere; an earlier run's are set aside. Collective.

    `base` is what this process held before the trainer was made, in bytes.
    """
    world, settings = trainer.topology.world, trainer.job.settings
    path = Path(settings.output.dir)
    if trainer.done == 0:
        earlier = on_first(world, lambda: earlier_folder(path))
        # On every rank: devices may have file systems of their own.
        together(world, lambda: set_aside(path, earlier))
    ranks = world.allgather(_rank_report(trainer, base))

    def report() -> dict[str, Any]:
        """What ``mpitile plan --json`` prints, and where each rank is."""
        plan = plan_keys(trainer.job.plan)
        return {**plan, "step_seconds": job_seconds(trainer.job).step_seconds, "ranks": ranks}

    def open_folder() -> RunFolder | None:
        if world.rank:
            return None
        folder = RunFolder(path, trainer.done, write_settings(settings), report())
        try:
            with suppress(shutil.SameFileError):
                shutil.copyfile(settings.input_path(settings.network.cfg), path / NETWORK)
        except OSError as error:
            raise InputError(f"output.dir {path}: cannot be written: {error}") from error
        return folder

    return together(world, open_folder)


def _rank_report(trainer: Trainer, base: int) -> dict[str, Any]:
    """A rank's entry of ``plan.json``."""
    rank, box = trainer.topology.world.rank, trainer.program.values[0].box
    held = job_bytes(trainer.job, trainer.group.devices)[rank]
    return {
        **rank_keys(trainer.job.plan, rank),
        "host": socket.gethostname(),
        "device": trainer.group.number,
        "image_box": [box.y0, box.y1, box.x0, box.x1],
        "bytes": held,
        "total_bytes": sum(held.values()),
        "base_bytes": base,
    }
