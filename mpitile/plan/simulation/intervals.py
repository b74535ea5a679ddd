"""A step as it went, simulated or traced: who did what when, and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

COMPUTE, HALO, REDUCE = "compute", "halo", "reduce"
# A bucket of gradients on its way, beside what its rank does.
FLIGHT = "flight"


class Interval(NamedTuple):
    """Something that a rank did, or waited for, from `start` to `end` seconds.

    `kind` is `COMPUTE`, `HALO` or `REDUCE`, or `FLIGHT` beside these; `name` says more.
    """

    rank: int
    start: float
    end: float
    kind: str
    name: str


class Transit(NamedTuple):
    """A message on its way."""

    source: int
    target: int
    start: float
    end: float
    size: int


@dataclass(frozen=True, slots=True)
class RankTotals:
    """Where a rank's step went; the four add up to the step's seconds.

    Attributes
    ----------
    compute_s : its own work.
    halo_s : packing and unpacking, and waiting for messages on their way.
    reduce_s : waiting for sums in which all ranks take part by then.
    wait_s : waiting for ranks that came later to an exchange, a sum or the step's end.
    sent, received : bytes of its messages, those of sums included.
    """

    compute_s: float
    halo_s: float
    reduce_s: float
    wait_s: float
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """A simulated step.

    Attributes
    ----------
    seconds : from the start that all ranks share to the end of the last.
    ranks : totals by rank.
    intervals : in order of their end; empty where they were not wanted.
    transits : messages in order of arrival; likewise.
    """

    seconds: float
    ranks: tuple[RankTotals, ...]
    intervals: Sequence[Interval] = ()
    transits: Sequence[Transit] = ()
