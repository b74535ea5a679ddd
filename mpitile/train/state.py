"""What is trained: weights once per device, their gradients, and an optimiser in slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from mpitile.checkpoint.pieces import Field
from mpitile.checkpoint.shards import Part, Sliced, replicated
from mpitile.comm.devices import DeviceGroup, make_devices, peer_group
from mpitile.comm.flow import SumFlow, ValueFlow
from mpitile.comm.progress import Beside
from mpitile.comm.recorder import Among
from mpitile.comm.topology import Topology
from mpitile.network.parameters import ParameterSpec, divided_specs, parameter_specs
from mpitile.network.spec import Network
from mpitile.plan.filters import tile_spans
from mpitile.plan.memory.bytes import NOTHING_SHARED, Shared
from mpitile.plan.memory.state_bytes import parameter_elements, tile_elements
from mpitile.plan.plan import Plan
from mpitile.plan.recording import EVERYONE, BeginBucket, Members
from mpitile.plan.sums.buckets import layer_buckets
from mpitile.plan.sums.completion import goes_beside
from mpitile.runtime.parameters import Parameters, trained_elements
from mpitile.train.divided import DividedState


class TrainState:
    """Parameters and their optimiser on one rank. Making one and all its calls are collective.

    What all ranks have alike they train together; a slice of filter-parallel layers is trained
    by the ranks of its tile in all replicas.

    Parameters
    ----------
    plan : says which layers are filter-parallel.
    optimizer : "sgd" or "adam".
    topology : this rank's place.
    ranks_per_device : see `mpitile.comm.devices.make_devices`.
    shared : what programs will share beside the state, the same on all ranks.
    overlap : whether gradients are to be summed while others are still being computed, where
        something travels.
    anywhere : so inside one device, too.

    Attributes
    ----------
    overlap : whether they are.
    parameters : with the device's values and this rank's own gradients.
    group : this rank's place among devices.
    total : the sums of all ranks' gradients, in this rank's spans; see `gather_gradients`.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        dtype: np.dtype | type,
        optimizer: str,
        topology: Topology,
        ranks_per_device: int | str = "auto",
        shared: Shared = NOTHING_SHARED,
        overlap: bool = False,
        anywhere: bool = False,
    ) -> None:
        self._network, self._topology = network, topology
        each, once = _shared_bytes(network, plan, np.dtype(dtype))
        self.group = make_devices(
            topology.world, ranks_per_device, each + shared.each, once + shared.once
        )
        parts = topology.world.size if anywhere else len(self.group.devices)
        self.overlap = overlap and goes_beside(parts)
        spans = tile_spans(network, plan, topology.tile)
        shared, slices = divided_specs(network, spans)

        def divided(group: DeviceGroup, specs: Sequence[ParameterSpec]) -> DividedState:
            size, decaying = trained_elements(specs)
            buckets = layer_buckets(specs, np.dtype(dtype).itemsize)
            return DividedState(
                group, size, decaying, dtype, optimizer, network.options, buckets, self.overlap
            )

        whole = divided(self.group, shared)
        self._divided = [whole]
        flat = [whole.values, whole.gradients]
        self._members = [EVERYONE]
        if spans:
            peers = peer_group(self.group, topology.peers, plan.grid.tiles, topology.tile)
            own = divided(peers, slices)
            self._divided.append(own)
            flat += [spans, own.values, own.gradients]
            self._members.append(_peers(topology))
        # Whether there are new values that have not begun to be handed out.
        self._kept_back = False
        self._beside: Beside | None = None
        if self.overlap and topology.world.threaded:
            self._beside = Beside(self._advance, self._done)
        self.total = whole.total
        self.parameters = Parameters(network, dtype, *flat)

    def draw(self, seed: int) -> None:
        """Initial values from the seed."""
        # Every rank writes the same numbers; the fence is for what is written next.
        self.parameters.draw(seed)
        for divided in self._divided:
            divided.fence()

    def begin_sum(self) -> None:
        """Begin to add up the gradients; none may be written before the next `end_share`."""
        for divided in self._divided:
            divided.begin_sum()

    def end_sum(self) -> None:
        """Return when this rank's spans of `total`, and of its slices' sums, are complete."""
        for divided in self._divided:
            divided.end_sum()

    def gather_gradients(self) -> None:
        """Make `total` whole on every device, and so the sums of this rank's slices."""
        for divided in self._divided:
            divided.gather_gradients()

    def update(self, rate: float, images: int, step: int) -> None:
        """Change this rank's spans of the values, with gradients summed over `images`."""
        for divided in self._divided:
            divided.update(rate, images, step)

    def begin_overlap(self, rate: float, images: int, step: int) -> None:
        """Begin to add up and update what `complete` says is complete.

        With `end_overlap` and `wait_values` in place of `begin_sum` to `end_share`, and before
        the backward pass; the result is the same.
        """
        for divided in self._divided:
            divided.begin_sum_flow(rate, images, step)
        if self._beside:
            self._beside.start()

    def complete(self, layers: Sequence[int]) -> Sequence[BeginBucket]:
        """This rank's gradients of these layers are complete, and their values done with.

        Layers come in descending order. Where no thread does it, this is when sums advance,
        too.

        Returns
        -------
        The buckets that became complete.
        """
        found = [divided.complete(layers) for divided in self._divided]
        if not self._beside:
            self._advance()
        return [
            BeginBucket(size, members, early)
            for own, members in zip(found, self._members, strict=True)
            for size, early in own
            if len(members) != 1
        ]

    @property
    def sums(self) -> Sequence[Among]:
        """The bytes of all gradients that this rank adds up with others, and who these are."""
        sizes = [divided.gradients.nbytes for divided in self._divided]
        return self._among([[size] if size else [] for size in sizes])

    def end_overlap(self) -> tuple[Sequence[SumFlow], Sequence[ValueFlow]]:
        """Return when this rank's spans have their new values, for `hand_out`.

        Nobody may read values before `wait_values`, nor write gradients before `settle`.

        Returns
        -------
        What the ways of buckets and of early values were like.
        """
        if self._beside:
            self._beside.stop()
        self._topology.world.wait_until(self._finished)
        early = [divided.early_flow for divided in self._divided]
        for flow in early:
            flow.wait_all()
        self._kept_back = True
        return [divided.sum_flow for divided in self._divided], early

    def hand_out(self) -> None:
        """Begin to hand out new values, where there are any."""
        if not self._kept_back:
            return
        self._kept_back = False
        for divided in self._divided:
            divided.value_flow.begin()
        if self._beside:
            self._beside.start()
        self._advance()

    @property
    def buckets(self) -> Sequence[Among]:
        """The bytes of each bucket in the order in which forward reads them, and whose it is."""
        return self._among([divided.bucket_bytes for divided in self._divided])

    def wait_values(self, layer: int) -> Sequence[Among]:
        """Return when the device has all new values of the layers up to this one.

        Returns
        -------
        How many of the buckets of which ranks these are.
        """
        if not self._beside:
            self._advance()
        counts = [divided.wait_values(layer) for divided in self._divided]
        return self._among([[count] for count in counts])

    def settle(self) -> Sequence[ValueFlow]:
        """Return when the device's values are whole, with what the buckets' ways were like."""
        self.hand_out()
        flows = [each.value_flow for each in self._divided if each.value_flow]
        for flow in flows:
            flow.wait_all()
        if self._beside:
            self._beside.stop()
        return flows

    def _among(self, sizes: Sequence[Sequence[int]]) -> Sequence[Among]:
        """Those of each array with its ranks, but for an array that this rank has alone."""
        return [
            (size, members)
            for own, members in zip(sizes, self._members, strict=True)
            for size in own
            if len(members) != 1
        ]

    def _advance(self) -> bool:
        """Do what can be done at once for buckets under way; whether that was anything."""
        return any([flow.advance() for divided in self._divided for flow in divided.flows])

    def _finished(self) -> bool:
        """Do it, and tell whether nothing is left."""
        self._advance()
        return self._done()

    def _done(self) -> bool:
        """Whether nothing is left of them."""
        return all(flow.done for divided in self._divided for flow in divided.flows)

    def begin_share(self) -> None:
        """Begin to hand out the changed values."""
        for divided in self._divided:
            divided.begin_share()

    def end_share(self) -> None:
        """Return when the device's values are whole."""
        for divided in self._divided:
            divided.end_share()

    @property
    def arrays(self) -> Mapping[str, Sliced]:
        """What a checkpoint has to keep; each rank keeps the spans that it updates."""
        trained, running = parameter_elements(self._network)
        groups = (self._topology.world, self._topology.peers)
        parameters = (self.parameters.shared, self.parameters.slices)
        found: dict[str, list[Part]] = {"running": []}
        for divided, flat, group in zip(self._divided, parameters, groups, strict=False):
            found["running"].append(replicated(group, flat.running, self._fields(flat.untrained)))
            for name, part in divided.arrays(self._fields(flat.trained)).items():
                found.setdefault(name, []).append(part)
        sizes = {"running": running}
        return {name: Sliced(sizes.get(name, trained), parts) for name, parts in found.items()}

    def _fields(self, specs: Sequence[ParameterSpec]) -> list[Field]:
        """What stands in a flat array of some parameters."""
        numbers = {
            (spec.layer, spec.name): number
            for number, spec in enumerate(parameter_specs(self._network))
        }
        spans = self.parameters.spans
        return [
            Field(
                numbers[spec.layer, spec.name],
                prod(spec.shape[:-1]),
                spans.get(spec.layer, (0, spec.shape[-1])),
            )
            for spec in specs
        ]

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by kind, as `mpitile.plan.memory.bytes` predicts them."""
        found = {"weights": self.parameters.shared.running.nbytes}
        found["weights"] += self.parameters.slices.running.nbytes
        for divided in self._divided:
            for kind, size in divided.bytes.items():
                found[kind] = found.get(kind, 0) + size
        return found

    @property
    def scratch_bytes(self) -> int:
        """Of what the optimisers work in."""
        return sum(divided.scratch_bytes for divided in self._divided)

    def close(self) -> None:
        """Give back memory and requests; the parameters must not be touched afterwards."""
        if self._beside:
            self._beside.close()
        for divided in self._divided:
            divided.close()


def _peers(topology: Topology) -> Members:
    """The ranks of this tile in all replicas, in numbers of the world."""
    world, count = topology.world.size, topology.peers.size
    if count == world > 1:
        return EVERYONE
    return tuple(range(topology.tile, world, world // count))


def _shared_bytes(network: Network, plan: Plan, dtype: np.dtype) -> tuple[int, int]:
    """What each rank, and each device once, wants to share; the same on all ranks.

    The largest slice counts for every rank, its values too: tiles may be of unlike sizes.
    """
    elements = tile_elements(network, plan)
    (trained, _), _ = elements[0]
    largest = max(sliced for _, (sliced, _) in elements)
    slices = 2 * largest if plan.replicas > 1 else 0
    return (trained + slices) * dtype.itemsize, trained * dtype.itemsize
