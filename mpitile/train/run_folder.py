"""The files of a run that rank 0 writes while training."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from mpitile.checkpoint.files import replace_text
from mpitile.errors import InputError


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One row of ``metrics.csv``.

    Times are the slowest rank's, `seconds` is the whole step; `load_s` is spent
    waiting for images; `peak_rss_mb` is the largest whole process of any rank, in
    units of 2**20 bytes. `sent_mb`, in units of 10**6, is what the ranks of one device have sent
    to other devices, of the device that sent most: messages of exchanges, gradients and weights,
    not the few numbers that MPI itself adds up, nor copies of checkpoints.
    """

    step: int
    loss: float
    learning_rate: float
    images_per_s: float
    seconds: float
    compute_s: float
    halo_s: float
    reduce_s: float
    peak_rss_mb: float
    load_s: float
    sent_mb: float


COLUMNS = tuple(field.name for field in fields(StepMetrics))

# Written with all digits, so that curves can be compared; measured ones are rounded.
_EXACT = ("step", "loss", "learning_rate")


class RunFolder:
    """``metrics.csv``, ``events.jsonl``, ``run.toml`` and ``plan.json`` of one run.

    Parameters
    ----------
    path : the folder; it is made where it is missing.
    step : steps completed so far. Rows of later steps, which are about to be done
        again, are dropped.
    settings, plan : contents of ``run.toml`` and ``plan.json``.

    Attributes
    ----------
    failure : the first thing that could not be written later on, for all ranks to agree on.

    Raises
    ------
    InputError : the folder cannot be written to.
    """

    def __init__(self, path: Path, step: int, settings: str, plan: Mapping[str, Any]) -> None:
        self.path = path
        self.failure: InputError | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            replace_text(path / SETTINGS, settings)
            replace_text(path / "plan.json", json.dumps(plan, indent=1) + "\n")
            replace_text(path / "metrics.csv", _rows_until(path / "metrics.csv", step))
            self._metrics = (path / "metrics.csv").open("a", newline="", encoding="utf-8")
            self._events = (path / "events.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from error

    def add_metrics(self, metrics: StepMetrics) -> None:
        """Append a row; it is on its way to disk when this returns."""
        cells = zip(COLUMNS, astuple(metrics), strict=True)
        values = [value if name in _EXACT else f"{value:.6g}" for name, value in cells]
        with self._writing(self._metrics):
            csv.writer(self._metrics, lineterminator="\n").writerow(values)
            self._metrics.flush()

    def add_event(self, event: str, **details: Any) -> None:
        """Append a line with a time stamp (seconds since 1970)."""
        record = {"time": round(time.time(), 3), "event": event, **details}
        with self._writing(self._events):
            self._events.write(json.dumps(_finite(record)) + "\n")
            self._events.flush()

    @contextmanager
    def _writing(self, file: TextIO) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = Path(file.name).name
            self.failure = self.failure or InputError(
                f"output.dir {self.path}: {name} cannot be written: {error.strerror}"
            )

    def close(self) -> None:
        """Close both files."""
        for file in (self._metrics, self._events):
            with self._writing(file):
                file.close()


# The run's own copy of its network: run.toml names the file as the user did, from another place.
NETWORK = "network.cfg"

SETTINGS = "run.toml"

# Copied, not moved, out of the way: the present run may have been started from these.
_INPUTS = (SETTINGS, NETWORK)

# Pictures of boxes that mpitile detect has drawn into the folder with a run's weights.
DRAWN = "*.detected.png"

# What a run leaves behind, and an earlier one may have left.
_LEFT = (
    "metrics.csv",
    "events.jsonl",
    "plan.json",
    "report",
    "report.html",
    "final.weights",
    "best.weights",
    "trace.json",
    "recording.jsonl",
    "checkpoints",
)


def earlier_folder(path: Path) -> Path | None:
    """Where files of an earlier run in `path` can be moved; None where there are none."""
    # Path.exists raises where a name is too long to be one.
    if not any(os.path.exists(path / name) for name in (*_INPUTS, *_LEFT)):
        return None
    numbers = itertools.count(1)
    return next(folder for number in numbers if not (folder := path / f"earlier-{number}").exists())


def set_aside(path: Path, earlier: Path | None) -> None:
    """Move the files of an earlier run out of the way; other ranks may do so, too."""
    if earlier is None:
        return
    try:
        earlier.mkdir(parents=True, exist_ok=True)
        for name in _INPUTS:
            with suppress(FileNotFoundError):
                shutil.copyfile(path / name, earlier / name)
        drawn = (picture.name for picture in path.glob(DRAWN))
        for name in (*_LEFT, *drawn):
            with suppress(FileNotFoundError):
                (path / name).rename(earlier / name)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"output.dir {path}: cannot be written: {error}")


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows_until(path: Path, step: int) -> str:
    """The header and the whole rows of steps up to `step`."""
    header = ",".join(COLUMNS) + "\n"
    if not step or not path.exists():
        return header
    kept = []
    for line in path.read_text("utf-8").splitlines()[1:]:
        number = line.partition(",")[0]
        if number.isdigit() and int(number) <= step and line.count(",") == len(COLUMNS) - 1:
            kept.append(line + "\n")
    return header + "".join(kept)
