"""Entry point: finds the verb, runs it, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

# One rank per core: more threads would only compete. OpenBLAS reads these when it is
# loaded, so they have to be set before NumPy is imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from mpitile.errors import EXIT_DONE, EXIT_FAILURE, EXIT_INPUT, MpitileError  # noqa: E402

try:
    from mpitile.cli import check, detect, evaluate, plan, profile, record, report, simulate, train
    from mpitile.cli.world import World
except (ImportError, RuntimeError) as error:
    # What mpi4py says where there is no libmpi to load; anything else is a fault.
    if "libmpi" not in str(error):
        raise
    reason = str(error).splitlines()[-1].strip()
    print(
        "mpitile: no MPI library found: pip install 'mpitile[mpi]' or install Open MPI/MPICH "
        f"({reason})",
        file=sys.stderr,
    )
    sys.exit(EXIT_INPUT)

VERBS = {
    "train": train,
    "check": check,
    "eval": evaluate,
    "detect": detect,
    "plan": plan,
    "profile": profile,
    "record": record,
    "report": report,
    "simulate": simulate,
}


def make_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    parser = argparse.ArgumentParser(
        prog="mpitile",
        description="Train object detectors on a cluster of small devices, exactly. Start it "
        "under mpirun to use several ranks: mpirun -np 4 mpitile train RUN.toml",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example: {module.EXAMPLE}",
        )
        module.add_arguments(verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 2 bad usage or input, 3 stopped by a signal, 1 else."""
    world = World()
    # Usage errors and help end here, the same on all ranks.
    options = _parse(world, arguments)
    try:
        code = VERBS[options.verb].run(options, world) or EXIT_DONE
    except MpitileError as error:
        code = error.exit_code
        world.leave(f"mpitile: {error}", code)
    except BaseException as error:
        _give_up(world, error)
        code = EXIT_FAILURE
    sys.exit(code)


def _parse(world: World, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; rank 0 alone prints what argparse has to say."""
    with contextlib.ExitStack() as silence:
        if world.rank:
            silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
            silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
        return make_parser().parse_args(arguments)


def _give_up(world: World, error: BaseException) -> None:
    """Report an unexpected failure of this rank and end all ranks, which may wait for it."""
    where = f"rank {world.rank}: " if world.size > 1 else ""
    traceback.print_exception(error)
    print(f"mpitile: {where}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if world.size > 1:
        world.abort(EXIT_FAILURE)
