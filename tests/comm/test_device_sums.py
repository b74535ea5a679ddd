"""Small sums over devices: the same on all ranks, in the order of ranks and devices."""

import numpy as np
import pytest
from device_cases import summand, total

from mpitile.comm.device_sums import DeviceSums
from mpitile.comm.devices import make_devices
from mpitile.comm.local import run_ranks

SIZES = [7, 1, 3, 7, 2] * 4


@pytest.mark.parametrize(
    ("ranks", "per_device"), [(1, "auto"), (2, 1), (3, 2), (4, "auto"), (4, 2), (6, 4), (6, 1)]
)
def test_all_ranks_have_the_sum_in_one_order(ranks, per_device):
    def work(comm):
        group = make_devices(comm, per_device)
        sums = DeviceSums(group, max(SIZES))
        found = []
        for size in SIZES:
            own = summand(comm.rank, size, np.float64)
            sums.sum(own)
            found.append(own)
        sums.close()
        return group.devices, found

    for devices, found in run_ranks(ranks, work):
        for size, own in zip(SIZES, found, strict=True):
            np.testing.assert_array_equal(own, total(devices, size, np.float64))


def test_any_shape_is_added_up_in_place():
    def work(comm):
        sums = DeviceSums(make_devices(comm, 1), 6)
        array = np.full((2, 3), comm.rank + 1.0)
        sums.sum(array)
        sums.close()
        return array

    for array in run_ranks(3, work):
        np.testing.assert_array_equal(array, np.full((2, 3), 6.0))
