"""Feeders of the training and the validation images of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpitile.comm.agree import on_first, together
from mpitile.comm.topology import Topology
from mpitile.data.batches import BatchSource
from mpitile.data.samples import CLASSIFICATION, Dataset
from mpitile.errors import InputError
from mpitile.geometry.box import whole
from mpitile.runtime.program import Program
from mpitile.train.feeding import Feeder, Passes, RootFeeder, truth_capacity
from mpitile.train.setup import Job, augmentation, open_dataset


@dataclass(frozen=True)
class Images:
    """A data set as this rank sees it.

    Attributes
    ----------
    count : how many images it has; known on every rank.
    names : its class names; known on every rank.
    classification : whether it has class labels rather than boxes.
    capacity : the most truths that an image has.
    dataset : None on ranks that read nothing.
    remarks : what the user should know about it, on rank 0.
    """

    count: int
    names: tuple[str, ...]
    classification: bool
    capacity: int
    dataset: Dataset | None
    remarks: tuple[str, ...]


def open_images(job: Job, topology: Topology, selection: str | None) -> Images:
    """Read what is true of the images, where they are: on all ranks, or rank 0. Collective.

    Raises
    ------
    InputError : on all ranks; also where ranks find different data sets.
    """
    world = topology.world
    opened: list[tuple[Dataset, tuple[str, ...]]] = []

    def read() -> tuple[int, tuple[str, ...], bool, int]:
        dataset, remarks = open_dataset(job, selection)
        opened.append((dataset, remarks))
        classification = dataset.kind == CLASSIFICATION
        return len(dataset), dataset.names, classification, truth_capacity(dataset)

    if job.settings.data.read == "root":
        facts = on_first(world, read)
    else:
        facts = together(world, read)
        everyone = world.allgather((*facts, opened[0][0].digest()))
        for rank, others in enumerate(everyone):
            if others != everyone[0]:
                raise InputError(_difference(rank, others, everyone[0]))
    return Images(*facts, *(opened[0] if opened else (None, ())))


def _difference(rank: int, found: Sequence[Any], first: Sequence[Any]) -> str:
    """What a rank has other than rank 0."""
    what = "as many images, but other names, boxes or classes"
    if found[:2] != first[:2]:
        what = f"{found[0]} images of {len(found[1])} classes, not {first[0]} of {len(first[1])}"
    return (
        f"rank {rank} finds another data set than rank 0: {what}; with "
        'data.read = "root" rank 0 alone reads'
    )


def training_feeder(
    job: Job,
    topology: Topology,
    program: Program,
    images: Images,
    passes: range,
    remark: Callable[[str], None],
) -> Feeder:
    """Feeds passes of training, shuffled and augmented as the run file says. Collective."""
    data = job.settings.data
    return _feeder(
        job,
        topology,
        program,
        images,
        passes,
        remark,
        shuffle=data.shuffle,
        augmentation=augmentation(job.network) if data.augment else None,
    )


def validation_feeder(
    job: Job,
    topology: Topology,
    program: Program,
    images: Images,
    passes: range,
    remark: Callable[[str], None],
) -> Feeder:
    """Feeds the images in their order, letterboxed. Collective."""
    return _feeder(job, topology, program, images, passes, remark, shuffle=False, augmentation=None)


def _feeder(
    job: Job,
    topology: Topology,
    program: Program,
    images: Images,
    passes: range,
    remark: Callable[[str], None],
    **source_options: Any,
) -> Feeder:
    tile = program.values[0]
    from_root = job.settings.data.read == "root"
    source = None
    if images.dataset:
        source = BatchSource(
            images.dataset,
            (tile.height, tile.width),
            whole(tile.height, tile.width) if from_root else tile.box,
            tile.array.dtype,
            job.settings.train.seed,
            channels=tile.array.shape[3],
            **source_options,
        )
    skip = job.settings.data.unreadable == "skip"
    division = Passes(job.pass_images, job.plan.replicas)
    if not from_root:
        return Feeder(topology, tile, source, division, passes, skip, remark)
    return RootFeeder(
        topology,
        tile,
        source,
        division,
        passes,
        skip,
        remark,
        boxes=topology.team.allgather(tile.box),
        capacity=images.capacity,
        classification=images.classification,
    )
