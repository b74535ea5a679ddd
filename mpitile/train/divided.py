"""A flat array that ranks train together: values once per device, and an optimiser in slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpitile.checkpoint.shards import Sliced
from mpitile.comm.devices import DeviceGroup, one_array, own_arrays
from mpitile.comm.flow import BucketFlow
from mpitile.comm.reduce import SlicedGather, SlicedSum
from mpitile.network.spec import NetOptions
from mpitile.plan.slices import Span
from mpitile.train.optimizer import Trained, optimizer_of


class DividedState:
    """One flat array over the ranks of one communicator. Making one and its calls are collective.

    All ranks of a device read the same values. Each rank adds up, updates and hands out its own
    spans of them; the optimiser's moments exist for those alone.

    Parameters
    ----------
    group : this rank's place among the devices of the communicator.
    size : elements of the array, the same on all ranks.
    decaying : how many of them decay; they come first.
    optimizer : "sgd" or "adam".
    options : the optimiser's constants.
    buckets : parts of the array that are dealt with at a time, in the order in which they are
        complete; equal ones if left out.
    overlap : whether parts are to be summed, updated and handed out before others are complete.

    Attributes
    ----------
    values : the device's values.
    gradients : this rank's own, flat as the values.
    total : the sums of all ranks' gradients, in this rank's spans; see `gather_gradients`.
    own : the spans that this rank completes and updates.
    flow : of buckets, to be advanced while it is under way; None without overlap.
    """

    def __init__(
        self,
        group: DeviceGroup,
        size: int,
        decaying: int,
        dtype: np.dtype | type,
        optimizer: str,
        options: NetOptions,
        buckets: Sequence[Span] | None = None,
        overlap: bool = False,
    ) -> None:
        self.group = group
        self._value_memory, self.values = one_array(group, size, np.dtype(dtype))
        self._gradient_memory, gradients = own_arrays(group, size, np.dtype(dtype))
        self.gradients = gradients[group.inside.rank]
        self._sum = SlicedSum(group, self._gradient_memory, gradients, buckets)
        self.total, self.own = self._sum.total, self._sum.own
        self._shared = SlicedGather(group, self._value_memory, self.values, buckets)
        self._buckets = buckets
        self._totals: SlicedGather | None = None
        self.flow = BucketFlow(group, self._sum, self._shared) if overlap else None
        trained = Trained(self.values, self.total, decaying, self.own)
        self._optimizer = optimizer_of(optimizer, trained, options)

    def fence(self) -> None:
        """What any rank of the device has written to the values is what all read afterwards."""
        self._value_memory.fence()

    def begin_sum(self) -> None:
        """Begin to add up the gradients; none may be written before the next `end_share`."""
        self._sum.begin()

    def end_sum(self) -> None:
        """Return when this rank's spans of `total` are complete."""
        self._sum.end()

    def gather_gradients(self) -> None:
        """Make `total` whole on every device."""
        if self._totals is None:
            self._totals = SlicedGather(
                self.group, self._gradient_memory, self.total, self._buckets
            )
        self._totals.begin()
        self._totals.end()

    def update(self, rate: float, images: int, step: int) -> None:
        """Change this rank's spans of the values, with gradients summed over `images`."""
        self._optimizer.update(rate, images, step)

    def begin_flow(self, rate: float, images: int, step: int) -> None:
        """Begin to do all of this bucket by bucket, as `flow` is told that they are complete."""
        self.flow.begin(lambda span: self._optimizer.update(rate, images, step, span))

    def begin_share(self) -> None:
        """Begin to hand out the changed values."""
        self._shared.begin()

    def end_share(self) -> None:
        """Return when the device's values are whole."""
        self._shared.end()

    @property
    def arrays(self) -> dict[str, Sliced]:
        """What a checkpoint has to keep; each rank keeps the spans that it updates."""

        def spread() -> None:
            self.begin_share()
            self.end_share()

        size = self.values.size
        found = {"values": Sliced(self.values, size, self.own, whole=True, spread=spread)}
        for name, moment in self._optimizer.state.items():
            found[name] = Sliced(moment, size, self.own)
        return found

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by kind, as `mpitile.plan.bytes` predicts them."""
        return {
            "weights": self.values.nbytes if self.group.first else 0,
            "gradients": self.gradients.nbytes,
            "optimizer": sum(moment.nbytes for moment in self._optimizer.state.values()),
            "sums": self._sum.bytes,
        }

    @property
    def scratch_bytes(self) -> int:
        """Of what the optimiser works in."""
        return sum(array.nbytes for array in self._optimizer.scratch)

    def close(self) -> None:
        """Give back memory and requests; the arrays must not be touched afterwards."""
        for reduction in (self.flow, self._sum, self._shared, self._totals):
            if reduction:
                reduction.close()
        for memory in (self._value_memory, self._gradient_memory):
            memory.close()
