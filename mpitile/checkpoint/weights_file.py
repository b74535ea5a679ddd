"""Darknet's ``.weights`` files."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from mpitile.checkpoint.files import replace_file
from mpitile.errors import InputError
from mpitile.network.parameters import ParameterSpec, layer_parameters
from mpitile.network.spec import Connected, Layer, Network
from mpitile.runtime.parameters import Parameters

_VERSION = struct.Struct("<iii")
_FLOAT = np.dtype("<f4")


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
    """Fill `parameters` from a file.

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
        file.seek(header.size)
        for layer in network.layers[: ends[available]]:
            for spec in _file_order(layer):
                numbers = np.fromfile(file, _FLOAT, prod(spec.shape))
                turned = header.turned and isinstance(layer.operation, Connected)
                parameters.view(spec)[...] = _from_darknet(numbers, spec, turned)
    return ends[available], header.seen


def write_weights(path: str | os.PathLike[str], parameters: Parameters, seen: int) -> None:
    """Write all weights as float32 under a version 0.2 header, replacing the file at once.

    Raises
    ------
    InputError : the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(_VERSION.pack(0, 2, 0) + struct.pack("<Q", seen))
            for spec in _all_in_file_order(parameters.network):
                _to_darknet(parameters.view(spec), spec).tofile(file)

    try:
        replace_file(Path(path), write)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _all_in_file_order(network: Network) -> Iterator[ParameterSpec]:
    for layer in network.layers:
        yield from _file_order(layer)


def _file_order(layer: Layer) -> list[ParameterSpec]:
    """Convolutions store weights last, connected layers store them behind the biases."""
    specs = {spec.name: spec for spec in layer_parameters(layer)}
    statistics = ["scales", "rolling_mean", "rolling_variance"]
    if isinstance(layer.operation, Connected):
        order = ["biases", "weights", *statistics]
    else:
        order = ["biases", *statistics, "weights"]
    return [specs[name] for name in order if name in specs]


def _from_darknet(numbers: np.ndarray, spec: ParameterSpec, turned: bool) -> np.ndarray:
    """Darknet's (outputs, channels, rows, columns) as (rows, columns, channels, outputs)."""
    if spec.name != "weights":
        return numbers
    rows, columns, channels, outputs = spec.shape
    if turned:
        numbers = numbers.reshape(-1, outputs).T
    return numbers.reshape(outputs, channels, rows, columns).transpose(2, 3, 1, 0)


def _to_darknet(values: np.ndarray, spec: ParameterSpec) -> np.ndarray:
    if spec.name == "weights":
        values = values.transpose(3, 2, 0, 1)
    return np.ascontiguousarray(values, _FLOAT)
