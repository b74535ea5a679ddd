"""Where the flat array of a network's parameters is cut, so that parts of it are complete early.

Backward completes layers in descending order. Borders of buckets therefore follow borders of
layers: no gradient waits for one of a layer much further ahead. Biases and scales stand behind
all weights and are few: they are one bucket, complete with the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

from mpitile.network.parameters import ParameterSpec
from mpitile.plan.sums.slices import BUCKET_BYTES, Span, bucket_elements

# Of a bucket, and how many of them there should be at least.
_LEAST_BYTES = 1 << 16
_BUCKETS = 16
# Share of the bytes whose new values travel beside backward, too. Backward takes twice as long as
# forward: with all sums and a third of the values it would have twice the bytes. Simulated steps
# of y16 on six Pi 3s are fastest with a quarter to a third at batch 4, where links are busy
# throughout (by 7% against none), and within 2% of the fastest at batch 8 (tests/bench/paper.py).
_EARLY = 0.25


@dataclass(frozen=True, slots=True)
class Bucket:
    """A part of the flat array.

    Attributes
    ----------
    span : from where up to where, in elements.
    layer : with this layer the bucket is complete, at the latest.
    """

    span: Span
    layer: int


def layer_buckets(
    specs: Sequence[ParameterSpec], itemsize: int, bucket_bytes: int | None = None
) -> tuple[Bucket, ...]:
    """Buckets in the order in which backward completes them.

    Parameters
    ----------
    specs : in the order of layers; of those that are trained, the ones that decay come first
        in the flat array.
    bucket_bytes : of a bucket at most; chosen by the size of the array if left out.
    """
    # A slice of filters may have no elements of a layer; nobody completes those.
    trained = [spec for spec in specs if spec.trained and prod(spec.shape)]
    step = bucket_elements(itemsize, bucket_bytes or _bucket_bytes(trained, itemsize))
    weights = [spec for spec in trained if spec.decays]
    vectors = [spec for spec in trained if not spec.decays]
    decaying = sum(prod(spec.shape) for spec in weights)
    found: list[Bucket] = []
    stop = start = decaying
    for number in reversed(range(len(weights))):
        start -= prod(weights[number].shape)
        following = prod(weights[number - 1].shape) if number else step
        if stop - start + following > step:
            found += _pieces(start, stop, step, weights[number].layer)
            stop = start
    size = decaying + sum(prod(spec.shape) for spec in vectors)
    if vectors:
        found += _pieces(decaying, size, step, vectors[0].layer)
    return tuple(found)


def early_count(buckets: Sequence[Bucket]) -> int:
    """How many of them, in the order of backward, have their new values handed out beside it.

    The others' travel beside the next forward pass.
    """
    sizes = (stop - start for start, stop in (bucket.span for bucket in buckets))
    ends = list(accumulate(sizes))
    return sum(end <= _EARLY * ends[-1] for end in ends)


def needed(buckets: Sequence[Bucket], layer: int) -> int:
    """How many of them, the last one first, hold the values of all layers up to this one."""
    order = enumerate(reversed(buckets), 1)
    return max((count for count, bucket in order if bucket.layer <= layer), default=0)


def _bucket_bytes(trained: Sequence[ParameterSpec], itemsize: int) -> int:
    """Some buckets of a small array as well, as long as messages are worth their latency."""
    total = itemsize * sum(prod(spec.shape) for spec in trained)
    return min(BUCKET_BYTES, max(_LEAST_BYTES, total // _BUCKETS))


def _pieces(start: int, stop: int, step: int, layer: int) -> list[Bucket]:
    """Equal parts of no more than a step, the last one first."""
    count = -(-(stop - start) // step)
    lines = [start + (stop - start) * n // count for n in range(count + 1)]
    return [Bucket((a, b), layer) for a, b in pairwise(lines)][::-1]
