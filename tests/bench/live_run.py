"""Whole training runs on emulated devices, for benches that show what really happens."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memory import Case, folder_of, run
from shared import emulate


@dataclass(frozen=True)
class Where:
    """So many devices of so many ranks; `core_speed` relative to this machine's cores."""

    devices: int
    ranks: int
    rate: str
    core_speed: float


@dataclass(frozen=True)
class Result:
    """The fastest step but the first, of the slowest rank in seconds of the devices.

    Memory is of the fullest device, and `sent_mb` of that which sends most.
    """

    seconds: float
    compute: float
    halo: float
    reduce: float
    sent_mb: float
    megabytes: float
    predicted_mb: float


def held_to(case: Case, plan: Mapping[str, Any]) -> Case:
    """The same run held to a plan, as `mpitile plan --json` prints it."""
    settings = {f"tiling.{key}": plan[key] for key in ("grid", "groups", "replicas")}
    settings["tiling.filters"] = plan["filters"] or "none"
    settings["tiling.recompute"] = [
        n for n, again in enumerate(plan["recompute"]) if again
    ] or "none"
    return replace(case, settings=case.settings | settings)


def train(case: Case, out: Path, where: Where) -> Result:
    """Run it on devices made for it; wants root."""
    report = out / "emulation.json"
    start = emulate(where.devices, where.ranks, where.rate, report, where.core_speed)
    devices = run(case, out, start)
    return _result(case, out, devices, json.loads(report.read_text())["device_seconds_per_second"])


def train_alone(case: Case, out: Path, core_speed: float) -> Result:
    """Run it on one core of this machine, and count what one so much slower would take."""
    return _result(case, out, run(case, out), 1 / core_speed)


def _result(case: Case, out: Path, devices: list, pace: float) -> Result:
    with (folder_of(case, out) / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))[1:]
    row = min(rows, key=lambda row: float(row["seconds"]))
    return Result(
        *(pace * float(row[key]) for key in ("seconds", "compute_s", "halo_s", "reduce_s")),
        float(row["sent_mb"]),
        max(device.grown for device in devices) / 1e6,
        max(device.predicted for device in devices) / 1e6,
    )
