"""The steps of all ranks of a job in this process, one rank computing at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mpitile.comm.communicator import Communicator
from mpitile.comm.local import LocalCommunicator, run_ranks
from mpitile.comm.recorded import RecordedCommunicator
from mpitile.comm.recorder import Recorder
from mpitile.comm.topology import Topology, make_topology
from mpitile.errors import InputError
from mpitile.kernels.tile import Tile
from mpitile.network.spec import Network
from mpitile.plan.partition import Partition
from mpitile.plan.plan import check_ranks
from mpitile.plan.recording import Program, Recording, typical_program
from mpitile.train.planning import plan_keys, read_plan
from mpitile.train.proof import random_truths
from mpitile.train.setup import Job
from mpitile.train.trainer import Trainer

# The first step takes memory from the system and fills caches.
_WARM_UP = 1


def record(job: Job, steps: int) -> Recording:
    """Train on random images and record what each rank does.

    All ranks are threads that hand on one baton, so that each one's CPU seconds are those
    of a core that it has for itself. Of several steps the median counts, computation by
    computation. No image is read; weights do not change. Sums of gradients go beside the passes
    as on several devices: what runs on a single one follows from that, but not the other way round.
    """
    job = replace(job, network=_frozen(job))
    recorded = run_ranks(job.plan.ranks, lambda comm: _record_rank(job, steps, comm), in_turn=True)
    return Recording(tuple(map(typical_program, recorded)), {**describe_job(job), "steps": steps})


def describe_job(job: Job) -> dict[str, object]:
    """What the reader of a recording wants to know."""
    return {
        "network": Path(job.network.name).name,
        "size": str(job.network.shape(0)),
        **plan_keys(job.plan),
        "batch": job.batch,
        "subdivisions": job.subdivisions,
        "dtype": job.settings.train.dtype,
        "kernels": job.settings.train.kernels,
    }


def recorded_job(job: Job, recording: Recording, path: str | Path) -> Job:
    """The job with the plan and the batch of a recording, which is of the same network.

    Raises
    ------
    InputError : it is not, or the file does not say.
    """
    about, own = recording.about, describe_job(job)
    for key in ("network", "size"):
        if about.get(key) != own[key]:
            raise InputError(
                f"{path}: {key} = {about.get(key)!r}, but {job.settings.path} has {own[key]!r}: "
                "expected a recording of the same run file"
            )
    try:
        plan = read_plan(about)
        check_ranks(plan, recording.ranks)
        # Refuses groups, weights and filters that do not suit the network.
        groups = len(Partition(job.network, plan).ranges)
        if len(plan.recompute) not in (0, groups):
            raise InputError(f"{len(plan.recompute)} flags of recomputation for {groups} groups")
        batch, subdivisions = (_positive(about, key) for key in ("batch", "subdivisions"))
    except InputError as error:
        raise InputError(f"{path}:1: {error}") from error
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise InputError(f"{path}:1: says no plan and batch as recordings do: {error!r}") from error
    return replace(job, plan=plan, batch=batch, subdivisions=subdivisions)


def _positive(about: Mapping[str, Any], key: str) -> int:
    value = about[key]
    if type(value) is not int or value < 1:
        raise InputError(f"{key} = {value!r}: expected a whole number from 1 on")
    return value


def _frozen(job: Job) -> Network:
    options = replace(job.network.options, learning_rate=0.0, policy="constant", burn_in=0)
    return replace(job.network, options=options)


def _record_rank(job: Job, steps: int, comm: LocalCommunicator) -> Sequence[Program]:
    recorder = Recorder(comm.rank, _WARM_UP, steps)
    topology = make_topology(RecordedCommunicator(comm, recorder), job.plan)
    trainer = Trainer(job, topology, recorder, anywhere=True)
    feeder = RandomFeeder(job, topology, trainer.program.values[0])
    for _ in range(_WARM_UP + steps):
        trainer.step(feeder)
    return recorder.steps


class RandomFeeder:
    """The same random images in every pass; ranks agree on them as on real ones."""

    def __init__(self, job: Job, topology: Topology, tile: Tile) -> None:
        generator = np.random.default_rng([job.settings.train.seed, topology.world.rank])
        self._world: Communicator = topology.world
        self._tile = tile
        self._images = generator.random(tile.array.shape, np.float32).astype(tile.array.dtype)
        self._truths = random_truths(job.network, len(tile.array), generator)
        self._flags = np.zeros(job.pass_images, np.int64)

    def next(self, number: int) -> Sequence:
        """Fill the tile as `mpitile.train.feeding.Feeder` does; the truths."""
        self._world.maximum(self._flags)
        self._tile.array[...] = self._images
        return self._truths
