"""Bytes on a device of what is trained, layer by layer.

Close to what `mpitile.plan.memory.bytes` finds for a whole plan, and cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from mpitile.network.parameters import layer_parameters
from mpitile.network.spec import Network
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.plan import Plan


class TrainedBytes:
    """Of weights, their gradients and what the optimiser keeps, on one device.

    Parameters
    ----------
    plan : grid and number of replicas.
    slices : of tensors that filter-parallel layers can write, the channels of each tile's rank.
    ranks : of the device.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        slices: Mapping[int, Sequence[int]],
        ranks: Sequence[int],
        demand: Demand,
    ) -> None:
        self._slices, self._itemsize = slices, demand.itemsize
        self._arrays = demand.optimizer_arrays
        self._world, self._replicas = plan.ranks, plan.replicas
        self._tiles = [rank % plan.grid.tiles for rank in ranks]
        self._channels = [layer.output_shape.channels for layer in network.layers]
        # Of each layer, numbers trained and running.
        self._elements = []
        for layer in network.layers:
            specs = layer_parameters(layer)
            trained = sum(prod(spec.shape) for spec in specs if spec.trained)
            self._elements.append((trained, sum(prod(spec.shape) for spec in specs) - trained))

    def of(self, layers: Iterable[int], filters: bool) -> int:
        """Bytes of these layers, tiled or filter-parallel."""
        return sum(map(self._sliced if filters else self._tiled, layers))

    def _tiled(self, layer: int) -> int:
        trained, running = self._elements[layer]
        ranks = len(self._tiles)
        # Values once on the device, gradients and running statistics on each of its ranks.
        elements = trained + ranks * (trained + running)
        return (elements + ranks * self._arrays * trained // self._world) * self._itemsize

    def _sliced(self, layer: int) -> int:
        trained, running = (count // self._channels[layer] for count in self._elements[layer])
        if not trained:
            return 0
        slices = self._slices[layer + 1]
        values = sum(slices[tile] for tile in set(self._tiles))
        every = sum(slices[tile] for tile in self._tiles)
        elements = values * trained + every * (trained + running)
        kept = every * self._arrays * trained // self._replicas
        return (elements + kept) * self._itemsize
