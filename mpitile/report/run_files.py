"""What a run has left in its folder, as plain data; whole or not."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpitile.errors import InputError
from mpitile.plan.plan import Plan
from mpitile.plan.simulation.intervals import Interval
from mpitile.train.planning import read_plan
from mpitile.train.run_folder import DRAWN
from mpitile.train.settings import RunSettings, read_settings

_NEEDED = ("step", "loss")


@dataclass(frozen=True)
class Trace:
    """A traced step: the name of each rank's device, and what ranks did, from its start on."""

    number: int
    devices: tuple[str, ...]
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class RunFiles:
    """A run folder.

    Attributes
    ----------
    folder : where it is.
    settings : ``run.toml``.
    metrics : columns of ``metrics.csv``, equally long; a column may be missing.
    events : lines of ``events.jsonl`` in order.
    report, plan : ``plan.json`` as it is, and the plan in it; None where there is no such file.
    pictures : images with boxes that ``mpitile detect`` has drawn into the folder.
    earlier : names of earlier runs' folders in it, with how many steps they took.
    """

    folder: Path
    settings: RunSettings
    metrics: Mapping[str, tuple[float, ...]]
    events: Sequence[Mapping[str, Any]]
    report: Mapping[str, Any] | None
    plan: Plan | None
    pictures: tuple[Path, ...]
    earlier: tuple[tuple[str, int], ...]

    def named(self, event: str) -> list[Mapping[str, Any]]:
        """All events of this name."""
        return [one for one in self.events if one["event"] == event]


def read_run(folder: Path) -> RunFiles:
    """Read all that is there but the trace.

    A last line that was being written when the run broke off does not count.

    Raises
    ------
    InputError : the folder is none of a run, or a file in it is damaged; names it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a run folder, got no folder")
    if not (folder / "run.toml").exists():
        raise InputError(f"{folder}: expected a run folder, but there is no run.toml in it")
    settings = read_settings(folder / "run.toml")
    report, plan = _read_plan(folder / "plan.json")
    return RunFiles(
        folder,
        settings,
        read_metrics(folder / "metrics.csv"),
        read_events(folder / "events.jsonl"),
        report,
        plan,
        tuple(sorted(folder.glob(DRAWN))),
        _earlier(folder),
    )


def read_metrics(path: Path) -> dict[str, tuple[float, ...]]:
    """The columns of a ``metrics.csv``; no rows where it is missing or empty.

    Raises
    ------
    InputError : it has no such columns, or a line that is none; names the line.
    """
    lines = _whole_lines(path)
    if not lines:
        return {name: () for name in _NEEDED}
    header, *rows = csv.reader(lines)
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(f"{path}:1: expected a column {missing[0]!r}, got {', '.join(header)}")
    values = []
    for number, row in enumerate(rows, 2):
        try:
            values.append([float(cell) for cell in row])
        except ValueError as error:
            raise InputError(f"{path}:{number}: expected numbers: {error}") from error
        if len(row) != len(header):
            raise InputError(f"{path}:{number}: expected {len(header)} numbers, got {len(row)}")
    columns = zip(*values, strict=True) if values else ((),) * len(header)
    return dict(zip(header, columns, strict=True))


def read_events(path: Path) -> tuple[dict[str, Any], ...]:
    """The lines of an ``events.jsonl``; none where it is missing.

    Raises
    ------
    InputError : a line is no event; names it.
    """
    events = []
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            event = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: expected a JSON object: {error}") from error
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise InputError(f"{path}:{number}: expected a JSON object with an 'event'")
        events.append(event)
    return tuple(events)


def read_trace(path: Path) -> Trace | None:
    """The typical step of a ``trace.json`` of training: that of median length; None for no file.

    Raises
    ------
    InputError : it is no such file.
    """
    if not path.exists():
        return None
    try:
        events = json.loads(path.read_text("utf-8"))["traceEvents"]
        named = {
            (e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"
        }
        places = {tid: pid for name, pid, tid in named if name == "thread_name"}
        devices = tuple(named["process_name", places[rank], 0] for rank in range(len(places)))
        intervals: list[list[Interval]] = [[] for _ in devices]
        for e in events:
            if e["ph"] == "X":
                start, end = e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6
                one = Interval(e["tid"], start, end, str(e["cat"]), str(e["name"]))
                intervals[e["tid"]].append(one)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: expected a trace as training writes it: {error!r}") from error
    return _typical_step(devices, intervals)


def _typical_step(devices: tuple[str, ...], intervals: Sequence[list[Interval]]) -> Trace | None:
    steps = [_steps(sorted(own, key=lambda one: one.start)) for own in intervals]
    count = min(map(len, steps), default=0)
    if not count:
        return None
    lengths = [steps[0][n][-1].end - steps[0][n][0].start for n in range(count)]
    number = sorted(range(count), key=lengths.__getitem__)[count // 2]
    chosen = [step[number] for step in steps]
    zero = min(own[0].start for own in chosen)
    moved = (
        one._replace(start=one.start - zero, end=one.end - zero) for own in chosen for one in own
    )
    return Trace(number, devices, tuple(moved))


def _steps(intervals: Sequence[Interval]) -> list[list[Interval]]:
    """A rank's intervals step by step: each begins with a "start"."""
    steps: list[list[Interval]] = []
    for one in intervals:
        if one.name == "start":
            steps.append([])
        if steps:
            steps[-1].append(one)
    return steps


def _read_plan(path: Path) -> tuple[Mapping[str, Any] | None, Plan | None]:
    if not path.exists():
        return None, None
    try:
        report = json.loads(path.read_text("utf-8"))
        for rank in report["ranks"]:
            if not all(isinstance(size, int) for size in rank["bytes"].values()):
                raise ValueError("bytes that are no numbers")
        plan = read_plan(report)
        if plan.ranks != len(report["ranks"]):
            raise ValueError(f"{len(report['ranks'])} ranks of a plan for {plan.ranks}")
        return report, plan
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path}: expected a plan as training writes it: {error!r}") from error


def _whole_lines(path: Path) -> list[str]:
    """Lines that end as lines do."""
    if not path.exists():
        return []
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return text[: text.rfind("\n") + 1].splitlines()


def _earlier(folder: Path) -> tuple[tuple[str, int], ...]:
    found = []
    for path in folder.glob("earlier-*"):
        match = re.fullmatch(r"earlier-(\d+)", path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path.name, len(_whole_lines(path / "metrics.csv")) - 1))
    return tuple((name, max(0, steps)) for _, name, steps in sorted(found))
