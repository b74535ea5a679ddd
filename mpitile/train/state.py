"""What is trained: weights once per device, their gradients, and an optimiser in slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mpitile.checkpoint.shards import Sliced, replicated
from mpitile.comm.communicator import Communicator
from mpitile.comm.devices import make_devices
from mpitile.comm.flow import BucketFlow
from mpitile.comm.progress import Beside
from mpitile.network.spec import Network
from mpitile.plan.buckets import network_buckets
from mpitile.runtime.parameters import Parameters, decaying_elements, trained_elements
from mpitile.train.divided import DividedState


class TrainState:
    """Parameters and their optimiser on one rank. Making one and all its calls are collective.

    Parameters
    ----------
    optimizer : "sgd" or "adam".
    world : all ranks.
    ranks_per_device : see `mpitile.comm.devices.make_devices`.
    overlap : whether gradients are to be summed while others are still being computed.

    Attributes
    ----------
    parameters : with the device's values and this rank's own gradients.
    group : this rank's place among devices.
    total : the sums of all ranks' gradients, in this rank's spans; see `gather_gradients`.
    """

    def __init__(
        self,
        network: Network,
        dtype: np.dtype | type,
        optimizer: str,
        world: Communicator,
        ranks_per_device: int | str = "auto",
        overlap: bool = False,
    ) -> None:
        size = trained_elements(network)
        bytes_ = size * np.dtype(dtype).itemsize
        self.group = make_devices(world, ranks_per_device, each=bytes_, once=bytes_)
        self._world = world
        self._buckets = network_buckets(network, np.dtype(dtype).itemsize)
        self._trained = DividedState(
            self.group,
            size,
            decaying_elements(network),
            dtype,
            optimizer,
            network.options,
            [bucket.span for bucket in self._buckets],
            overlap,
        )
        self._beside: Beside | None = None
        # Inside a device nothing travels: what there is to do is done between layers.
        if overlap and world.threaded and len(self.group.devices) > 1:
            self._beside = Beside(self._trained.flow.advance)
        self._complete = 0
        self.total = self._trained.total
        self.parameters = Parameters(network, dtype, self._trained.values, self._trained.gradients)

    def draw(self, seed: int) -> None:
        """Initial values from the seed."""
        # Every rank writes the same numbers; the fence is for what is written next.
        self.parameters.draw(seed)
        self._trained.fence()

    def begin_sum(self) -> None:
        """Begin to add up the gradients; none may be written before the next `end_share`."""
        self._trained.begin_sum()

    def end_sum(self) -> None:
        """Return when this rank's spans of `total` are complete."""
        self._trained.end_sum()

    def gather_gradients(self) -> None:
        """Make `total` whole on every device."""
        self._trained.gather_gradients()

    def update(self, rate: float, images: int, step: int) -> None:
        """Change this rank's spans of the values, with gradients summed over `images`."""
        self._trained.update(rate, images, step)

    def begin_overlap(self, rate: float, images: int, step: int) -> None:
        """Begin to add up, update and hand out what `complete` says is complete.

        In place of `begin_sum` to `end_share`, and before the backward pass; the result is the
        same.
        """
        self._complete = 0
        self._trained.begin_flow(rate, images, step)
        if self._beside:
            self._beside.start()

    def complete(self, layers: Sequence[int]) -> Sequence[int]:
        """This rank's gradients of these layers are complete, and their values done with.

        Layers come in descending order. Where no thread does it, this is when sums advance,
        too.

        Returns
        -------
        The elements of each bucket that became complete.
        """
        first = self._complete
        while self._complete < len(self._buckets) and (
            self._buckets[self._complete].layer in layers
        ):
            self._complete += 1
        if self._complete > first:
            self._trained.flow.complete(self._complete)
        if not self._beside:
            self._trained.flow.advance()
        found = self._buckets[first : self._complete]
        return [bucket.span[1] - bucket.span[0] for bucket in found]

    def end_overlap(self) -> BucketFlow:
        """Return when the device's values are whole, with what the buckets' way was like."""
        if self._beside:
            self._beside.stop()
        self._trained.flow.end()
        return self._trained.flow

    def begin_share(self) -> None:
        """Begin to hand out the changed values."""
        self._trained.begin_share()

    def end_share(self) -> None:
        """Return when the device's values are whole."""
        self._trained.end_share()

    @property
    def arrays(self) -> Mapping[str, Sliced]:
        """What a checkpoint has to keep; each rank keeps the spans that it updates."""
        return self._trained.arrays | {"running": replicated(self._world, self.parameters.running)}

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by kind, as `mpitile.plan.bytes` predicts them."""
        found = self._trained.bytes
        found["weights"] += self.parameters.running.nbytes
        return found

    @property
    def scratch_bytes(self) -> int:
        """Of what the optimiser works in."""
        return self._trained.scratch_bytes

    def close(self) -> None:
        """Give back memory and requests; the parameters must not be touched afterwards."""
        if self._beside:
            self._beside.close()
        self._trained.close()
