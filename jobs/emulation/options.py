"""The command line: rates, sizes and the command that the devices run."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

MOST_DEVICES = 200

_RATE_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_SIZE_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_EPILOG = """example: the paper's network on two devices of four ranks with 100 Mbit/s Ethernet

    sudo .venv/bin/python jobs/emulate.py --devices 2 --memory 1GB -- mpitile train jobs/y16.toml

Where ranks outnumber this machine's cores, each gets an equal share of one and links are slowed
down alike; the output says by what measured seconds have to be multiplied. Control-C ends the
command as it ends a job of jobs/hostfile.sh (a training run saves first); a second one ends it
at once. Exit codes: the command's; 2 where the devices cannot be made."""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes
    ----------
    devices, ranks : how many devices, and ranks on each.
    rate : of each device's link in either direction, in bits a second.
    memory : bytes that a device has, or None for no limit.
    core_speed : of a device's core, relative to a core of this machine.
    share : of a core that each rank gets, or None to choose it.
    report : file for what was measured, or None.
    command : what each rank runs.
    """

    devices: int
    ranks: int
    rate: float
    memory: int | None
    core_speed: float
    share: float | None
    report: Path | None
    command: tuple[str, ...]


def parse(arguments: list[str]) -> Options:
    """Read the command line; bad usage ends the process with code 2."""
    parser = argparse.ArgumentParser(
        prog="emulate.py",
        usage="emulate.py --devices N [options] -- COMMAND ...",
        description="Run an MPI job on a cluster of devices emulated on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=_devices, required=True, help="how many devices")
    parser.add_argument("--ranks", type=_count, default=4, help="on each device (4)")
    parser.add_argument(
        "--rate", type=rate, default="100mbit", help="of a device's link, each way (100mbit)"
    )
    parser.add_argument("--memory", type=size, help="of a device, such as 1GB (no limit)")
    parser.add_argument(
        "--core-speed",
        type=_positive,
        default=1.0,
        help="of a device's core, relative to one of this machine (1.0)",
    )
    parser.add_argument(
        "--share", type=_share, help="of a core for each rank, instead of the largest that fits"
    )
    parser.add_argument("--report", type=Path, help="write what was measured here, as JSON")
    parser.add_argument("command", nargs="+", help="what each rank runs")
    read = parser.parse_args(arguments)
    read.command = tuple(read.command)
    return Options(**vars(read))


def rate(text: str) -> float:
    """Bits a second of a rate as ``tc`` writes it, such as ``100mbit``."""
    number, unit = _split(text)
    if unit.lower() not in _RATE_UNITS or number <= 0:
        raise argparse.ArgumentTypeError(f"expected a rate such as 100mbit or 1gbit, got {text!r}")
    return number * _RATE_UNITS[unit.lower()]


def size(text: str) -> int:
    """Bytes of a size such as ``700MB`` or ``1GiB``."""
    number, unit = _split(text)
    if unit not in _SIZE_UNITS or number <= 0:
        raise argparse.ArgumentTypeError(f"expected a size such as 700MB or 1GiB, got {text!r}")
    return round(number * _SIZE_UNITS[unit])


def _split(text: str) -> tuple[float, str]:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)", text.strip())
    return (float(match[1]), match[2]) if match else (0.0, "")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _devices(text: str) -> int:
    count = _count(text)
    if count > MOST_DEVICES:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_DEVICES} devices, got {text}")
    return count


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def _share(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"expected at most one core, got {text}")
    return number
