"""General rates of a device from the measured times of some layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from mpitile.plan.clusters.cluster import KINDS, OPERATIONS
from mpitile.plan.costs.layer_class import Work


@dataclass(frozen=True, slots=True)
class Sample:
    """A measured time of an operation, and the work that was done in it.

    Attributes
    ----------
    cells : output cells of all images.
    """

    operation: str
    work: Work
    cells: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rates:
    """As `mpitile.plan.clusters.cluster.DeviceSpeed` has them."""

    flops: dict[tuple[str, str], float]
    bytes: float
    call: float


_COLUMNS = [(kind, operation) for kind in KINDS for operation in OPERATIONS]
# Where no layer without products was measured: seconds a byte and a call, and operations that
# take as long as a byte.
_PER_BYTE, _CALL, _FLOPS_BYTES = 1e-9, 5e-5, 0.2
# Of a measured time, what bytes or calls take at least where the fit leaves them nothing.
_HIDDEN = 0.1


def fit_rates(samples: Sequence[Sample], itemsize: int) -> Rates:
    """Least squares of the relative errors, no rate below zero.

    First bytes and calls of layers without products, which are what both are about, then
    products for themselves. Kinds of products that no sample has are as fast as the slowest
    of those known.
    """
    plain = [sample for sample in samples if not sample.work.flops]
    rows = [[_bytes(sample, itemsize) / sample.seconds, 1 / sample.seconds] for sample in plain]
    per_byte, call = _fit(np.array(rows)) if rows else (_PER_BYTE, _CALL)
    flops = {}
    for column in _COLUMNS:
        chosen = [s for s in samples if s.work.flops and (s.work.kind, s.operation) == column]
        if chosen:
            flops[column] = 1 / _per_flop(chosen, itemsize, per_byte, call)
    slowest = min(flops.values(), default=1 / (_FLOPS_BYTES * per_byte))
    return Rates({c: flops.get(c, slowest) for c in _COLUMNS}, 1 / per_byte, call)


def _fit(matrix: np.ndarray) -> tuple[float, float]:
    """The positive coefficients that make all rows one."""
    # Columns of equal length: seconds a byte and seconds a call are far apart.
    lengths = np.linalg.norm(matrix, axis=0)
    found = nnls(matrix / lengths, np.ones(len(matrix)))[0] / lengths
    # Neither is nothing: at least this part of the time of which it would make out most.
    least = _HIDDEN / matrix.max(axis=0)
    return float(max(found[0], least[0])), float(max(found[1], least[1]))


def _per_flop(samples: Sequence[Sample], itemsize: int, per_byte: float, call: float) -> float:
    """Seconds an operation beyond bytes and calls; at least half of what it seems to be."""
    above = alone = below = 0.0
    for sample in samples:
        other = _bytes(sample, itemsize) * per_byte + call
        flops = sample.work.flops * sample.cells / sample.seconds
        above += flops * (1 - other / sample.seconds)
        alone += flops
        below += flops**2
    return max(above, alone / 2) / below


def _bytes(sample: Sample, itemsize: int) -> float:
    work = sample.work
    return itemsize * (work.elements * sample.cells + work.fixed_elements)
