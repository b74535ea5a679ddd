"""Small sums over all ranks of several devices: through memory inside each, directly between."""

from __future__ import annotations

import numpy as np

from mpitile.comm.devices import Counts, DeviceGroup, own_arrays


class DeviceSums:
    """Adds up vectors in place, with one latency between devices.

    MPI's own sum climbs a tree of ranks and comes down again, which is a latency, and a turn
    behind what else is on the links, for each of its rounds. Here the ranks of a device leave
    their vectors in memory that they share, its first rank adds them up and exchanges the sum with
    the first ranks of all other devices. Sums are taken in the order of ranks and devices: every
    rank has the same bits, whenever messages come. Making one and all its calls are collective.

    Parameters
    ----------
    group : this rank's place.
    longest : elements of the longest vector.
    """

    def __init__(self, group: DeviceGroup, longest: int) -> None:
        self._inside, self._first = group.inside, group.first
        self._between = group.world.split(0 if group.first else 1)
        self._memory, arrays = own_arrays(group, 2 * longest, np.dtype(np.float64))
        # What each rank adds, and, of the device's first rank, what all get.
        self._summands = [array[:longest] for array in arrays]
        self._result = arrays[0][longest:]
        self._own = self._summands[group.inside.rank]
        self._parts = np.zeros(len(group.devices) * longest)
        self._devices, self._number = len(group.devices), group.number
        self._counts = Counts(group)
        self._calls = 0

    def sum(self, array: np.ndarray) -> None:
        """Add up float64 arrays of one shape over all ranks."""
        flat = array.reshape(-1)
        size = flat.size
        self._own[:size] = flat
        self._calls += 1
        # Told twice a call: when the summand is there, and, by the first rank, the result.
        there, done = 2 * self._calls - 1, 2 * self._calls
        self._counts.tell(there)
        if self._first:
            self._inside.wait_until(lambda: self._counts.reached(there))
            self._add_up(size)
            self._counts.tell(done)
        else:
            self._inside.wait_until(lambda: self._counts.first_reached(done))
        flat[:] = self._result[:size]

    def _add_up(self, size: int) -> None:
        parts = self._parts[: self._devices * size].reshape(self._devices, size)
        own = parts[self._number]
        own[:] = self._summands[0][:size]
        for summand in self._summands[1:]:
            own += summand[:size]
        ends = range(size, self._devices * size + 1, size)
        self._between.share_slices(parts.reshape(-1), ends)
        result = self._result[:size]
        result[:] = parts[0]
        for part in parts[1:]:
            result += part

    def close(self) -> None:
        """Give back what the ranks of a device share. Collective."""
        self._counts.close()
        self._memory.close()
        self._between.close()
