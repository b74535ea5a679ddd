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
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from live_run import Where, held_to, train
from memory import Case, draw_data, prepare
from shared import PI3

DEVICES, RANKS, RATE = 6, 4, "100mbit"
PLANS = {
    "tiled, a copy for each rank": {"tiling.filters": "none", "tiling.ranks_per_device": 1},
    "tiled, a copy for each device": {"tiling.filters": "none"},
    "planned": {},
    "planned, at most 360MB": {"tiling.memory_limit": "360MB"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--network", default="yolov2")
    parser.add_argument("--core-speed", type=float, default=0.03)
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
            settings = {"train.steps": options.steps, **settings}
            sizes = options.network, options.size, options.batch, DEVICES * RANKS
            case = Case(*sizes, settings, "run")
            plan = plan_of(case, out)
            where = Where(DEVICES, RANKS, RATE, options.core_speed)
            found = train(held_to(case, plan), out, where)
            print(
                f"{name:30} {found.seconds:7.2f} {plan['step_seconds']:10.2f} "
                f"{found.compute:8.2f} {found.halo:6.2f} {found.reduce:6.2f} "
                f"{found.sent_mb:8.1f} {found.megabytes:10.0f} {found.predicted_mb:10.0f} "
                f"{len(plan['filters']):8}",
                flush=True,
            )


def plan_of(case: Case, out: Path) -> dict[str, Any]:
    """What `mpitile plan` chooses for it."""
    cluster = out / "cluster.toml"
    cluster.write_text(PI3.read_text().replace('memory = "1GB"', 'memory = "4GB"'))
    command = [sys.executable, "-m", "mpitile", "plan", prepare(case, out), "--json"]
    command += ["--ranks", case.ranks, "--cluster", cluster]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
