"""Predicted against measured memory of whole training runs.

    python tests/bench/memory.py [--only y16] [--out runs/bench-memory]

Each case is three steps of `mpitile train` on drawn images, under mpirun where it has several
ranks. Measured is, for each device, the peak of its ranks' resident memory beyond what their
processes held before the first array (interpreter, libraries, MPI, the data set's labels), with
pages that they share counted once, less a constant for each rank and dtype: what one other run
on one rank takes beyond its arrays, which is pages of libraries that are first touched in a
step, BLAS's own buffers in double precision, and Python's objects. Wants mpirun in PATH, and
the variables of jobs/env.sh.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared import ROOT

STEPS = 3
IMAGES = 8
DTYPE = "train.dtype"


@dataclass(frozen=True)
class Case:
    """A training run: a file of jobs/cfg at a size, and what differs from the defaults.

    Attributes
    ----------
    settings : by section and key of the run file.
    name : instead of one that says all this.
    """

    cfg: str
    size: int
    batch: int
    ranks: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def dtype(self) -> str:
        return self.settings.get(DTYPE, "float32")

    def __str__(self) -> str:
        if self.name:
            return self.name
        extras = " ".join(f"{name.split('.')[1]}={value}" for name, value in self.settings.items())
        return f"{self.cfg} {self.size} batch {self.batch}, {self.ranks} rank(s) {extras}".strip()


AGAIN = {"tiling.recompute": "all"}
ONE = {"tiling.groups": [0]}
CASES = [
    Case("y16", 608, 1),
    Case("y16", 608, 1, 1, ONE | AGAIN),
    Case("y16", 608, 4, 1, AGAIN),
    Case("y16", 608, 8),
    Case("y16", 608, 8, 1, ONE | AGAIN),
    Case("y16", 304, 2, 1, {DTYPE: "float64"}),
    Case("y16", 608, 1, 4),
    Case("y16", 608, 1, 4, {"tiling.ranks_per_device": 2}),
    Case("y16", 608, 4, 4, {"tiling.grid": "4x1"}),
    Case("y16", 608, 4, 4, ONE | AGAIN),
    Case("y16", 608, 4, 4, {"tiling.replicas": 2, "data.read": "root"}),
    Case("y16", 608, 6, 3, {"train.optimizer": "adam"}),
    Case("yolov2-tiny", 416, 4),
    Case("yolov2-tiny", 416, 4, 1, AGAIN),
    Case("yolov2-tiny", 416, 8, 2, {"train.subdivisions": 2}),
    Case("yolov2-tiny", 608, 4, 4, AGAIN | {"checkpoint.every": 2}),
    Case("bccd-tiny", 416, 8, 2),
    Case("bccd-tiny", 416, 16, 1, AGAIN),
    Case("yolov2", 416, 2, 1, AGAIN),
    Case("yolov2", 416, 2, 2),
    Case("yolov2", 416, 2, 4),
    Case("y16", 416, 3, 2, AGAIN),
    Case("yolov2-tiny", 320, 6),
    Case("bccd-tiny", 416, 4, 4, {"train.optimizer": "adam"}),
]
# Tells the constant; large enough that all of the workspace is used.
OTHER = Case("y16", 416, 1)


@dataclass(frozen=True)
class Device:
    """Bytes of all ranks of a device: predicted, and grown beyond what they held before."""

    ranks: int
    predicted: int
    grown: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--out", type=Path, help="folder to keep the runs in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = (options.out or Path(folder)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        draw_data(out / "data")
        report([case for case in CASES if options.only in str(case)], out)


def report(cases: list[Case], out: Path) -> None:
    constants = {}
    for dtype in sorted({case.dtype for case in cases}):
        (other,) = run(replace(OTHER, settings={DTYPE: dtype}), out)
        constants[dtype] = other.grown - other.predicted
        print(f"constant of {OTHER}, {dtype}: {constants[dtype] / 1e6:.2f} MB", flush=True)
    print(f"{'case':70} predicted  measured   error (of the device with the largest)")
    errors = []
    for case in cases:
        pairs = [
            (device.predicted, device.grown - device.ranks * constants[case.dtype])
            for device in run(case, out)
        ]
        predicted, seen = max(pairs, key=lambda pair: abs(pair[1] / pair[0] - 1))
        errors.append(predicted / seen - 1)
        print(
            f"{case!s:70} {predicted / 1e6:7.1f} MB {seen / 1e6:7.1f} MB {errors[-1]:+7.1%}",
            flush=True,
        )
    sizes = [abs(error) for error in errors]
    print(f"mean error {statistics.mean(sizes):.1%}, largest {max(sizes):.1%}, {len(sizes)} cases")


def draw_data(folder: Path) -> None:
    command = [sys.executable, ROOT / "jobs" / "draw_shapes.py", folder, "--images", IMAGES * 4]
    subprocess.run([*map(str, command), "--size", "416"], check=True, stdout=subprocess.DEVNULL)


def folder_of(case: Case, out: Path) -> Path:
    """Where a case's run is."""
    name = "-".join(str(case).replace(",", "").replace('"', "").split())
    return out / name.replace("/", "-")


def run(case: Case, out: Path, start: Sequence[str] | None = None) -> list[Device]:
    """Train as the case says, and read what the run has recorded.

    Parameters
    ----------
    start : what starts the ranks; mpirun on this machine where left out.
    """
    path = prepare(case, out)
    if start is None:
        start = ["mpirun", "-np", str(case.ranks)] if case.ranks > 1 else []
    command = [*start, sys.executable, "-m", "mpitile", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{case}: {done.stderr}")
    lines = (path.parent / "out" / "events.jsonl").read_text().splitlines()
    (peak,) = (event for event in map(json.loads, lines) if event["event"] == "peak")
    return [
        Device(
            len(ranks),
            sum(peak["predicted_bytes"][rank] for rank in ranks),
            sum(peak["grown_bytes"][rank] for rank in ranks),
        )
        for ranks in peak["devices"]
    ]


def prepare(case: Case, out: Path) -> Path:
    """The case's run file."""
    folder = folder_of(case, out)
    folder.mkdir(exist_ok=True)
    text = (ROOT / "jobs" / "cfg" / f"{case.cfg}.cfg").read_text()
    # At one size throughout.
    (folder / "net.cfg").write_text(text.replace("random=1", "random=0"))
    settings = {
        "network.cfg": "net.cfg",
        "network.height": case.size,
        "network.width": case.size,
        "data.format": "yolo",
        "data.root": str(out / "data"),
        "data.train": "train.txt",
        "data.names": [f"class {number}" for number in range(classes(text))],
        "train.steps": STEPS,
        "train.batch": case.batch,
        "train.learning_rate": 1e-9,
        "output.dir": str(folder / "out"),
        **case.settings,
    }
    write_run(folder / "run.toml", settings)
    return folder / "run.toml"


def classes(cfg: str) -> int:
    """Classes of the network's [region]; as many as are drawn where it has none."""
    found = [line.split("=")[1] for line in cfg.splitlines() if line.startswith("classes=")]
    return int(found[-1]) if found else 3


def write_run(path: Path, settings: dict[str, Any]) -> None:
    sections: dict[str, list[str]] = {}
    for name, value in settings.items():
        section, key = name.split(".")
        # JSON's numbers, strings and lists are TOML's.
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
    path.write_text("\n".join(f"[{name}]\n" + "\n".join(keys) for name, keys in sections.items()))


if __name__ == "__main__":
    main()
