"""What several benches have in common: options, emulated devices, and the parts of a step."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PI3 = ROOT / "jobs" / "clusters" / "pi3-100mbit.toml"
# Of a rank's step, in the order of tables.
PARTS = ("compute_s", "halo_s", "reduce_s", "wait_s")


def numbers(words: str) -> list[int]:
    """An option such as ``2,4,6``."""
    return [int(word) for word in words.split(",") if word]


def emulate(
    devices: int, ranks: int, rate: str, report: str | Path, core_speed: float | str = 1.0
) -> list[str]:
    """What starts a command, which is to follow, on emulated devices; wants root.

    Parameters
    ----------
    ranks : of each device.
    rate : of each device's link, such as "100mbit".
    report : file for what emulate.py measures.
    core_speed : of a device's core, relative to this machine's.
    """
    sizes = {"--devices": devices, "--ranks": ranks, "--rate": rate, "--core-speed": core_speed}
    options = [word for option in sizes.items() for word in map(str, option)]
    script = str(ROOT / "jobs" / "emulate.py")
    return [sys.executable, script, "--report", str(report), *options, "--"]


def emulated(
    arguments: Sequence[str],
    devices: int,
    ranks: int,
    rate: str,
    core_speed: float = 1.0,
    timeout: float = 900,
) -> tuple[str, dict[str, Any]]:
    """What Python prints on emulated devices, and what emulate.py reports of these.

    Where that fails, its message ends the bench.

    Parameters
    ----------
    arguments : of Python: a file and its own arguments.
    timeout : seconds after which it has failed.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        start = emulate(devices, ranks, rate, file.name, core_speed)
        done = subprocess.run(
            [*start, sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout, json.loads(Path(file.name).read_text())


def mean_shares(timeline: Any) -> list[float]:
    """The parts of the mean rank's time in a simulated step, which add up to 1."""
    ranks = timeline.ranks
    means = (sum(getattr(rank, part) for rank in ranks) / len(ranks) for part in PARTS)
    return [mean / timeline.seconds for mean in means]


def percentages(shares: Sequence[float]) -> str:
    """For a table."""
    return " ".join(f"{100 * share:3.0f}" for share in shares)
