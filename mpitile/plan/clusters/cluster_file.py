"""Clusters as TOML files, as `mpitile profile` writes them and as a user can by hand.

By hand a few lines are enough::

    [between]                  # from device to device
    latency_us = 150
    mb_per_s = 11.7

    [[device]]
    name = "pi3"
    count = 6                  # how many of them
    ranks = 4                  # of each, one a core
    memory = "1GB"
    gflops = 2.5               # of one rank while all compute; or by kind, see below

What is left out is estimated from `gflops`. Further keys of a device: ``gb_per_s`` of work
bound by memory, ``clear_gb_per_s`` of zeroing, ``copy_gb_per_s`` of packing and ``piece_us``
for each message packed, ``sum_gb_per_s`` of reductions, ``call_us`` for each operation of a
layer, ``update_ns`` for each weight, ``core_share`` where a rank has less than a core;
``[device.gflops]`` may give "3x3", "1x1", "other" and "depthwise" convolutions, each as one
figure or as three for forward, backward-input and backward-weights, the last kind the slowest
of the others' where it is left out; ``[device.kernels]`` holds measured points
``[images, rows, columns, milliseconds]`` by layer class and operation.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from mpitile.errors import InputError
from mpitile.plan.clusters.byte_sizes import parse_bytes
from mpitile.plan.clusters.cluster import (
    KINDS,
    MEDIA,
    OPERATIONS,
    Cluster,
    Device,
    DeviceSpeed,
    KernelTimes,
    Link,
    Point,
)

# What a hand-written file leaves out, as seen on small Arm boards and on x86-64: bytes
# moved for each operation, and how copying and adding compare to that.
BYTES_PER_FLOP = 0.2
CALL_US, PIECE_US = 50.0, 10.0
INSIDE = Link(5e-6, 1e9)
OPTIMIZERS = {"sgd": 6, "adam": 12}
# What a table of `gflops` may leave out.
_OPTIONAL = "depthwise"
_LINK_KEYS = ("latency_us", "mb_per_s")
_DEVICE_KEYS = (
    "name",
    "count",
    "ranks",
    "memory",
    "gflops",
    "gb_per_s",
    "clear_gb_per_s",
    "copy_gb_per_s",
    "piece_us",
    "sum_gb_per_s",
    "call_us",
    "update_ns",
    "core_share",
    "kernels",
)
_KEYS = ("medium", "itemsize", "inside", "between", "device")
MOST_RANKS = 1 << 16


def read_cluster(path: str | Path) -> Cluster:
    """The cluster that a file describes.

    Raises
    ------
    InputError : naming the file and the line or key, what was expected and what came.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    return _cluster(_Table(str(path), "", table))


@dataclass(frozen=True)
class _Table:
    """A table of the file, and how errors name it."""

    path: str
    name: str
    values: Mapping[str, Any]

    def fail(self, key: str, expected: str) -> NoReturn:
        where = f"{self.path}: {self.name}{key}"
        if key not in self.values:
            raise InputError(f"{where} is missing: expected {expected}")
        raise InputError(f"{where} = {self.values[key]!r}: expected {expected}")

    def refuse_unknown(self, known: Iterable[str]) -> None:
        for key in self.values:
            if key not in known:
                raise InputError(
                    f"{self.path}: unknown key {self.name}{key}; known keys are {', '.join(known)}"
                )

    def table(self, key: str, name: str | None = None) -> _Table:
        value = self.values[key]
        if not isinstance(value, dict):
            self.fail(key, "a table")
        return _Table(self.path, f"{self.name}{key if name is None else name}.", value)

    def positive(self, key: str, default: float | None = None) -> float:
        if key not in self.values and default is not None:
            return default
        value = self.values.get(key)
        if not _is_positive(value):
            self.fail(key, "a positive number")
        return float(value)  # type: ignore[arg-type]

    def count(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if type(value) is not int or not 1 <= value <= MOST_RANKS:
            self.fail(key, f"an integer from 1 to {MOST_RANKS}")
        return value


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1e300


def _cluster(table: _Table) -> Cluster:
    table.refuse_unknown(_KEYS)
    medium = table.values.get("medium", "switched")
    if medium not in MEDIA:
        table.fail("medium", " or ".join(json.dumps(name) for name in MEDIA))
    itemsize = table.values.get("itemsize", 4)
    if itemsize not in (4, 8):
        table.fail("itemsize", "4 or 8")
    entries = table.values.get("device")
    if not isinstance(entries, list) or not entries:
        table.fail("device", "at least one [[device]]")
    devices: list[Device] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            table.fail("device", "tables [[device]]")
        devices += _devices(_Table(table.path, f"device[{number}].", entry), itemsize)
    if sum(device.ranks for device in devices) > MOST_RANKS:
        raise InputError(f"{table.path}: more than {MOST_RANKS} ranks in all")
    inside = _link(table.table("inside"), INSIDE) if "inside" in table.values else INSIDE
    if "between" not in table.values:
        if len(devices) > 1:
            table.fail("between", "[between] with latency_us and mb_per_s")
        return Cluster(tuple(devices), inside, inside, medium, itemsize)
    return Cluster(tuple(devices), inside, _link(table.table("between")), medium, itemsize)


def _link(table: _Table, default: Link | None = None) -> Link:
    table.refuse_unknown(_LINK_KEYS)
    latency, bandwidth = (
        (None, None) if default is None else (default.latency * 1e6, default.bandwidth / 1e6)
    )
    return Link(
        table.positive("latency_us", latency) / 1e6, table.positive("mb_per_s", bandwidth) * 1e6
    )


def _devices(table: _Table, itemsize: int) -> list[Device]:
    table.refuse_unknown(_DEVICE_KEYS)
    name = table.values.get("name", "device")
    if not isinstance(name, str) or not name:
        table.fail("name", "a name in quotes")
    memory = table.values.get("memory")
    where = f"{table.path}: {table.name}memory"
    size = None if memory is None else parse_bytes(memory, where)
    device = Device(name, table.count("ranks"), size, _speed(table, itemsize))
    return [device] * table.count("count", 1)


def _speed(table: _Table, itemsize: int) -> DeviceSpeed:
    flops = _flops(table)
    # The middle of the figures tells what kind of machine it is.
    products = sorted(value for (kind, _), value in flops.items() if kind != _OPTIONAL)
    typical = products[len(products) // 2]
    moved = table.positive("gb_per_s", typical * BYTES_PER_FLOP / 1e9) * 1e9
    updates = table.table("update_ns") if "update_ns" in table.values else None
    if updates:
        updates.refuse_unknown(OPTIMIZERS)
    update = {
        name: (updates.positive(name, default) if updates else default) / 1e9
        for name, passes in OPTIMIZERS.items()
        for default in [1e9 * passes * itemsize / moved]
    }
    return DeviceSpeed(
        flops=flops,
        bytes=moved,
        call=table.positive("call_us", CALL_US) / 1e6,
        clear=table.positive("clear_gb_per_s", moved / 1e9) * 1e9,
        piece=table.positive("piece_us", PIECE_US) / 1e6,
        share=table.positive("core_share", 1.0),
        copy=table.positive("copy_gb_per_s", moved / 2e9) * 1e9,
        sum=table.positive("sum_gb_per_s", moved / 3e9) * 1e9,
        update=update,
        kernels=_kernels(table.table("kernels")) if "kernels" in table.values else {},
    )


def _flops(table: _Table) -> dict[tuple[str, str], float]:
    value = table.values.get("gflops")
    if _is_positive(value):
        return {(kind, name): value * 1e9 for kind in KINDS for name in OPERATIONS}
    expected = f"a positive number, or a table of {', '.join(KINDS)}"
    if not isinstance(value, dict):
        table.fail("gflops", expected)
    kinds = table.table("gflops")
    kinds.refuse_unknown(KINDS)
    flops = {}
    for kind in KINDS:
        figures = kinds.values.get(kind)
        if figures is None and kind == _OPTIONAL:
            figures = min(flops.values()) / 1e9
        if _is_positive(figures):
            figures = [figures] * len(OPERATIONS)
        if (
            not isinstance(figures, list)
            or len(figures) != len(OPERATIONS)
            or not all(map(_is_positive, figures))
        ):
            kinds.fail(kind, f"a positive number, or three: {', '.join(OPERATIONS)}")
        flops |= {
            (kind, name): figure * 1e9 for name, figure in zip(OPERATIONS, figures, strict=True)
        }
    return flops


def _kernels(table: _Table) -> KernelTimes:
    result: dict[str, dict[str, tuple[Point, ...]]] = {}
    for name in table.values:
        operations = table.table(name, json.dumps(name))
        operations.refuse_unknown(OPERATIONS)
        result[name] = {key: _points(operations, key) for key in operations.values}
    return result


def _points(table: _Table, key: str) -> tuple[Point, ...]:
    value = table.values[key]
    good = isinstance(value, list) and all(
        isinstance(point, list)
        and len(point) == 4
        and all(type(size) is int and size > 0 for size in point[:3])
        and _is_positive(point[3])
        for point in value
    )
    if not good or not value:
        table.fail(key, "points [images, rows, columns, milliseconds]")
    return tuple(Point(*point[:3], point[3] / 1e3) for point in value)


def write_cluster(cluster: Cluster, path: str | Path, heading: str = "") -> None:
    """Write a cluster as a file that `read_cluster` reads.

    Parameters
    ----------
    heading : lines of comment.

    Raises
    ------
    InputError : the file cannot be written.
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    lines += [f"medium = {json.dumps(cluster.medium)}", f"itemsize = {cluster.itemsize}"]
    for name, link in (("inside", cluster.inside), ("between", cluster.between)):
        lines += ["", f"[{name}]", f"latency_us = {_number(link.latency * 1e6)}"]
        lines += [f"mb_per_s = {_number(link.bandwidth / 1e6)}"]
    for _, same in groupby(cluster.devices, key=lambda d: (d.name, d.ranks, d.memory, id(d.speed))):
        alike = list(same)
        lines += ["", "[[device]]", *_device_lines(alike[0], len(alike))]
    try:
        Path(path).write_text("\n".join(lines) + "\n", "utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _device_lines(device: Device, count: int) -> list[str]:
    speed = device.speed
    lines = [f"name = {json.dumps(device.name)}", f"count = {count}", f"ranks = {device.ranks}"]
    if device.memory is not None:
        lines.append(f'memory = "{device.memory}B"')
    lines += [
        f"gb_per_s = {_number(speed.bytes / 1e9)}",
        f"clear_gb_per_s = {_number(speed.clear / 1e9)}",
        f"copy_gb_per_s = {_number(speed.copy / 1e9)}",
        f"piece_us = {_number(speed.piece * 1e6)}",
        f"sum_gb_per_s = {_number(speed.sum / 1e9)}",
        f"call_us = {_number(speed.call * 1e6)}",
        f"update_ns = {{ {_pairs(speed.update.items(), 1e9)} }}",
        f"core_share = {_number(speed.share)}",
        "",
        "[device.gflops]  # forward, backward-input, backward-weights",
    ]
    for kind in KINDS:
        figures = ", ".join(_number(speed.flops[kind, name] / 1e9) for name in OPERATIONS)
        lines.append(f"{json.dumps(kind)} = [{figures}]")
    for name, operations in speed.kernels.items():
        lines += ["", f"[device.kernels.{json.dumps(name)}]"]
        for operation, points in operations.items():
            texts = (
                f"[{p.images}, {p.rows}, {p.columns}, {_number(p.seconds * 1e3)}]" for p in points
            )
            lines.append(f"{operation} = [{', '.join(texts)}]")
    return lines


def _pairs(items: Iterable[tuple[str, float]], factor: float) -> str:
    return ", ".join(f"{name} = {_number(value * factor)}" for name, value in items)


def _number(value: float) -> str:
    """With four digits, and always a number of TOML."""
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written to a cluster file")
    text = f"{value:.4g}"
    return text if "e" not in text else repr(float(text))
