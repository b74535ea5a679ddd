"""``mpitile report``: a run folder as one page with pictures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mpitile.cli.world import World
from mpitile.errors import InputError
from mpitile.report.run_report import write_report

EXAMPLE = "mpitile report runs/quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="RUN_DIR", type=Path, help="a run's output.dir, finished or not"
    )
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        type=Path,
        help="the page; pictures go into a folder of its name beside it (RUN_DIR/report.html)",
    )


def run(options: argparse.Namespace, world: World) -> None:
    world.alone("report")
    target = options.out or options.folder / "report.html"
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {target}: expected a file that ends in .html")
    write_report(options.folder, target)
    sys.stdout.write(f"{target}\n")
