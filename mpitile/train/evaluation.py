"""How good the present weights are: mean average precision, or accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from mpitile.comm.topology import Topology
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Step
from mpitile.network.heads import heads
from mpitile.runtime.program import Program
from mpitile.train.average_precision import Evaluation, evaluate
from mpitile.train.detections import ROW, decode_head, suppress
from mpitile.train.feeding import Feeder, Passes
from mpitile.train.setup import Job
from mpitile.train.sources import Images, validation_feeder

# Darknet's thresholds for validation.
SCORE_THRESHOLD = 0.005
OVERLAP_THRESHOLD = 0.45


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of images whose label is the most likely class, or among the five most likely."""

    top1: float
    top5: float
    images: int


Score = Evaluation | Accuracy


def main_figure(score: Score) -> float:
    """The one number to compare by: mAP@0.5 or accuracy, in [0, 1]."""
    return score.mean_ap50 if isinstance(score, Evaluation) else score.top1


def owned_detections(program: Program, step: Step, threshold: float) -> list[np.ndarray]:
    """Run an inference pass: detections in the cells that this rank owns, by image. Collective.

    Rows (n, 6) as `mpitile.train.detections` has them, those of all heads, before suppression.
    """
    network = program.network
    rows: list[list[np.ndarray]] = [[np.zeros((0, ROW))] for _ in range(program.images)]
    wanted = {layer.output: layer for layer in heads(network)}

    def decode(tensor: int, tile: Tile) -> None:
        """At once: the memory of a head inside the network may be another tensor's next."""
        owned = program.part.owned[tensor]
        if tensor in wanted and not owned.empty:
            for found, outputs in zip(rows, tile.view(owned), strict=True):
                found.append(
                    decode_head(wanted[tensor], network.shape(0), outputs, owned, threshold)
                )

    program.forward(step, decode)
    return [np.concatenate(found) for found in rows]


def owned_likelihoods(program: Program, step: Step) -> list[np.ndarray]:
    """Run an inference pass: class probabilities by image, (1, classes) on the rank that
    owns the last cell, (0, classes) on others. Collective."""
    program.forward(step)
    tensor = program.network.layers[-1].output
    owned = program.part.owned[tensor]
    values = program.values[tensor].view(owned)
    return list(values.reshape(len(values), -1, values.shape[3]).copy())


def inference_step(topology: Topology, images: int) -> Step:
    """A pass that computes outputs alone."""
    return Step(training=False, reduce=topology.world.sum, images=images)


def describe(score: Score) -> str:
    """A score in one line."""
    name = "mAP@0.5" if isinstance(score, Evaluation) else "accuracy"
    return f"{name} {main_figure(score):.4f} on {score.images} images"


def score_images(
    job: Job,
    topology: Topology,
    program: Program,
    images: Images,
    remark: Callable[[str], None],
) -> Score | None:
    """Score a program's weights on a data set of the run; on rank 0. Collective."""
    passes = Passes(job.pass_images, job.plan.replicas)
    numbers = range(ceil(images.count / passes.images))
    with validation_feeder(job, topology, program, images, numbers, remark) as feeder:
        return score_network(topology, program, feeder, passes, images.count)


def score_network(
    topology: Topology, program: Program, feeder: Feeder, passes: Passes, count: int
) -> Score | None:
    """Run the first `count` positions through the network; the score on rank 0. Collective.

    Truths and detections are compared on the network's canvas, onto which letterboxing
    has scaled both alike. Images that cannot be read do not count.

    Parameters
    ----------
    feeder : of the data set in its order, without augmentation.
    """
    detects = bool(heads(program.network))
    found: dict[int, list[np.ndarray]] = {}
    known: dict[int, np.ndarray] = {}
    for number in range(ceil(count / passes.images)):
        truths = feeder.next(number)
        step = inference_step(topology, passes.images)
        if detects:
            rows = owned_detections(program, step, SCORE_THRESHOLD)
        else:
            rows = owned_likelihoods(program, step)
        positions = passes.positions(number, topology.replica)
        mine = list(zip(positions, rows, truths, strict=True))
        for part in topology.world.gather(mine) or ():
            for position, some, truth in part:
                if position < count and position not in feeder.replaced:
                    found.setdefault(position, []).append(some)
                    known[position] = truth
    if topology.world.rank:
        return None
    order = sorted(found)
    outputs = [np.concatenate(found[position]) for position in order]
    answers = [known[position] for position in order]
    if detects:
        classes = program.network.layers[-1].operation.classes
        return evaluate([suppress(rows, OVERLAP_THRESHOLD) for rows in outputs], answers, classes)
    return _accuracy(outputs, answers)


def _accuracy(likelihoods: list[np.ndarray], labels: list[int]) -> Accuracy:
    best = [np.argsort(-row[0], kind="stable") for row in likelihoods]
    hits = [
        [label in order[:first] for order, label in zip(best, labels, strict=True)]
        for first in (1, 5)
    ]
    return Accuracy(float(np.mean(hits[0])), float(np.mean(hits[1])), len(labels))
