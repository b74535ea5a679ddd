"""From a run file to the objects of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from mpitile.data.augment import Augmentation
from mpitile.data.datasets import read_dataset
from mpitile.data.samples import CLASSIFICATION, Dataset
from mpitile.errors import InputError
from mpitile.layers.registry import is_loss
from mpitile.network.cfg import read_network
from mpitile.network.shapes import resize
from mpitile.network.spec import Cost, Network, Region, Softmax, Yolo
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.devices import Devices
from mpitile.plan.plan import Plan
from mpitile.plan.search.request import AUTO, Request, without_limits
from mpitile.train.planning import (
    answer,
    earlier_plan,
    run_cluster,
    run_request,
    run_source,
    settle,
)
from mpitile.train.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Job:
    """What a run file means for a number of ranks; the same on every rank.

    Attributes
    ----------
    settings, network, plan : the network has the run's input size and schedule.
    batch : images of a step over all replicas.
    subdivisions : passes that a step's images are divided into.
    optimizer : "sgd" or "adam".
    cluster : what the plan was made for.
    """

    settings: RunSettings
    network: Network
    plan: Plan
    batch: int
    subdivisions: int
    optimizer: str
    cluster: Cluster

    @property
    def pass_images(self) -> int:
        """Images of one forward and backward pass over all replicas."""
        return self.batch // self.subdivisions

    @property
    def team_images(self) -> int:
        """Images of one pass of one replica."""
        return self.pass_images // self.plan.replicas

    def steps(self, images: int) -> int:
        """How many steps to train on a data set of `images` images."""
        train, options = self.settings.train, self.network.options
        if train.steps is not None:
            return train.steps
        if train.epochs is not None:
            return ceil(train.epochs * images / self.batch)
        if options.max_batches:
            return options.max_batches
        raise InputError(
            f"{self.settings.path}: neither train.steps nor train.epochs is given, and "
            f"{self.network.name} has no max_batches"
        )

    @property
    def fingerprint(self) -> str:
        """Of all that decides a step's numbers, but for rounding; to be resumed with.

        Words ``key=value``, so that it can be said which of them differ.
        """
        train, data = self.settings.train, self.settings.data
        # Lines move when a comment is added.
        layers = [replace(layer, line=0) for layer in self.network.layers]
        options = asdict(self.network.options)
        decisive: dict[str, Any] = {
            "network.cfg": _digest(repr(layers)),
            **{f"[net].{key}": options[key] for key in options if key not in _REPLACED},
            "train.batch": self.batch,
            "train.subdivisions": self.subdivisions,
            "train.optimizer": self.optimizer,
            "train.seed": train.seed,
            "train.dtype": train.dtype,
            "train.kernels": train.kernels,
            "data.shuffle": data.shuffle,
            "data.augment": data.augment,
        }
        return " ".join(
            f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in decisive.items()
        )

    def plan_fingerprint(self, devices: Devices) -> str:
        """Of all that decides in what order numbers are added up."""
        # Recomputation gives the same bits.
        return _digest(repr((replace(self.plan, recompute=()), devices)))


# Of the cfg's options, what keys of the run file stand for.
_REPLACED = ("batch", "subdivisions", "adam")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_job(
    settings: RunSettings,
    ranks: int,
    hosts: Sequence[str] = (),
    cluster: Cluster | None = None,
    resume: bool = False,
    limited: bool = True,
) -> Job:
    """Read the network and complete the plan.

    Parameters
    ----------
    hosts, cluster : as `job_request` takes them.
    resume : go on with the plan that the run in ``output.dir`` was begun with.
    limited : whether memory limits count.

    Raises
    ------
    InputError : naming the file and key; where nothing fits, what is missing.
    """
    request = job_request(settings, ranks, hosts, cluster)
    if not limited:
        cluster = without_limits(request.cluster)
        request = replace(request, cluster=cluster, memory_limit=None)
    earlier = earlier_plan(Path(settings.output.dir), ranks) if resume else None
    if earlier:
        request = settle(request, earlier)
    planner, planned = answer(request, run_source(settings))
    return Job(
        settings,
        request.network,
        planned.plan,
        request.passes * request.demand.images,
        request.passes,
        request.optimizer,
        planner.request.cluster,
    )


def job_request(
    settings: RunSettings,
    ranks: int,
    hosts: Sequence[str] = (),
    cluster: Cluster | None = None,
) -> Request:
    """The network of a run file, and what its keys leave to the planner.

    Parameters
    ----------
    hosts : where each rank runs; on one host where left out. What is left to the planner is
        planned for these where no cluster is described.
    cluster : takes the place of ``tiling.cluster``.
    """
    if ranks < 1:
        raise InputError(f"{ranks} ranks: expected at least 1")
    network = job_network(settings)
    train, options = settings.train, network.options
    batch = train.batch or options.batch
    subdivisions = train.subdivisions or (1 if train.batch else options.subdivisions)
    replicas = 1 if settings.tiling.replicas == AUTO else settings.tiling.replicas
    if batch % (subdivisions * replicas):
        raise InputError(
            f"{settings.path}: train.batch = {batch} cannot be divided evenly into "
            f"{subdivisions} subdivision(s) of {replicas} replica(s): expected a multiple "
            f"of {subdivisions * replicas}"
        )
    if settings.data.valid and not is_loss(network.layers[-1].operation):
        raise InputError(
            f"{settings.path}: data.valid = {settings.data.valid!r}, but {network.name} ends "
            "without [region], [yolo] or [softmax]: there is nothing to score"
        )
    optimizer = train.optimizer or ("adam" if options.adam else "sgd")
    cluster = cluster or run_cluster(settings, hosts or ("this host",) * ranks)
    return run_request(settings, network, cluster, ranks, batch, subdivisions, optimizer)


def job_network(settings: RunSettings) -> Network:
    """The network of a run file at its input size, with its learning rate."""
    section = settings.network
    network = read_network(settings.input_path(section.cfg))
    height = section.height or network.options.height
    width = section.width or network.options.width
    if (height, width) != (network.options.height, network.options.width):
        network = resize(network, height, width)
    if settings.train.learning_rate is not None:
        options = replace(
            network.options,
            learning_rate=float(settings.train.learning_rate),
            policy="constant",
            burn_in=0,
        )
        network = replace(network, options=options)
    return network


def class_names(settings: RunSettings) -> list[str] | None:
    """The names in ``data.names``, or in the file that it points to."""
    names = settings.data.names
    if not isinstance(names, str):
        return names
    return read_names(settings.input_path(names))


def read_names(path: Path) -> list[str]:
    """One class name a line; blank lines do not count."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: class names cannot be read: {reason}") from error
    return [line.strip() for line in lines if line.strip()]


def open_dataset(job: Job, selection: str | None) -> tuple[Dataset, tuple[str, ...]]:
    """A data set of the run, checked against the network, and remarks for the user."""
    data = job.settings.data
    root = job.settings.input_path(data.root)
    dataset, remarks = read_dataset(data.format, root, selection, class_names(job.settings))
    if not len(dataset):
        raise InputError(f"{root}: the data set has no images")
    _check_task(job, dataset)
    return dataset, remarks


def _check_task(job: Job, dataset: Dataset) -> None:
    """The network must be made for what the data set has, and its loss for what that knows."""
    last = job.network.layers[-1]
    classifies = isinstance(last.operation, Softmax | Cost)
    where = f"{job.network.name}:{last.line}"
    channels = job.network.shape(0).channels
    if channels != 3:
        raise InputError(
            f"{job.network.name}: [net] channels={channels}: expected 3, as images are RGB"
        )
    if isinstance(last.operation, Region | Yolo):
        if dataset.kind == CLASSIFICATION:
            raise InputError(
                f"{where}: [{last.kind}] needs boxes, but data.format is "
                f"{job.settings.data.format!r}"
            )
        if last.operation.classes != len(dataset.names):
            raise InputError(
                f"{where}: [{last.kind}] has classes={last.operation.classes}, but the data set "
                f"has {len(dataset.names)} classes: {', '.join(dataset.names)}"
            )
    if classifies:
        if dataset.kind != CLASSIFICATION:
            raise InputError(
                f"{where}: [{last.kind}] needs class labels, but data.format is "
                f"{job.settings.data.format!r}: expected 'folders'"
            )
        if last.output_shape.channels != len(dataset.names):
            raise InputError(
                f"{where}: [{last.kind}] has {last.output_shape.channels} outputs, but the data "
                f"set has {len(dataset.names)} classes"
            )


def augmentation(network: Network) -> Augmentation:
    """What the cfg says of random changes; jitter stands in the last detection loss."""
    options, last = network.options, network.layers[-1].operation
    jitter = last.jitter if isinstance(last, Region | Yolo) else 0.2
    return Augmentation(jitter, options.hue, options.saturation, options.exposure, options.flip)
