"""Who adds up what: nothing left out, nothing twice, and as few bytes as can be."""

from collections import Counter

import pytest
from device_cases import devices
from hypothesis import given
from hypothesis import strategies as st

from mpitile.plan.clusters.devices import Devices, expected_devices, group_ranks
from mpitile.plan.sums.slices import covered, cut, loads, own_spans, share

SIZES = st.integers(0, 300)
STEPS = st.integers(1, 120)


def ranks_of(split):
    return sorted(rank for ranks in split.ranks for rank in ranks)


@given(devices(), SIZES, STEPS)
def test_own_spans_are_the_whole_array(split, size, step):
    owners = Counter()
    for rank in ranks_of(split):
        spans = own_spans(split, rank, cut(size, step))
        edges = [edge for span in spans for edge in span]
        # Ascending, none empty, adjacent ones joined.
        assert edges == sorted(set(edges))
        owners.update(element for start, stop in spans for element in range(start, stop))
    assert owners == Counter(range(size))


@given(devices(), SIZES)
def test_loads_are_the_sizes_of_shares(split, size):
    found = loads(split, size)
    assert len(found) == split.rank_count
    for rank, load in enumerate(found):
        part = share(split, rank, (0, size))
        assert load.added == covered(part.added)
        assert load.own == covered([part.own])
        assert load.sent == covered([parcel.span for parcel in part.sends])
        assert load.received == covered([parcel.span for parcel in part.receives])


@given(devices(), SIZES)
def test_each_device_adds_up_the_whole_bucket_inside(split, size):
    for ranks in split.ranks:
        added = Counter()
        for rank in ranks:
            for start, stop in share(split, rank, (7, 7 + size)).added:
                added.update(range(start, stop))
        assert added == Counter(range(7, 7 + size))


@given(devices(), SIZES)
def test_what_one_sends_another_receives_and_completes(split, size):
    shares = {rank: share(split, rank, (3, 3 + size)) for rank in ranks_of(split)}
    sent = Counter(
        (rank, parcel.rank, parcel.span) for rank, s in shares.items() for parcel in s.sends
    )
    received = Counter(
        (parcel.rank, rank, parcel.span) for rank, s in shares.items() for parcel in s.receives
    )
    assert sent == received
    assert not sent or max(sent.values()) == 1
    for rank, part in shares.items():
        device, _ = split.place(rank)
        for parcel in part.sends:
            # Only what was added up here, and only to other devices.
            start, stop = part.added[parcel.device]
            assert start <= parcel.span[0] < parcel.span[1] <= stop
        for other in range(len(split)):
            spans = [parcel.span for parcel in part.receives if parcel.device == other]
            elements = Counter(element for span in spans for element in range(*span))
            expected = range(*part.own) if other != device else ()
            assert elements == Counter(expected)
        for parcel in (*part.sends, *part.receives):
            assert split.place(parcel.rank)[0] == parcel.device != device


@pytest.mark.parametrize(
    "per_device", [[4], [4, 4], [4, 4, 4], [4] * 6, [1] * 5, [1, 2, 4], [3, 4]]
)
def test_each_device_sends_as_little_as_can_be(per_device):
    """(D - 1) / D of the array for the sums, and the same to hand the results back."""
    starts = [sum(per_device[:number]) for number in range(len(per_device))]
    split = Devices(tuple(tuple(range(a, a + n)) for a, n in zip(starts, per_device, strict=True)))
    size, step = 1 << 20, 1 << 18
    count = len(split)
    for ranks in split.ranks:
        sums = gathers = 0
        for rank in ranks:
            for bucket in cut(size, step):
                part = share(split, rank, bucket)
                sums += covered([parcel.span for parcel in part.sends])
                gathers += covered([parcel.span for parcel in part.receives])
        assert sums + gathers == pytest.approx(2 * (count - 1) / count * size, rel=1e-3)
        assert sums == pytest.approx(gathers, rel=1e-3)
        # A device's ranks do equal parts.
        own = [covered(own_spans(split, rank, cut(size, step))) for rank in ranks]
        assert max(own) - min(own) <= size / step * 2


def test_hosts_are_devices_or_are_divided():
    hosts = [[5, 0, 1, 2], [3, 4]]
    assert group_ranks(hosts).ranks == ((0, 1, 2, 5), (3, 4))
    assert group_ranks(hosts, 3).ranks == ((0, 1, 2), (3, 4), (5,))
    assert group_ranks(hosts, 9).ranks == ((0, 1, 2, 5), (3, 4))
    assert expected_devices(5, 2).ranks == ((0, 1), (2, 3), (4,))
    assert expected_devices(3).ranks == ((0, 1, 2),)


def test_places_and_lanes():
    split = Devices(((0, 3), (1, 2, 4)))
    assert [split.place(rank) for rank in range(5)] == [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2)]
    assert split.lanes == 6
    with pytest.raises(ValueError, match="rank 5 is on none of 2 devices"):
        split.place(5)
