"""``mpitile train``: the main job."""

from __future__ import annotations

import argparse
import sys

from mpitile.cli.options import add_override
from mpitile.cli.world import World
from mpitile.comm.agree import together
from mpitile.report.progress import Progress
from mpitile.report.trace import write_trace
from mpitile.train.loop import train
from mpitile.train.settings import read_settings

EXAMPLE = "mpirun -np 4 mpitile train jobs/bccd.toml --set train.steps=300"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN.toml", help="the run file")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint in output.dir, if there is one",
    )
    add_override(parser)


def run(options: argparse.Namespace, world: World) -> None:
    comm = world.communicator()
    settings = together(comm, lambda: read_settings(options.run, options.set))
    if settings.tiling.wait != "auto":
        comm = world.communicator(settings.tiling.wait)

    def open_console(steps: int, done: int) -> Progress:
        return Progress(steps, sys.stderr, enabled=world.rank == 0, done=done)

    train(settings, comm, options.resume, open_console, write_trace)
