"""What is trained: weights once per device, their gradients, and an optimiser in slices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpitile.checkpoint.shards import Sliced, replicated
from mpitile.comm.communicator import Communicator
from mpitile.comm.devices import make_devices
from mpitile.network.spec import Network
from mpitile.runtime.parameters import Parameters, decaying_elements, trained_elements
from mpitile.train.divided import DividedState


class TrainState:
    """Parameters and their optimiser on one rank. Making one and all its calls are collective.

    Parameters
    ----------
    optimizer : "sgd" or "adam".
    world : all ranks.
    ranks_per_device : see `mpitile.comm.devices.make_devices`.

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
    ) -> None:
        size = trained_elements(network)
        bytes_ = size * np.dtype(dtype).itemsize
        self.group = make_devices(world, ranks_per_device, each=bytes_, once=bytes_)
        self._world = world
        self._trained = DividedState(
            self.group, size, decaying_elements(network), dtype, optimizer, network.options
        )
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
        self._trained.close()
