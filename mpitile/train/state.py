"""What is trained: weights once per device, their gradients, and an optimiser in slices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpitile.checkpoint.shards import Sliced, replicated
from mpitile.comm.communicator import Communicator
from mpitile.comm.devices import make_devices, one_array, own_arrays
from mpitile.comm.reduce import SlicedGather, SlicedSum
from mpitile.network.spec import Network
from mpitile.runtime.parameters import Parameters, trained_elements
from mpitile.train.optimizer import make_optimizer


class TrainState:
    """Parameters and their optimiser on one rank. Making one and all its calls are collective.

    All ranks of a device read the same values. Each rank adds up, updates and hands out its own
    spans of them; the optimiser's moments exist for those alone.

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
        dtype = np.dtype(dtype)
        size = trained_elements(network)
        bytes_ = size * dtype.itemsize
        self.group = make_devices(world, ranks_per_device, each=bytes_, once=bytes_)
        self._world = world
        value_memory, values = one_array(self.group, size, dtype)
        gradient_memory, gradients = own_arrays(self.group, size, dtype)
        self.parameters = Parameters(network, dtype, values, gradients[self.group.inside.rank])
        self._memories = (value_memory, gradient_memory)
        self._sum = SlicedSum(self.group, gradient_memory, gradients)
        self.total = self._sum.total
        self._values = SlicedGather(self.group, value_memory, values)
        self._gradients: SlicedGather | None = None
        self._optimizer = make_optimizer(
            optimizer, self.parameters, network.options, self.total, self._sum.own
        )

    def draw(self, seed: int) -> None:
        """Initial values from the seed."""
        # Every rank writes the same numbers; the fence is for what is written next.
        self.parameters.draw(seed)
        self._memories[0].fence()

    def begin_sum(self) -> None:
        """Begin to add up the gradients; none may be written before the next `end_share`."""
        self._sum.begin()

    def end_sum(self) -> None:
        """Return when this rank's spans of `total` are complete."""
        self._sum.end()

    def gather_gradients(self) -> None:
        """Make `total` whole on every device."""
        if self._gradients is None:
            self._gradients = SlicedGather(self.group, self._memories[1], self.total)
        self._gradients.begin()
        self._gradients.end()

    def update(self, rate: float, images: int, step: int) -> None:
        """Change this rank's spans of the values, with gradients summed over `images`."""
        self._optimizer.update(rate, images, step)

    def begin_share(self) -> None:
        """Begin to hand out the changed values."""
        self._values.begin()

    def end_share(self) -> None:
        """Return when the device's values are whole."""
        self._values.end()

    @property
    def arrays(self) -> Mapping[str, Sliced]:
        """What a checkpoint has to keep; each rank keeps the spans that it updates."""
        values, spans = self.parameters.values, self._sum.own

        def spread() -> None:
            self.begin_share()
            self.end_share()

        found = {
            "values": Sliced(values, values.size, spans, whole=True, spread=spread),
            "running": replicated(self._world, self.parameters.running),
        }
        for name, moment in self._optimizer.state.items():
            found[name] = Sliced(moment, values.size, spans)
        return found

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by kind, as `mpitile.plan.bytes` predicts them."""
        parameters = self.parameters
        once = parameters.values.nbytes if self.group.first else 0
        return {
            "weights": once + parameters.running.nbytes,
            "gradients": parameters.gradients.nbytes,
            "optimizer": sum(moment.nbytes for moment in self._optimizer.state.values()),
            "sums": self._sum.bytes,
        }

    @property
    def scratch_bytes(self) -> int:
        """Of what the optimiser works in."""
        return sum(array.nbytes for array in self._optimizer.scratch)

    def close(self) -> None:
        """Give back memory and requests; the parameters must not be touched afterwards."""
        for reduction in (self._sum, self._values, self._gradients):
            if reduction:
                reduction.close()
        for memory in self._memories:
            memory.close()
