"""Algorithms measured once a machine and shape, kept in a small readable file.

The file is TOML: a table for each machine and instruction set, a line for each shape::

    ["avx512, Intel(R) Xeon(R) Processor"]
    "forward 3x3/1 32-64 1x304x304" = "winograd4"

It is ``$MPITILE_KERNEL_CACHE``, or ``mpitile/kernels.toml`` in ``$XDG_CACHE_HOME`` or
``~/.cache``. One rank measures and tells the others.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mpitile.errors import InputError
from mpitile.geometry.box import whole
from mpitile.kernels import _fast, conv
from mpitile.kernels.algorithms import ALGORITHMS, EXACT, possible, workspace_elements
from mpitile.kernels.aligned import aligned_zeros
from mpitile.kernels.choice import Shape
from mpitile.kernels.tile import Tile

TURNS = 5


def cache_path() -> Path:
    """Where measurements are kept."""
    named = os.environ.get("MPITILE_KERNEL_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "mpitile" / "kernels.toml"


def machine() -> str:
    """This machine's name in the file: its instruction set and processor."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
            break
    return f"{_fast.selected()}, {model}"


def read(path: Path) -> dict[str, dict[str, str]]:
    """All machines' tables; none where there is no file.

    Raises
    ------
    InputError : the file is not such a file.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a TOML file of kernels, got: {error}") from None
    for name, table in content.items():
        if not isinstance(table, dict):
            raise InputError(f"{path}: expected a table for each machine, got {name} = {table!r}")
        for key, value in table.items():
            if value not in ALGORITHMS:
                raise InputError(
                    f"{path}: {key}: expected one of {', '.join(ALGORITHMS)}, got {value!r}"
                )
    return content


def write(path: Path, tables: dict[str, dict[str, str]]) -> None:
    """Replace the file at once: a reader sees the old one or the new one."""
    lines = ["# Fastest kernels as mpitile measured them; lines may be changed or removed."]
    for name in sorted(tables):
        lines += ["", f"[{json.dumps(name)}]"]
        lines += [f"{json.dumps(key)} = {json.dumps(tables[name][key])}" for key in tables[name]]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def table(shapes: Iterable[Shape], exact: bool = False, path: Path | None = None) -> dict[str, str]:
    """The fastest algorithm of each shape by its key, measuring what the file lacks.

    With `exact` only exact algorithms compete; their keys in the file begin with ``exact``.
    """
    path = path or cache_path()
    tables = read(path)
    known = tables.setdefault(machine(), {})
    prefix = "exact " if exact else ""
    result, measured = {}, False
    for shape in shapes:
        key = prefix + shape.key
        if key not in known:
            times = measure(shape, exact)
            known[key] = min(times, key=times.__getitem__)
            measured = True
        result[shape.key] = known[key]
    if measured:
        write(path, tables)
    return result


def measure(shape: Shape, exact: bool = False) -> dict[str, float]:
    """Median seconds of each algorithm in turns, on a tile of random float32 numbers."""
    kernel = (shape.kernel_height, shape.kernel_width)
    names = [
        name
        for name in (EXACT if exact else ALGORITHMS)
        if possible(name, shape.operation, kernel, shape.stride, np.dtype(np.float32))
    ]
    if len(names) == 1:
        return {names[0]: 0.0}
    work = _Work(shape, names)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(TURNS + 1):
        for name in names:
            start = time.perf_counter()
            work.run(name)
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class _Work:
    """One operation on whole tensors of the shape's size."""

    def __init__(self, shape: Shape, names: list[str]) -> None:
        random = np.random.default_rng(1)
        kernel = (shape.kernel_height, shape.kernel_width)
        padding = max(kernel) // 2

        def tile(rows: int, columns: int, channels: int) -> Tile:
            array = aligned_zeros((shape.images, rows, columns, channels), np.float32)
            array[...] = random.standard_normal(array.shape, np.float32)
            return Tile(array, whole(rows, columns), rows, columns)

        rows, columns = (
            max((cells - 1) * shape.stride + size - 2 * padding, 1)
            for cells, size in zip((shape.rows, shape.columns), kernel, strict=True)
        )
        self._shape = shape
        self._x = tile(rows, columns, shape.channels)
        self._y = tile(shape.rows, shape.columns, shape.filters)
        self._weights = random.standard_normal((*kernel, shape.channels, shape.filters), np.float32)
        elements = max(workspace_elements(name, shape, (rows, columns)) for name in names)
        self._rest = (shape.stride, padding, aligned_zeros((elements,), np.float32))

    def run(self, algorithm: str) -> None:
        x, y, weights = self._x, self._y, self._weights
        if self._shape.operation == "forward":
            conv.forward(x, weights, y, y.box, *self._rest, algorithm=algorithm)
        elif self._shape.operation == "backward_input":
            conv.backward_input(
                y, y.box, weights, x, *self._rest, accumulate=False, algorithm=algorithm
            )
        else:
            conv.backward_weights(x, y, y.box, weights, *self._rest, algorithm=algorithm)
