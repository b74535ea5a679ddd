"""Timelines as files for Chrome's tracing page and Perfetto (https://ui.perfetto.dev).

A process stands for a device, a thread for a rank, an arrow for a message; buckets of gradients
on their way have lines of their own. The format:
"Trace Event Format", Google, 2016.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mpitile.errors import InputError
from mpitile.plan.simulation.intervals import FLIGHT, Interval, Transit

_MICROSECONDS = 1e6


def write_trace(
    path: str | Path,
    devices: Sequence[str],
    intervals: Sequence[Interval],
    transits: Sequence[Transit] = (),
) -> None:
    """Write the file.

    Parameters
    ----------
    devices : by rank, the name of its device.

    Raises
    ------
    InputError : it cannot be written.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(devices))}
    places = [numbers[name] for name in devices]
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write('{"displayTimeUnit": "ms", "traceEvents": [')
            separator = "\n"
            for event in _events(numbers, places, intervals, transits):
                file.write(separator + json.dumps(event))
                separator = ",\n"
            file.write("\n]}\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _events(
    numbers: dict[str, int],
    places: Sequence[int],
    intervals: Sequence[Interval],
    transits: Sequence[Transit],
) -> Iterator[dict[str, Any]]:
    for name, number in numbers.items():
        yield _named("process_name", number, 0, name)
    for rank, place in enumerate(places):
        yield _named("thread_name", place, rank, f"rank {rank}")
    for number, (rank, start, end, kind, name) in enumerate(intervals):
        if kind == FLIGHT:
            # Beside what the rank does, and beside each other.
            flight = {"name": name, "cat": kind, "id": number, "pid": places[rank], "tid": rank}
            yield {"ph": "b", **flight, "ts": _microseconds(start)}
            yield {"ph": "e", **flight, "ts": _microseconds(end)}
            continue
        yield {
            "ph": "X",
            "name": name,
            "cat": kind,
            "pid": places[rank],
            "tid": rank,
            "ts": _microseconds(start),
            "dur": _microseconds(end - start),
        }
    for number, (source, target, start, end, size) in enumerate(transits):
        arrow = {"name": f"{size} bytes", "cat": "message", "id": number}
        yield {
            "ph": "s", **arrow, "pid": places[source], "tid": source, "ts": _microseconds(start)
        }  # fmt: skip
        yield {
            "ph": "f",
            "bp": "e",
            **arrow,
            "pid": places[target],
            "tid": target,
            "ts": _microseconds(end),
        }


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _microseconds(seconds: float) -> float:
    return round(_MICROSECONDS * seconds, 3)
