"""``mpitile eval``: how good given weights are."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from mpitile.checkpoint.weights_file import read_weights
from mpitile.cli.options import add_override
from mpitile.cli.world import World
from mpitile.comm.agree import together
from mpitile.comm.topology import make_topology
from mpitile.errors import InputError
from mpitile.plan.filters import tile_spans
from mpitile.plan.partition import Partition
from mpitile.runtime.calibrate import choose_kernels
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.train.average_precision import Evaluation
from mpitile.train.evaluation import Score, score_images
from mpitile.train.settings import RunSettings, read_settings
from mpitile.train.setup import Job, make_job
from mpitile.train.sources import open_images

EXAMPLE = "mpirun -np 4 mpitile eval jobs/bccd.toml --weights runs/bccd/final.weights"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN.toml", help="the run file; its data.valid is used")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a .weights file")
    add_override(parser)


def run(options: argparse.Namespace, world: World) -> None:
    comm = world.communicator()

    def prepare() -> tuple[Job, Parameters]:
        settings = read_settings(options.run, options.set)
        if settings.data.valid is None:
            raise InputError(f"{settings.path}: data.valid is missing: nothing to evaluate on")
        job = make_job(settings, comm.size, limited=False)
        spans = tile_spans(job.network, job.plan, comm.rank % job.plan.grid.tiles)
        parameters = Parameters(job.network, np.dtype(settings.train.dtype), spans=spans)
        read_weights(options.weights, parameters)
        return job, parameters

    job, parameters = together(comm, prepare)
    settings: RunSettings = job.settings
    topology = make_topology(comm, job.plan)
    images = open_images(job, topology, settings.data.valid)
    partition = Partition(job.network, job.plan)
    choices = choose_kernels(
        settings.train.kernels,
        job.network,
        job.plan.grid,
        job.team_images,
        comm,
        job.plan.filters,
    )
    program = Program(
        partition, topology, parameters, job.team_images, training=False, choices=choices
    )
    for remark in images.remarks:
        world.say(remark)
    score = score_images(job, topology, program, images, world.say)
    if score:
        sys.stdout.write(table(score, images.names))


def table(score: Score, names: tuple[str, ...]) -> str:
    """The score as lines of text."""
    if not isinstance(score, Evaluation):
        return (
            f"images         {score.images}\n"
            f"top-1 accuracy {score.top1:.4f}\ntop-5 accuracy {score.top5:.4f}\n"
        )
    width = max(len("all"), *(len(name) for name in names))
    rows = [f"{'class':{width}}  {'truths':>7}  {'mAP@0.5':>8}  {'mAP@0.5:0.95':>12}\n"]
    for name, truths, ap50, ap in zip(names, score.truths, score.ap50, score.ap, strict=True):
        rows.append(f"{name:{width}}  {truths:>7}  {ap50:>8.4f}  {ap:>12.4f}\n")
    total = sum(score.truths)
    rows.append(f"{'all':{width}}  {total:>7}  {score.mean_ap50:>8.4f}  {score.mean_ap:>12.4f}\n")
    return "".join(rows)
