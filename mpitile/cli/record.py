"""``mpitile record``: what each rank of a run does in a step, measured on this machine alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mpitile.cli.options import add_override
from mpitile.cli.world import World
from mpitile.errors import InputError
from mpitile.plan.plan import check_ranks
from mpitile.plan.recording import Recording, total_seconds
from mpitile.plan.simulation.recording_file import write_recording
from mpitile.train.recording import record
from mpitile.train.settings import read_settings
from mpitile.train.setup import make_job

EXAMPLE = "mpitile record jobs/y16.toml --ranks 24 --out y16-24.jsonl --set train.batch=8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN.toml", help="the run file; no images are read")
    parser.add_argument("--ranks", type=int, required=True, metavar="N", help="of the plan")
    parser.add_argument("--batch", type=int, help="images of a step instead of the run file's")
    parser.add_argument(
        "--steps", type=int, default=3, help="steps, of which the median counts (3)"
    )
    parser.add_argument(
        "--out", default="recording.jsonl", metavar="FILE", help="where to (recording.jsonl)"
    )
    add_override(parser)


def run(options: argparse.Namespace, world: World) -> None:
    world.alone("record")
    for name in ("ranks", "steps"):
        value = getattr(options, name)
        if value < 1:
            raise InputError(f"--{name} {value}: expected at least 1")
    overrides = list(options.set)
    if options.batch is not None:
        overrides.append(f"train.batch={options.batch}")
    job = make_job(read_settings(options.run, overrides), options.ranks)
    check_ranks(job.plan, options.ranks)
    out = Path(options.out)
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: expected a file in a folder that is there")
    recording = record(job, options.steps)
    write_recording(recording, out)
    _print(recording, out)


def _print(recording: Recording, out: Path) -> None:
    seconds = [total_seconds(program) for program in recording.programs]
    about = recording.about
    sys.stdout.write(
        f"{about['network']} at {about['size']}, batch {about['batch']}: {recording.ranks} ranks, "
        f"grid {about['grid']}, replicas {about['replicas']}, groups "
        f"{','.join(map(str, about['groups']))}\n"
        f"CPU seconds of a step: {min(seconds):.4g} to {max(seconds):.4g} a rank, "
        f"{sum(seconds):.4g} in all\n"
        f"{out}\n"
    )
