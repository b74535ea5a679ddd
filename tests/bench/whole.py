"""All of YOLOv2 on six emulated Pi 3s: tiled throughout against the planner's choice.

    python tests/bench/whole.py [--steps 3] [--size 416] [--batch 4] [--out DIR]     (as root)

yolov2 at 416x416, batch 4, on 6 devices of 4 ranks with 100 Mbit/s links (jobs/emulate.py): real
training runs over real TCP, on drawn images. Seconds of the fastest step but the first, as on
the devices: measured ones times the pace that emulate.py says. Memory of the fullest device: what
its ranks have grown by beyond interpreter and libraries, shared pages counted once. Bytes sent:
counted, by the device that sends most in a step. Plans are made before the devices are, where
nothing slows the planner down, and for devices of 4 GB: tiled throughout, YOLOv2 does not fit
a Pi 3.

--core-speed is a Pi's core relative to this machine's: see tests/bench/paper.py, which measures it.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from memory import Case, draw_data, folder_of, prepare, run
from shared import PI3, emulate

DEVICES, RANKS, RATE = 6, 4, "100mbit"
PLANS = {
    "tiled, a copy for each rank": {"tiling.filters": "none", "tiling.ranks_per_device": 1},
    "tiled, a copy for each device": {"tiling.filters": "none"},
    "planned": {},
    "planned, at most 360MB": {"tiling.memory_limit": "360MB"},
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
    expected: float
    filters: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--network", default="yolov2")
    parser.add_argument("--core-speed", default="0.03")
    parser.add_argument("--only", default="", help="plans whose name contains this")
    parser.add_argument("--out", type=Path, help="folder to keep the runs in")
    options = parser.parse_args()
    print(
        f"{'plan':30}  step s  predicted  compute   halo   sums  sent MB  device MB  predicted"
        "  filters"
    )
    with tempfile.TemporaryDirectory() as folder:
        out = (options.out or Path(folder)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        draw_data(out / "data")
        for name, settings in PLANS.items():
            if options.only not in name:
                continue
            found = train(options, settings, out)
            print(
                f"{name:30} {found.seconds:7.2f} {found.expected:10.2f} {found.compute:8.2f} "
                f"{found.halo:6.2f} {found.reduce:6.2f} {found.sent_mb:8.1f} "
                f"{found.megabytes:10.0f} {found.predicted_mb:10.0f} {found.filters:8}",
                flush=True,
            )


def train(options: argparse.Namespace, wanted: dict, out: Path) -> Result:
    """A training run on the emulated devices."""
    settings = {"train.steps": options.steps, **wanted}
    ranks = DEVICES * RANKS
    case = Case(options.network, options.size, options.batch, ranks, settings, "run")
    cluster = out / "cluster.toml"
    cluster.write_text(PI3.read_text().replace('memory = "1GB"', 'memory = "4GB"'))
    command = [sys.executable, "-m", "mpitile", "plan", prepare(case, out), "--json"]
    command += ["--ranks", ranks, "--cluster", cluster]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout)
    settings |= {f"tiling.{key}": plan[key] for key in ("grid", "groups", "filters")}
    settings["tiling.recompute"] = [n for n, flag in enumerate(plan["recompute"]) if flag] or "none"
    report = out / "emulation.json"
    devices = run(case, out, emulate(DEVICES, RANKS, RATE, report, options.core_speed))
    pace = json.loads(report.read_text())["device_seconds_per_second"]
    with (folder_of(case, out) / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))[1:]
    row = min(rows, key=lambda row: float(row["seconds"]))
    return Result(
        *(pace * float(row[key]) for key in ("seconds", "compute_s", "halo_s", "reduce_s")),
        float(row["sent_mb"]),
        max(device.grown for device in devices) / 1e6,
        max(device.predicted for device in devices) / 1e6,
        plan["step_seconds"],
        len(plan["filters"]),
    )


if __name__ == "__main__":
    main()
