"""Who adds up which part of a flat array that all ranks have a summand of, and who sends what.

The array is cut into buckets, each of these into as many chunks as there are devices, and
each chunk into lanes. Inside a device every rank adds up its lanes of all chunks; it sends
those of other devices' chunks to the ranks that have the same lanes there, and completes those
of its own device's. What a rank completes is its own: it updates that part of the weights
alone, and sends it back the same way.

With D devices each sends ``2 (D - 1) / D`` of the array in all. Messages are direct, not round
a ring: as many bytes, without D - 1 delays behind each other, and every sum is taken in the
order of devices, wherever it is completed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.devices import Devices, first_devices

# From where up to where, in elements of the flat array.
Span = tuple[int, int]

# Of the array that is dealt with at a time, and how many such buckets are under way. Small
# messages, such as halos, wait behind what is: with four buckets a step of y16 took 4% to 7% longer
# than with two, and with one links idle (two devices, 100 and 200 Mbit/s, batches 4 and 2).
BUCKET_BYTES = 1 << 19
IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Parcel:
    """A part of the array that travels between this rank and one of another device."""

    device: int
    rank: int
    span: Span


@dataclass(frozen=True, slots=True)
class Share:
    """A rank's part in one bucket.

    Attributes
    ----------
    added : what it adds up inside its device, a span for each device's chunk.
    own : what it completes.
    sends : sums inside this device, to the ranks that complete them; the next device's first.
    receives : other devices' sums of `own`, or of parts of it.
    """

    added: tuple[Span, ...]
    own: Span
    sends: tuple[Parcel, ...]
    receives: tuple[Parcel, ...]


class Load(NamedTuple):
    """Elements of a bucket that a rank has to do with.

    Attributes
    ----------
    added : what it adds up inside its device.
    own : what it completes.
    others : how many other devices there are.
    """

    added: int
    own: int
    others: int

    @property
    def sent(self) -> int:
        return self.added - self.own

    @property
    def received(self) -> int:
        return self.others * self.own


def equal_buckets(size: int, itemsize: int, bucket_bytes: int = BUCKET_BYTES) -> list[Span]:
    """For an array whose parts are all complete at once."""
    return cut(size, bucket_elements(itemsize, bucket_bytes))


def cut(size: int, step: int) -> list[Span]:
    """Buckets of `step` elements and perhaps a smaller one."""
    return [(start, min(size, start + step)) for start in range(0, size, step)]


def share(devices: Devices, rank: int, bucket: Span) -> Share:
    """A rank's part in a bucket."""
    device, mine = _lanes(devices, rank)
    lanes = devices.lanes

    def span(chunk: int, part: range) -> Span:
        return _span(devices, bucket, chunk, part)

    sends, receives = [], []
    for distance in range(1, len(devices)):
        target = (device + distance) % len(devices)
        source = (device - distance) % len(devices)
        for other, common in _partners(devices.ranks[target], lanes, mine):
            sends.append(Parcel(target, other, span(target, common)))
        for other, common in _partners(devices.ranks[source], lanes, mine):
            receives.append(Parcel(source, other, span(device, common)))
    return Share(
        tuple(span(chunk, mine) for chunk in range(len(devices))),
        span(device, mine),
        _filled(sends),
        _filled(receives),
    )


def own_span(devices: Devices, rank: int, bucket: Span) -> Span:
    """What a rank completes of a bucket."""
    return _span(devices, bucket, *_lanes(devices, rank))


def loads(devices: Devices, size: int) -> list[Load]:
    """What `share` says of a bucket of so many elements, in elements: by rank of all devices."""
    bucket, count = (0, size), len(devices)
    # Ranks with the same lanes add up as much.
    added: dict[range, int] = {}
    found = []
    for rank in range(devices.rank_count):
        device, mine = _lanes(devices, rank)
        if mine not in added:
            added[mine] = covered([_span(devices, bucket, chunk, mine) for chunk in range(count)])
        own = covered([_span(devices, bucket, device, mine)])
        found.append(Load(added[mine], own, count - 1))
    return found


def _lanes(devices: Devices, rank: int) -> tuple[int, range]:
    """A rank's device, and its lanes of every chunk."""
    device, position = devices.place(rank)
    each = devices.lanes // len(devices.ranks[device])
    return device, range(position * each, (position + 1) * each)


def _span(devices: Devices, bucket: Span, chunk: int, lanes: range) -> Span:
    """These lanes of a chunk."""
    start, stop = bucket
    size, first = stop - start, chunk * devices.lanes
    pieces = len(devices) * devices.lanes
    return (
        start + size * (first + lanes.start) // pieces,
        start + size * (first + lanes.stop) // pieces,
    )


def own_spans(devices: Devices, rank: int, buckets: Sequence[Span]) -> tuple[Span, ...]:
    """All that a rank completes, in ascending order; adjacent spans are joined."""
    found: list[Span] = []
    for bucket in sorted(buckets):
        start, stop = own_span(devices, rank, bucket)
        if start == stop:
            continue
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
    return tuple(found)


def covered(spans: Sequence[Span]) -> int:
    """Elements of all spans."""
    return sum(stop - start for start, stop in spans)


def bytes_in_flight(devices: Devices, rank: int, buckets: Sequence[Span], itemsize: int) -> int:
    """What a rank holds for what others send."""
    places = places_in_flight([own_span(devices, rank, bucket) for bucket in buckets])
    return (len(devices) - 1) * sum(places) * itemsize


def places_in_flight(own: Sequence[Span]) -> list[int]:
    """Elements of the places where buckets under way receive, which they take in turn.

    Parameters
    ----------
    own : what the rank completes of each bucket, and one other device sends.
    """
    sizes = [covered([span]) for span in own]
    return [max(sizes[place::IN_FLIGHT]) for place in range(min(IN_FLIGHT, len(sizes)))]


def bucket_elements(itemsize: int, bucket_bytes: int = BUCKET_BYTES) -> int:
    """Elements of a bucket."""
    return max(1, bucket_bytes // itemsize)


def own_elements(cluster: Cluster, ranks: int, size: int) -> tuple[int, ...]:
    """How many elements each of the first `ranks` ranks of a cluster completes."""
    devices = first_devices(cluster, ranks)
    return tuple(covered([own_span(devices, rank, (0, size))]) for rank in range(ranks))


def _partners(ranks: Sequence[int], lanes: int, mine: range) -> list[tuple[int, range]]:
    """The ranks of a device that have some of these lanes, and the common ones."""
    each = lanes // len(ranks)
    found = []
    for position in range(mine.start // each, -(-mine.stop // each)):
        first, last = position * each, (position + 1) * each
        found.append((ranks[position], range(max(mine.start, first), min(mine.stop, last))))
    return found


def _filled(parcels: list[Parcel]) -> tuple[Parcel, ...]:
    """Those that are not empty: sender and receiver leave out the same ones."""
    return tuple(parcel for parcel in parcels if parcel.span[0] < parcel.span[1])
