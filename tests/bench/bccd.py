"""The main job on real photographs, taken apart: does it learn, and is it the same run?

    python tests/bench/bccd.py --data ../shared/data/bccd --out runs/bench-bccd --steps 300

Trains jobs/bccd.toml on 4 ranks, on one rank, and on 4 ranks with a SIGKILL halfway and a
resume; compares loss curves and weights, and scores the weights before and after. Wants
mpitile and mpirun in PATH, and the variables of jobs/env.sh.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from shared import ROOT

from mpitile.checkpoint.weights_file import write_weights
from mpitile.network.cfg import read_network
from mpitile.runtime.parameters import Parameters

RUN_FILE = ROOT / "jobs" / "bccd.toml"


def command(ranks: int, verb: str, options: argparse.Namespace, *arguments: str) -> list[str]:
    start = ["mpirun", "-np", str(ranks)] if ranks > 1 else []
    data = f"data.root={Path(options.data).resolve()}"
    return [*start, "mpitile", verb, str(RUN_FILE), "--set", data, *arguments]


def train(options: argparse.Namespace, name: str, ranks: int, *settings: str) -> Path:
    folder = options.out / name
    arguments = [f"output.dir={folder}", f"train.steps={options.steps}", *settings]
    flat = [word for setting in arguments for word in ("--set", setting)]
    began = time.monotonic()
    subprocess.run(command(ranks, "train", options, *flat), check=True)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return folder


def train_killed(options: argparse.Namespace) -> Path:
    """Kill all ranks behind the checkpoint in the middle, then resume."""
    folder = options.out / "killed"
    every = max(1, options.steps // 6)
    flat = [
        word
        for setting in (
            f"output.dir={folder}",
            f"train.steps={options.steps}",
            f"checkpoint.every={every}",
        )
        for word in ("--set", setting)
    ]
    start = command(4, "train", options, *flat)
    run = subprocess.Popen(start, start_new_session=True)
    middle = options.steps // 2
    while len(losses(folder)) < middle + 5:
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    print(f"killed after {len(losses(folder))} steps", flush=True)
    subprocess.run([*start, "--resume"], check=True)
    return folder


def losses(folder: Path) -> np.ndarray:
    path = folder / "metrics.csv"
    if not path.exists():
        return np.zeros(0)
    with path.open(newline="") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file) if row["load_s"]])


def furthest(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.max(np.abs(first - second) / np.abs(first)))


def score(options: argparse.Namespace, weights: Path) -> str:
    arguments = command(1, "eval", options, "--weights", str(weights))
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def initial_weights(options: argparse.Namespace) -> Path:
    parameters = Parameters(read_network(ROOT / "jobs" / "cfg" / "bccd-tiny.cfg"), np.float32)
    parameters.draw(1)
    path = options.out / "initial.weights"
    write_weights(path, parameters, 0)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data/bccd")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-bccd"))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)

    four = train(options, "four", 4)
    one = train(options, "one", 1)
    killed = train_killed(options)
    short = ("train.dtype=float64", "train.steps=20", "data.valid=''", "checkpoint.every=0")
    exact_one = train(options, "one-64", 1, *short)
    exact_four = train(options, "four-64", 4, *short)

    curve, other = losses(four), losses(one)
    print(f"loss, mean of 10 steps: {curve[:10].mean():.1f} -> {curve[-10:].mean():.1f}")
    print(
        f"float32, 4 ranks against 1: {furthest(other[:50], curve[:50]):.1e} over the first 50 "
        f"steps, {furthest(other[-1:], curve[-1:]):.1e} at the last"
    )
    print(f"float64 over 20 steps: {furthest(losses(exact_one), losses(exact_four)):.1e}")
    same = (four / "final.weights").read_bytes() == (killed / "final.weights").read_bytes()
    print(f"killed and resumed: final.weights {'identical' if same else 'DIFFERENT'}")
    print("before\n" + score(options, initial_weights(options)))
    print("after\n" + score(options, four / "final.weights"))


if __name__ == "__main__":
    main()
