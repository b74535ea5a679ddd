"""Entry point: finds the verb, runs it, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

# One rank per core: more threads would only compete. OpenBLAS reads these when it is
# loaded, so they have to be set before NumPy is imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from mpitile.cli.world import World  # noqa: E402
from mpitile.errors import EXIT_DONE, EXIT_FAILURE, MpitileError  # noqa: E402

# Of each verb, its file here, imported when the verb is asked for, and what it does.
VERBS = {
    "train": ("train", "train a network as a run file says"),
    "check": ("check", "prove that a grid of tiles takes the same training steps as one rank"),
    "eval": (
        "evaluate",
        "mean average precision (detection) or accuracy (classification) on the validation images",
    ),
    "detect": ("detect", "find objects in images; prints the boxes and draws them into PNG files"),
    "plan": (
        "plan",
        "choose grid, groups and recomputation, and predict bytes and seconds; nothing is run",
    ),
    "profile": (
        "profile",
        "measure the devices and links of this start, and write them to a cluster file",
    ),
    "record": (
        "record",
        "record the steps of many ranks in one process, for simulate --recording",
    ),
    "report": (
        "report",
        "draw what a run folder holds: one HTML page that needs nothing else, and its pictures",
    ),
    "simulate": ("simulate", "predict a step's timeline on a cluster that need not be there"),
}


def make_parser(asked: str | None) -> argparse.ArgumentParser:
    """All verbs, and the options of the one that is asked for."""
    parser = argparse.ArgumentParser(
        prog="mpitile",
        description="Train object detectors on a cluster of small devices, exactly. Start it "
        "under mpirun to use several ranks: mpirun -np 4 mpitile train RUN.toml",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (_, purpose) in VERBS.items():
        verb = verbs.add_parser(name, help=purpose, description=purpose)
        if name == asked:
            module = _module(name)
            verb.epilog = f"example: {module.EXAMPLE}"
            module.add_arguments(verb)
    return parser


def _module(verb: str) -> ModuleType:
    return import_module(f"mpitile.cli.{VERBS[verb][0]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 2 bad usage or input, 3 stopped by a signal, 1 else."""
    world = World()
    try:
        world.meet()
        options = _parse(world, sys.argv[1:] if arguments is None else arguments)
        code = _module(options.verb).run(options, world) or EXIT_DONE
    except SystemExit:
        # Help or a usage error, the same on all ranks.
        raise
    except MpitileError as error:
        code = error.exit_code
        world.leave(f"mpitile: {error}", code)
    except BaseException as error:
        _give_up(world, error)
        code = EXIT_FAILURE
    sys.exit(code)


def _parse(world: World, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; rank 0 alone prints what argparse has to say."""
    asked = next((word for word in arguments if not word.startswith("-")), None)
    parser = make_parser(asked)
    with contextlib.ExitStack() as silence:
        if world.rank:
            silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
            silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
        return parser.parse_args(arguments)


def _give_up(world: World, error: BaseException) -> None:
    """Report an unexpected failure of this rank and end all ranks, which may wait for it."""
    where = f"rank {world.rank}: " if world.size > 1 else ""
    traceback.print_exception(error)
    print(f"mpitile: {where}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if world.size > 1:
        world.abort(EXIT_FAILURE)
