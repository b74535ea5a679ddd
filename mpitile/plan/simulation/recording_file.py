"""Recordings as files: a line that says what was recorded, then a line for each event.

    {"mpitile_recording": 1, "ranks": 2, "network": "y16.cfg", "batch": 8}
    {"rank": 0, "do": "compute", "operation": "forward", "layer": 3, "seconds": 0.0123}
    {"rank": 0, "do": "begin_exchange", "group": 1, "direction": "forward",
     "sends": [[1, 65536]], "receives": [[1, 65536]]}
    {"rank": 0, "do": "end_exchange", "group": 1, "direction": "forward"}
    {"rank": 0, "do": "begin_gather", "group": 2, "direction": "forward",
     "first": 0, "parts": [65536, 32768]}
    {"rank": 0, "do": "end_exchange", "group": 2, "direction": "forward"}
    {"rank": 0, "do": "begin_sum", "purpose": "gradients", "bytes": 4194304}
    {"rank": 0, "do": "end_sum"}
    {"rank": 0, "do": "begin_bucket", "bytes": 524288}
    {"rank": 0, "do": "end_buckets"}
    {"rank": 0, "do": "begin_values", "bytes": 524288}
    {"rank": 0, "do": "end_values", "count": 1}

Events of one rank stand in the order in which it does them; ranks may alternate. Sums and buckets
of some ranks alone have them as "ranks": [0, 2].
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from mpitile.errors import InputError
from mpitile.plan.recording import (
    COPIES,
    DIRECTIONS,
    EVERYONE,
    BeginBucket,
    BeginExchange,
    BeginGather,
    BeginSum,
    BeginValues,
    Compute,
    EndBuckets,
    EndExchange,
    EndSum,
    EndValues,
    Event,
    Members,
    Parcels,
    Recording,
)
from mpitile.plan.simulation.program_check import check_programs

_VERSION = 1
_HEADER = "mpitile_recording"
_MOST_RANKS = 1 << 20
_DIGITS = 9
# What each kind of line holds besides its rank.
_KEYS = {
    "compute": {"operation", "seconds"},
    "begin_exchange": {"group", "direction", "sends", "receives"},
    "begin_gather": {"group", "direction", "first", "parts"},
    "end_exchange": {"group", "direction"},
    "begin_sum": {"purpose", "bytes"},
    "end_sum": set(),
    "begin_bucket": {"bytes"},
    "end_buckets": set(),
    "begin_values": {"bytes"},
    "end_values": {"count"},
}
# Who takes part, where that is not everyone.
_MEMBERS = "ranks"
_EARLY = "early"


def write_recording(recording: Recording, path: str | Path) -> None:
    """Write the file.

    Raises
    ------
    InputError : it cannot be written.
    """
    header = {_HEADER: _VERSION, "ranks": recording.ranks, **recording.about}
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(header) + "\n")
            for rank, program in enumerate(recording.programs):
                for event in program:
                    file.write(json.dumps({"rank": rank, **_line(event)}) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def read_recording(path: str | Path) -> Recording:
    """Read and check the file.

    Raises
    ------
    InputError : naming the file and line, what was expected and what came.
    """
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a recording: {error}") from error
    lines = _objects(path, text)
    about = _about(path, next(lines, (1, {}))[1])
    programs: list[list[Event]] = [[] for _ in range(about["ranks"])]
    for number, line in lines:
        try:
            programs[_rank(line, len(programs))].append(_event(line, len(programs)))
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error
    recording = Recording(tuple(map(tuple, programs)), _described(about))
    try:
        check_programs(recording.programs)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return recording


def _objects(path: str | Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}:{number}: expected a JSON object, got {line[:40]}")
        yield number, value


def _about(path: str | Path, header: dict[str, Any]) -> dict[str, Any]:
    if header.get(_HEADER) != _VERSION:
        raise InputError(
            f"{path}:1: not a recording of mpitile: expected {{{json.dumps(_HEADER)}: {_VERSION}, "
            f'"ranks": ...}}, got {json.dumps(header)[:80]}'
        )
    ranks = header.get("ranks")
    if type(ranks) is not int or not 1 <= ranks <= _MOST_RANKS:
        raise InputError(f"{path}:1: ranks = {ranks!r}: expected a number of ranks from 1 on")
    return header


def _described(about: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key not in (_HEADER, "ranks")}


def _line(event: Event) -> dict[str, Any]:
    match event:
        case Compute(seconds=seconds, operation=operation, layer=layer):
            place = {} if layer is None else {_place(operation): layer}
            # Clocks do not tell shorter times.
            return {
                "do": "compute",
                "operation": operation,
                **place,
                "seconds": round(seconds, _DIGITS),
            }
        case BeginExchange(group=group, direction=direction, sends=sends, receives=receives):
            return {
                "do": "begin_exchange",
                "group": group,
                "direction": direction,
                "sends": sends,
                "receives": receives,
            }
        case BeginGather(group=group, direction=direction, first=first, parts=parts):
            return {
                "do": "begin_gather",
                "group": group,
                "direction": direction,
                "first": first,
                "parts": parts,
            }
        case EndExchange(group=group, direction=direction):
            return {"do": "end_exchange", "group": group, "direction": direction}
        case BeginSum(size=size, purpose=purpose, ranks=ranks):
            return {"do": "begin_sum", "purpose": purpose, "bytes": size, **_among(ranks)}
        case BeginBucket(size=size, ranks=ranks, early=early):
            found = {"do": "begin_bucket", "bytes": size, **_among(ranks)}
            return {**found, _EARLY: True} if early else found
        case EndBuckets():
            return {"do": "end_buckets"}
        case BeginValues(size=size, ranks=ranks):
            return {"do": "begin_values", "bytes": size, **_among(ranks)}
        case EndValues(count=count, ranks=ranks):
            return {"do": "end_values", "count": count, **_among(ranks)}
        case _:
            return {"do": "end_sum"}


def _among(ranks: Members) -> dict[str, Members]:
    return {_MEMBERS: ranks} if ranks else {}


def _place(operation: object) -> str:
    """What the number of a computation counts."""
    return "group" if operation in COPIES else "layer"


def _event(line: dict[str, Any], ranks: int) -> Event:
    kind = line.get("do")
    if kind not in _KEYS:
        raise InputError(f"do = {kind!r}: expected one of {', '.join(_KEYS)}")
    place = _place(line.get("operation"))
    # Computing may name a layer, or copying a group.
    among = ("begin_sum", "begin_bucket", "begin_values", "end_values")
    optional = {"compute": {place}, **{key: {_MEMBERS} for key in among}}
    optional["begin_bucket"] = {_MEMBERS, _EARLY}
    found = line.keys() - {"rank", "do"} - optional.get(kind, set())
    if found != _KEYS[kind]:
        raise InputError(
            f"{kind}: expected the keys {', '.join(sorted(_KEYS[kind])) or '(none)'}, got "
            f"{', '.join(sorted(found)) or '(none)'}"
        )
    match kind:
        case "compute":
            layer = _count(line, place) if place in line else None
            return Compute(_seconds(line), _word(line, "operation"), layer)
        case "begin_exchange":
            sends, receives = (_parcels(line, key, ranks) for key in ("sends", "receives"))
            return BeginExchange(_count(line, "group"), _direction(line), sends, receives)
        case "begin_gather":
            parts = tuple(_counts(line, "parts"))
            return BeginGather(
                _count(line, "group"), _direction(line), _count(line, "first"), parts
            )
        case "end_exchange":
            return EndExchange(_count(line, "group"), _direction(line))
        case "begin_sum":
            return BeginSum(_count(line, "bytes"), _word(line, "purpose"), _members(line))
        case "begin_bucket":
            return BeginBucket(_count(line, "bytes"), _members(line), _early(line))
        case "end_buckets":
            return EndBuckets()
        case "begin_values":
            return BeginValues(_count(line, "bytes"), _members(line))
        case "end_values":
            return EndValues(_count(line, "count"), _members(line))
        case _:
            return EndSum()


def _rank(line: dict[str, Any], ranks: int) -> int:
    rank = line.get("rank")
    if type(rank) is not int or not 0 <= rank < ranks:
        raise InputError(f"rank = {rank!r}: expected a number from 0 to {ranks - 1}")
    return rank


def _seconds(line: dict[str, Any]) -> float:
    value = line["seconds"]
    if type(value) not in (int, float) or not isfinite(value) or value < 0:
        raise InputError(f"seconds = {value!r}: expected a number from 0 on")
    return float(value)


def _count(line: dict[str, Any], key: str) -> int:
    value = line[key]
    if type(value) is not int or value < 0:
        raise InputError(f"{key} = {value!r}: expected a whole number from 0 on")
    return value


def _counts(line: dict[str, Any], key: str) -> list[int]:
    values = line[key]
    good = isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)
    if not good or not values:
        raise InputError(f"{key} = {values!r}: expected a list of whole numbers from 0 on")
    return values


def _early(line: dict[str, Any]) -> bool:
    value = line.get(_EARLY, False)
    if not isinstance(value, bool):
        raise InputError(f"{_EARLY} = {value!r}: expected true or false")
    return value


def _members(line: dict[str, Any]) -> Members:
    if _MEMBERS not in line:
        return EVERYONE
    values = _counts(line, _MEMBERS)
    if any(a >= b for a, b in pairwise(values)):
        raise InputError(f"{_MEMBERS} = {values!r}: expected ranks in ascending order")
    return tuple(values)


def _word(line: dict[str, Any], key: str) -> str:
    value = line[key]
    if not isinstance(value, str):
        raise InputError(f"{key} = {value!r}: expected a word")
    return value


def _direction(line: dict[str, Any]) -> str:
    value = line["direction"]
    if value not in DIRECTIONS:
        raise InputError(f"direction = {value!r}: expected {' or '.join(DIRECTIONS)}")
    return value


def _parcels(line: dict[str, Any], key: str, ranks: int) -> Parcels:
    values, own = line[key], _rank(line, ranks)
    wanted = f"{key} = {values!r}: expected a list of pairs [other rank, bytes]"
    if not isinstance(values, list):
        raise InputError(wanted)
    for value in values:
        whole = isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)
        if not whole or not (0 <= value[0] < ranks and value[0] != own and value[1] >= 0):
            raise InputError(wanted)
    if len({peer for peer, _ in values}) < len(values):
        raise InputError(f"{key} = {values!r}: expected each rank once")
    return tuple((peer, size) for peer, size in values)
