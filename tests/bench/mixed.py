"""The same run on one rank and on six, part tiles and part filter-parallel: how far apart?

    python tests/bench/mixed.py --data ../shared/data/bccd --steps 200

Trains YOLOv2-tiny, with the classes and the anchors of jobs/cfg/bccd-tiny.cfg, on photographs of
blood cells (BCCD): 20 steps in float64, then --steps in float32, each on one rank and on --ranks
of them. Wants mpitile and mpirun in PATH, and the variables of jobs/env.sh.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bccd import RUN_FILE, furthest, losses
from shared import ROOT

CFG = ROOT / "jobs" / "cfg"
CLASSES = 3
EXACT_STEPS = 20
# Curves of float32 drift apart as training goes on.
EARLY_STEPS = 50


def write_cfg(path: Path, batch: int) -> None:
    """YOLOv2-tiny for three classes, with a burn-in that a short run of few images gets over."""
    text = (CFG / "yolov2-tiny.cfg").read_text()
    anchors = re.search(r"^anchors *=.*$", (CFG / "bccd-tiny.cfg").read_text(), re.MULTILINE)
    changes = {
        "batch": str(batch),
        "subdivisions": "1",
        "learning_rate": "0.0001",
        "burn_in": "20",
        "classes": str(CLASSES),
        "anchors": anchors[0].partition("=")[2].strip(),
    }
    for key, value in changes.items():
        text, count = re.subn(rf"^{key} *=.*$", f"{key}={value}", text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{key} stands {count} times in yolov2-tiny.cfg")
    # Of the last convolution: five boxes of a place, a size, a likelihood and the classes.
    path.write_text(text.replace("filters=125", f"filters={5 * (5 + CLASSES)}"))


def train(options: argparse.Namespace, name: str, ranks: int, *changes: str) -> Path:
    """The folder of a run."""
    folder = options.out / name
    settings = [
        f"network.cfg={options.out / 'yolov2-tiny-bccd.cfg'}",
        f"data.root={Path(options.data).resolve()}",
        "data.valid=''",
        f"train.batch={options.batch}",
        "checkpoint.every=0",
        f"output.dir={folder}",
        *changes,
    ]
    start = ["mpirun", "-np", str(ranks)] if ranks > 1 else []
    flat = [word for setting in settings for word in ("--set", setting)]
    began = time.monotonic()
    subprocess.run([*start, "mpitile", "train", str(RUN_FILE), *flat], check=True)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return folder


def pair(
    options: argparse.Namespace, name: str, *changes: str
) -> tuple[np.ndarray, np.ndarray, float]:
    """Losses of one rank and of several, and how far the weights are apart in the end."""
    one = train(options, f"{name}-one", 1, *changes)
    grid = f"tiling.grid={options.grid}"
    filters = f"tiling.filters=[{options.filters}]"
    replicas = f"tiling.replicas={options.replicas}"
    mixed = train(options, f"{name}-mixed", options.ranks, grid, filters, replicas, *changes)
    plan = json.loads((mixed / "plan.json").read_text())
    print(f"{name}: grid {plan['grid']}, groups {plan['groups']}, filters {plan['filters']}")
    first, second = (
        np.fromfile(folder / "final.weights", "<f4", offset=20) for folder in (one, mixed)
    )
    apart = float(np.linalg.norm(second - first) / np.linalg.norm(first))
    return losses(one), losses(mixed), apart


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/bccd")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-mixed"))
    parser.add_argument("--steps", type=int, default=200, help="of the float32 part; 0: without")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--ranks", type=int, default=6)
    parser.add_argument("--grid", default="2x3")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--filters", default="10,11,12,13,14", help="filter-parallel layers")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    write_cfg(options.out / "yolov2-tiny-bccd.cfg", options.batch)

    exact = ("train.dtype=float64", f"train.steps={EXACT_STEPS}")
    one, mixed, apart = pair(options, "float64", *exact)
    print(f"loss over {len(one)} steps: {one[0]:.1f} -> {one[-1]:.1f}")
    print(f"float64: losses {furthest(one, mixed):.1e} apart, weights as written {apart:.1e}")
    if not options.steps:
        return
    one, mixed, apart = pair(options, "float32", f"train.steps={options.steps}")
    print(f"loss, mean of 10 steps: {one[:10].mean():.1f} -> {one[-10:].mean():.1f}")
    print(
        f"float32: losses {furthest(one[:EARLY_STEPS], mixed[:EARLY_STEPS]):.1e} apart over the "
        f"first {min(EARLY_STEPS, len(one))} steps, {furthest(one[-1:], mixed[-1:]):.1e} at the "
        f"last, mean of the last 10 steps {furthest(means(one), means(mixed)):.1e}; "
        f"weights {apart:.1e}"
    )


def means(curve: np.ndarray) -> np.ndarray:
    return curve[-10:].mean(keepdims=True)


if __name__ == "__main__":
    main()
