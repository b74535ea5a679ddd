"""All of YOLOv2 on six emulated Pi 3s: tiled throughout against the planner's choice.

    python tests/bench/whole.py [--steps 2] [--size 416] [--batch 4] [--out DIR]     (as root)

yolov2 at 416x416, batch 4, on 6 devices of 4 ranks with 100 Mbit/s links (jobs/emulate.py): real
training runs over real TCP, on drawn images. Seconds of the fastest step but the first, as on
the devices: measured ones times the pace that emulate.py says. Memory of the fullest device: what
its ranks have grown by beyond interpreter and libraries, shared pages counted once. Bytes sent:
counted, by the device that sends most in a step, against the lower bound of the sums alone,
``2 (D - 1) / D`` of all weights.

--core-speed is a Pi's core relative to this machine's: see tests/bench/paper.py, which measures it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from memory import ROOT, Case, draw_data, folder_of, run

DEVICES, RANKS, RATE = 6, 4, "100mbit"
PLANS = {
    "tiled, a copy for each rank": {"tiling.filters": "none", "tiling.ranks_per_device": 1},
    "tiled, a copy for each device": {"tiling.filters": "none"},
    "planned": {},
}


@dataclass(frozen=True)
class Result:
    """Of the slowest rank and the fullest device."""

    seconds: float
    compute: float
    halo: float
    reduce: float
    sent_mb: float
    megabytes: float
    predicted_mb: float
    filters: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--network", default="yolov2")
    parser.add_argument("--core-speed", default="0.03")
    parser.add_argument("--only", default="", help="plans whose name contains this")
    parser.add_argument("--out", type=Path, help="folder to keep the runs in")
    options = parser.parse_args()
    print(f"{'plan':30}  step s  compute  halo   sums  sent MB  device MB  predicted  filters")
    with tempfile.TemporaryDirectory() as folder:
        out = (options.out or Path(folder)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        draw_data(out / "data")
        for name, settings in PLANS.items():
            if options.only not in name:
                continue
            found = train(options, settings, out)
            print(
                f"{name:30} {found.seconds:7.2f}  {found.compute:7.2f} {found.halo:5.2f} "
                f"{found.reduce:6.2f} {found.sent_mb:8.1f} {found.megabytes:10.0f} "
                f"{found.predicted_mb:10.0f} {found.filters:8}",
                flush=True,
            )


def train(options: argparse.Namespace, plan: dict, out: Path) -> Result:
    """A training run on the emulated devices."""
    cluster = str(ROOT / "jobs" / "clusters" / "pi3-100mbit.toml")
    settings = {"tiling.cluster": cluster, "train.steps": options.steps, **plan}
    case = Case(options.network, options.size, options.batch, DEVICES * RANKS, settings)
    report = out / "emulation.json"
    emulate = [sys.executable, ROOT / "jobs" / "emulate.py", "--devices", DEVICES]
    sizes = ["--ranks", RANKS, "--rate", RATE, "--core-speed", options.core_speed]
    devices = run(case, out, [*map(str, [*emulate, *sizes, "--report", report]), "--"])
    pace = json.loads(report.read_text())["device_seconds_per_second"]
    folder = folder_of(case, out) / "out"
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))[1:]
    row = min(rows, key=lambda row: float(row["seconds"]))
    return Result(
        *(pace * float(row[key]) for key in ("seconds", "compute_s", "halo_s", "reduce_s")),
        float(row["sent_mb"]),
        max(device.grown for device in devices) / 1e6,
        max(device.predicted for device in devices) / 1e6,
        len(json.loads((folder / "plan.json").read_text())["filters"]),
    )


if __name__ == "__main__":
    main()
