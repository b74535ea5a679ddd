"""A flat array that ranks train together: values once per device, and an optimiser in slices."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mpitile.checkpoint.pieces import Field
from mpitile.checkpoint.shards import Part
from mpitile.comm.devices import DeviceGroup, one_array, own_arrays
from mpitile.comm.flow import SumFlow, ValueFlow
from mpitile.comm.reduce import SlicedGather, SlicedSum
from mpitile.network.spec import NetOptions
from mpitile.plan.sums.buckets import Bucket, early_count, needed
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
        complete.
    overlap : whether parts are to be summed, updated and handed out before others are complete.

    Attributes
    ----------
    values : the device's values.
    gradients : this rank's own, flat as the values.
    total : the sums of all ranks' gradients, in this rank's spans; see `gather_gradients`.
    own : the spans that this rank completes and updates.
    sum_flow : of all buckets, to be advanced while it is under way; None without overlap.
    early_flow : of the first buckets' values, beside it.
    value_flow : of the other buckets' values, beside the next forward pass.
    """

    def __init__(
        self,
        group: DeviceGroup,
        size: int,
        decaying: int,
        dtype: np.dtype | type,
        optimizer: str,
        options: NetOptions,
        buckets: Sequence[Bucket],
        overlap: bool = False,
    ) -> None:
        self.group = group
        self._value_memory, self.values = one_array(group, size, np.dtype(dtype))
        self._gradient_memory, gradients = own_arrays(group, size, np.dtype(dtype))
        self.gradients = gradients[group.inside.rank]
        self._buckets, self._complete = buckets, 0
        self._spans = [bucket.span for bucket in buckets]
        self._sum = SlicedSum(group, self._gradient_memory, gradients, self._spans)
        self.total, self.own = self._sum.total, self._sum.own
        # Forward reads first what backward completes last.
        self._shared = SlicedGather(group, self._value_memory, self.values, self._spans[::-1])
        self._totals: SlicedGather | None = None
        self._early = early_count(buckets)
        self.sum_flow = self.early_flow = self.value_flow = None
        if overlap:
            later = len(buckets) - self._early
            channels = self._shared.channels
            self.sum_flow = flow = SumFlow(group, self._sum)
            self.early_flow = ValueFlow(group, channels[later:][::-1], lambda: flow.summed)
            self.value_flow = ValueFlow(group, channels[:later])
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
            self._totals = SlicedGather(self.group, self._gradient_memory, self.total, self._spans)
        self._totals.begin()
        self._totals.end()

    def update(self, rate: float, images: int, step: int) -> None:
        """Change this rank's spans of the values, with gradients summed over `images`."""
        self._optimizer.update(rate, images, step)

    def begin_sum_flow(self, rate: float, images: int, step: int) -> None:
        """Begin to add up and to update bucket by bucket, as they are told to be complete."""
        self._complete = 0
        self.sum_flow.begin(lambda span: self._optimizer.update(rate, images, step, span))
        # After it: the last step's sums would make its values ready.
        self.early_flow.begin()

    def complete(self, layers: Collection[int]) -> list[tuple[int, bool]]:
        """Tell that this rank has completed these layers, and is done with their values.

        Layers come in descending order.

        Returns
        -------
        The bytes of each bucket that became complete, and whether its new values are early.
        """
        first = self._complete
        while self._complete < len(self._buckets) and (
            self._buckets[self._complete].layer in layers
        ):
            self._complete += 1
        if self._complete > first:
            self.sum_flow.complete(self._complete)
        sizes = self._sizes(self._buckets[first : self._complete])
        return [(size, number < self._early) for number, size in enumerate(sizes, first)]

    def wait_values(self, layer: int) -> int:
        """Return when `value_flow` has brought the device all values up to this layer's.

        Returns
        -------
        How many buckets these are.
        """
        count = needed(self._buckets[self._early :], layer)
        self.value_flow.wait(count)
        return count

    def begin_share(self) -> None:
        """Begin to hand out the changed values."""
        self._shared.begin()

    def end_share(self) -> None:
        """Return when the device's values are whole."""
        self._shared.end()

    def arrays(self, fields: Sequence[Field]) -> dict[str, Part]:
        """What a checkpoint has to keep; each rank keeps the spans that it updates.

        Parameters
        ----------
        fields : what stands in the flat array.
        """

        def spread() -> None:
            self.begin_share()
            self.end_share()

        found = {"values": Part(self.values, fields, self.own, whole=True, spread=spread)}
        for name, moment in self._optimizer.state.items():
            found[name] = Part(moment, fields, self.own)
        return found

    @property
    def flows(self) -> Sequence[SumFlow | ValueFlow]:
        """All of them, for who advances them: values set out once their sum is there."""
        return self.sum_flow, self.early_flow, self.value_flow

    @property
    def bucket_bytes(self) -> list[int]:
        """Of the values in `value_flow`, in their order."""
        return self._sizes(self._buckets[self._early :][::-1])

    def _sizes(self, buckets: Sequence[Bucket]) -> list[int]:
        spans = [bucket.span for bucket in buckets]
        return [self.values.itemsize * (stop - start) for start, stop in spans]

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by kind, as `mpitile.plan.memory.bytes` predicts them."""
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
        for reduction in (
            self.sum_flow,
            self.early_flow,
            self.value_flow,
            self._sum,
            self._shared,
            self._totals,
        ):
            if reduction:
                reduction.close()
        for memory in (self._value_memory, self._gradient_memory):
            memory.close()
