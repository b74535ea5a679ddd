"""Sums over ranks that are threads, on devices of any number of ranks."""

import numpy as np
import pytest
from device_cases import devices, summand, total
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.comm.devices import DeviceGroup, make_devices, one_array, own_arrays
from mpitile.comm.local import run_ranks
from mpitile.comm.reduce import SlicedGather, SlicedSum, shares_of
from mpitile.plan.clusters.devices import Devices
from mpitile.plan.sums.slices import bytes_in_flight, equal_buckets, own_spans

DTYPES = st.sampled_from([np.float32, np.float64])


def group_of(comm, split):
    """This rank's place, on devices as told."""
    number, _ = split.place(comm.rank)
    return DeviceGroup(split, comm.split(0), comm.split(number), number)


def add_up(comm, split, size, dtype, bucket, rounds=2):
    """The sum as each rank finds it on its device, and the spans that were its own."""
    group, dtype = group_of(comm, split), np.dtype(dtype)
    memory, arrays = own_arrays(group, size, dtype)
    buckets = equal_buckets(size, dtype.itemsize, bucket)
    reduction = SlicedSum(group, memory, arrays, buckets)
    gather = SlicedGather(group, memory, reduction.total, buckets)
    for _ in range(rounds):
        arrays[group.inside.rank][:] = summand(comm.rank, size, dtype)
        reduction.begin()
        reduction.end()
        own = [reduction.total[start:stop].copy() for start, stop in reduction.own]
        gather.begin()
        gather.end()
        whole = reduction.total.copy()
        memory.fence()
    return own, whole, reduction, group.sent()


@settings(max_examples=60)
@given(devices(), st.integers(0, 200), DTYPES, st.integers(1, 900))
def test_any_devices_give_the_same_bits_for_any_buckets(split, size, dtype, bucket):
    ranks = sum(len(group) for group in split.ranks)
    expected = total(split, size, dtype)
    for own, whole, reduction, _ in run_ranks(
        ranks, lambda comm: add_up(comm, split, size, dtype, bucket)
    ):
        np.testing.assert_array_equal(whole, expected)
        assert whole.dtype == dtype
        for found, (start, stop) in zip(own, reduction.own, strict=True):
            np.testing.assert_array_equal(found, expected[start:stop])


@pytest.mark.parametrize("per_device", ["auto", 1, 2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 5, 100_003])
def test_sums_are_those_of_the_communicator(per_device, size):
    def work(comm):
        group = make_devices(comm, per_device)
        _, whole, *_ = add_up(comm, group.devices, size, np.float64, 1 << 16, rounds=1)
        plain = summand(comm.rank, size, np.float64)
        comm.sum(plain)
        return group.devices, whole, plain

    for split, whole, plain in run_ranks(6, work):
        assert len(split) == {"auto": 1, 1: 6, 2: 3, 3: 2, 4: 2}[per_device]
        np.testing.assert_allclose(whole, plain, rtol=1e-12, atol=1e-12)
        if len(split) in (1, 6):
            # The order of ranks, as the communicator adds.
            np.testing.assert_array_equal(whole, plain)


@pytest.mark.parametrize("per_device", [1, 2, 3, 4, 6])
def test_each_device_sends_what_the_formula_says(per_device):
    size, bucket = 240_000, 1 << 18
    split = Devices(
        tuple(tuple(range(a, min(12, a + per_device))) for a in range(0, 12, per_device))
    )
    found = run_ranks(12, lambda comm: add_up(comm, split, size, np.float32, bucket, rounds=3))
    count = len(split)
    for ranks in split.ranks:
        outside = sum(found[rank][3][0] for rank in ranks)
        assert outside == pytest.approx(3 * 2 * (count - 1) / count * 4 * size, rel=1e-3)
        assert sum(found[rank][3][1] for rank in ranks) == 0


@pytest.mark.parametrize("split", [((0, 1, 2),), ((0, 1), (2,)), ((0,), (1,), (2,))])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_spans_and_buffers_are_known_beforehand(split, size):
    split = Devices(split)

    def work(comm):
        group = group_of(comm, split)
        memory, arrays = own_arrays(group, size, np.dtype(np.float32))
        reduction = SlicedSum(group, memory, arrays)
        return reduction.own, reduction.bytes

    for rank, (own, held) in enumerate(run_ranks(3, work)):
        assert own == own_spans(split, rank, equal_buckets(size, 4))
        assert held == bytes_in_flight(split, rank, equal_buckets(size, 4), 4)
        assert len(split) > 1 or held == 0


def test_one_array_is_written_by_its_owners_and_read_by_all():
    split = Devices(((0, 2, 3), (1, 4)))
    size = 1000

    def work(comm):
        group = group_of(comm, split)
        memory, values = one_array(group, size, np.dtype(np.float64))
        buckets = equal_buckets(size, 8, 800)
        gather = SlicedGather(group, memory, values, buckets)
        for part in shares_of(group, buckets):
            start, stop = part.own
            values[start:stop] = np.arange(start, stop)
        gather.begin()
        gather.end()
        return memory.segments[0].ctypes.data, values.copy()

    found = run_ranks(5, work)
    for _, values in found:
        np.testing.assert_array_equal(values, np.arange(size))
    places = [place for place, _ in found]
    assert places[0] == places[2] == places[3] != places[1] == places[4]


@pytest.mark.parametrize(("room", "shared"), [(31, True), (30, False), (0, False)])
def test_without_room_each_rank_is_a_device_of_its_own(room, shared):
    """Three ranks want 7 bytes each and 10 bytes once; a fourth is alone on another host."""

    def work(comm):
        comm.hosts = lambda: [[0, 1, 2], [3]]
        comm.room = lambda: room if comm.rank == 1 else 1000
        return make_devices(comm, "auto", each=7, once=10).devices

    expected = ((0, 1, 2), (3,)) if shared else ((0,), (1,), (2,), (3,))
    assert {split.ranks for split in run_ranks(4, work)} == {expected}


@pytest.mark.parametrize("place", ["before", "inside"])
def test_a_failing_rank_leaves_no_other_waiting_in_a_sum(place):
    split = Devices(((0, 1), (2, 3)))

    def work(comm):
        group = group_of(comm, split)
        memory, arrays = own_arrays(group, 50, np.dtype(np.float64))
        reduction = SlicedSum(
            group, memory, arrays, equal_buckets(arrays[0].size, arrays[0].itemsize, 80)
        )
        if comm.rank == 3:
            if place == "inside":
                reduction.begin()
            raise ValueError("rank 3 is broken")
        reduction.begin()
        reduction.end()
        memory.fence()

    with pytest.raises(ValueError, match="rank 3 is broken"):
        run_ranks(4, work)
