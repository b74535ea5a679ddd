"""Darknet's ``.weights`` files."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mpitile.checkpoint.files import replace_file
from mpitile.comm.communicator import Communicator
from mpitile.errors import InputError
from mpitile.network.parameters import ParameterSpec, layer_parameters
from mpitile.network.spec import Connected, Layer
from mpitile.runtime.parameters import Parameters

_VERSION = struct.Struct("<iii")
_FLOAT = np.dtype("<f4")
# Numbers that are read, written or sent at a time.
_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Header:
    """What precedes the numbers.

    Attributes
    ----------
    major, minor, revision : the file's version.
    seen : how many images the weights were trained on.
    size : bytes of the header itself: 16, or 20 since version 0.2.
    turned : whether connected layers' weights stand inputs first, as in some old files.
    """

    major: int
    minor: int
    revision: int
    seen: int
    size: int

    @property
    def turned(self) -> bool:
        # Darknet's own mark.
        return self.major > 1000 or self.minor > 1000


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of either version.

    Raises
    ------
    InputError : the file can't be read or is shorter than a header.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(20)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(start) < 16:
        raise InputError(f"{path}: expected a weights file, but it has only {len(start)} bytes")
    major, minor, revision = _VERSION.unpack_from(start)
    # Darknet's own rule for the width of `seen`.
    wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
    if wide and len(start) < 20:
        raise InputError(f"{path}: expected a header of 20 bytes, but it has {len(start)}")
    (seen,) = struct.unpack_from("<Q" if wide else "<I", start, 12)
    return Header(major, minor, revision, seen, 20 if wide else 16)


def read_weights(
    path: str | os.PathLike[str], parameters: Parameters, partial: bool = False
) -> tuple[int, int]:
    """Fill `parameters` from a file; of filter-parallel layers this rank's slice alone.

    Parameters
    ----------
    partial : accept a file that ends with one of the first layers, as pre-trained
        backbones do; later layers keep their values.

    Returns
    -------
    layers, seen : how many layers were filled, and the file's image count.

    Raises
    ------
    InputError : the file's size does not fit the network; nothing is changed then.
    """
    header = read_header(path)
    network = parameters.network
    available, rest = divmod(os.path.getsize(path) - header.size, _FLOAT.itemsize)
    ends = {0: 0}
    total = 0
    for layer in network.layers:
        total += sum(prod(spec.shape) for spec in layer_parameters(layer))
        ends[total] = layer.index + 1
    complete = available == total
    if rest or available not in ends or available == 0 or not (partial or complete):
        raise InputError(
            f"{path}: expected {total} weights for {network.name}, that is "
            f"{header.size + _FLOAT.itemsize * total} bytes, but the file has "
            f"{os.path.getsize(path)} bytes"
        )
    with open(path, "rb") as file:
        place = header.size
        for layer in network.layers[: ends[available]]:
            turned = header.turned and isinstance(layer.operation, Connected)
            columns = parameters.spans.get(layer.index, (0, layer.output_shape.channels))
            arrays = parameters.of_layer(layer.index)
            for spec in _file_order(layer):
                _read_array(file, place, spec, columns, arrays[spec.name], turned)
                place += _FLOAT.itemsize * prod(spec.shape)
    return ends[available], header.seen


def write_weights(
    path: str | os.PathLike[str],
    parameters: Parameters,
    seen: int,
    team: Communicator | None = None,
) -> None:
    """Write all weights as float32 under a version 0.2 header, replacing the file at once.

    Parameters
    ----------
    team : ranks that have all slices of filter-parallel layers, in the order of channels; its
        rank 0 writes, and is handed them piece by piece. Collective where it is given.

    Raises
    ------
    InputError : the file cannot be written; on rank 0.
    """
    chunks = _all_chunks(parameters, team)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(_VERSION.pack(0, 2, 0) + struct.pack("<Q", seen))
            for chunk in chunks:
                chunk.tofile(file)

    try:
        if team is None or team.rank == 0:
            replace_file(Path(path), write)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error
    finally:
        # Where rank 0 cannot write, others still have to get rid of theirs.
        for _ in chunks:
            pass


def _all_chunks(parameters: Parameters, team: Communicator | None) -> Iterator[np.ndarray]:
    """Everything in the order of the file, on rank 0; slices come from their ranks. Collective."""
    spans = team.allgather(parameters.spans) if team else [parameters.spans]
    for layer in parameters.network.layers:
        arrays = parameters.of_layer(layer.index)
        for spec in _file_order(layer):
            if team is None or layer.index not in parameters.spans:
                yield from _chunks(arrays[spec.name], spec, spec.shape[-1])
                continue
            widths = [columns[layer.index][1] - columns[layer.index][0] for columns in spans]
            if spec.name == "weights":
                for rank, outputs in enumerate(widths):
                    yield from _from_rank(team, rank, arrays[spec.name], spec, outputs)
            else:
                for values in team.gather(arrays[spec.name]) or ():
                    yield from _chunks(values, spec, len(values))


def _from_rank(
    team: Communicator, rank: int, values: np.ndarray, spec: ParameterSpec, outputs: int
) -> Iterator[np.ndarray]:
    """A rank's slice of so many outputs of weights, on rank 0. Collective."""
    if rank == 0:
        if team.rank == 0:
            yield from _chunks(values, spec, outputs)
        return
    own = _chunks(values, spec, outputs) if team.rank == rank else iter(())
    for _ in range(0, outputs, _step(spec)):
        found = team.gather(next(own, None))
        if found:
            yield found[rank]


def _step(spec: ParameterSpec) -> int:
    """How many outputs are read or written at a time."""
    return max(1, _BLOCK // prod(spec.shape[:-1]))


def _chunks(values: np.ndarray, spec: ParameterSpec, outputs: int) -> Iterator[np.ndarray]:
    """So many outputs' numbers in Darknet's order: (outputs, channels, rows, columns)."""
    step = _step(spec)
    for start in range(0, outputs, step):
        block = values[..., start : min(outputs, start + step)]
        if spec.name == "weights":
            block = block.transpose(3, 2, 0, 1)
        yield np.ascontiguousarray(block, _FLOAT)


def _read_array(
    file: BinaryIO,
    place: int,
    spec: ParameterSpec,
    columns: tuple[int, int],
    values: np.ndarray,
    turned: bool,
) -> None:
    """Fill `values`, some outputs of an array that begins at a place of the file."""
    first, last = columns
    if spec.name == "weights" and turned:
        file.seek(place)
        rows, width, channels, outputs = spec.shape
        step = max(1, _BLOCK // (rows * width * outputs))
        for start in range(0, channels, step):
            count = min(step, channels - start)
            block = np.fromfile(file, _FLOAT, count * rows * width * outputs)
            block = block.reshape(count, rows, width, outputs)[..., first:last]
            values[:, :, start : start + count] = block.transpose(1, 2, 0, 3)
        return
    inputs, step = prod(spec.shape[:-1]), _step(spec)
    file.seek(place + _FLOAT.itemsize * first * inputs)
    for start in range(0, last - first, step):
        count = min(step, last - first - start)
        block = np.fromfile(file, _FLOAT, count * inputs)
        if spec.name == "weights":
            rows, width, channels, _ = spec.shape
            block = block.reshape(count, channels, rows, width).transpose(2, 3, 1, 0)
        values[..., start : start + count] = block


def _file_order(layer: Layer) -> list[ParameterSpec]:
    """Convolutions store weights last, connected layers store them behind the biases."""
    specs = {spec.name: spec for spec in layer_parameters(layer)}
    statistics = ["scales", "rolling_mean", "rolling_variance"]
    if isinstance(layer.operation, Connected):
        order = ["biases", "weights", *statistics]
    else:
        order = ["biases", *statistics, "weights"]
    return [specs[name] for name in order if name in specs]
