"""Which buffers a pass needs, how large they are, and from when to when."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass

from mpitile.network.kept import kept, reads_input_again, reads_output_again
from mpitile.network.spec import Network
from mpitile.plan.partition import TilePart
from mpitile.plan.pass_order import PassOrder, pass_order
from mpitile.plan.readers import Readers
from mpitile.plan.recomputation import Piece, Stage, stages

VALUE = "value"
DELTA = "delta"

# First and last event of an uninterrupted use, both included.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory for one array of a pass, at one place throughout.

    Attributes
    ----------
    name : `VALUE`, `DELTA`, or what a layer keeps by `mpitile.network.kept`.
    tensor : the number of the tensor that it belongs to.
    size : bytes.
    group : the group whose copy of the tensor it is; None for the tensor itself.
    common : whether the ranks of a device have it in common.
    spans : when it is in use, by the events of `mpitile.plan.pass_order`. Between two spans,
        what it held is lost; it is computed again at the start of the second.
    """

    name: str
    tensor: int
    size: int
    spans: tuple[Span, ...]
    group: int | None = None
    common: bool = False

    @property
    def first(self) -> int:
        """The first event of its use."""
        return self.spans[0][0]

    def used_at(self, event: int) -> bool:
        """Whether it is in use at an event."""
        return any(first <= event <= last for first, last in self.spans)

    @property
    def events(self) -> int:
        """Those of its use as bits, of which buffers that are ever in use together share one."""
        found = 0
        for first, last in self.spans:
            found |= (2 << last) - (1 << first)
        return found


def pass_buffers(
    network: Network,
    part: TilePart,
    images: int,
    itemsize: int,
    training: bool = True,
    input_gradient: bool = False,
    merged: Collection[int] = (),
    recompute: Sequence[bool] = (),
) -> tuple[Buffer, ...]:
    """All buffers of one tile's pass but the image's, which outlives passes.

    Parameters
    ----------
    part : the tile's boxes.
    images : of the pass on this team.
    itemsize : bytes of a number: 4 or 8.
    training : whether a backward pass follows.
    input_gradient : whether the gradient of the image is wanted, too.
    merged : pools whose input is never stored; see `mpitile.network.merging`.
    recompute : a flag for each group, as in the plan.
    """
    groups = [needs.first for needs in part.groups]
    cut = stages(network, groups, recompute, merged)
    entries = pass_entries(network, part, cut, itemsize, training, input_gradient)
    return sized(entries, network, part, images)


def sized(
    entries: Iterable[Buffer], network: Network, part: TilePart, images: int
) -> tuple[Buffer, ...]:
    """The buffers of a tile, whose sizes are those of one entry as `pass_entries` has them."""
    return tuple(
        Buffer(
            entry.name,
            entry.tensor,
            entry.size * images * part.elements(network, entry.tensor, entry.group),
            entry.spans,
            entry.group,
            entry.common,
        )
        for entry in entries
    )


def pass_entries(
    network: Network,
    part: TilePart,
    cut: Sequence[Stage],
    itemsize: int,
    training: bool = True,
    input_gradient: bool = False,
    tensors: Container[int] | None = None,
) -> tuple[Buffer, ...]:
    """What `pass_buffers` returns, with the sizes of one entry: the same on all tiles of a plan.

    Parameters
    ----------
    part : of any tile.
    cut : the stages of the plan.
    tensors : those whose own arrays are wanted; all if left out.
    """
    lives = _Lives(network, part, cut)
    found = []

    def add(name: str, tensor: int, spans: tuple[Span, ...], real: bool = True) -> None:
        found.append(Buffer(name, tensor, itemsize if real else 1, spans))

    if training and input_gradient:
        add(DELTA, 0, (lives.image_delta(),))
    for stage in cut:
        for piece in stage.pieces:
            tensor = piece[-1] + 1
            if tensors is not None and tensor not in tensors:
                continue
            if training:
                add(DELTA, tensor, (lives.delta(piece),))
                add(VALUE, tensor, lives.value(piece, stage))
            else:
                add(VALUE, tensor, (lives.forward_value(piece),))
            spans = lives.kept(piece, stage) if training else (lives.forward(piece),)
            for layer in piece:
                for name, real in kept(network.layers[layer]).items():
                    add(name, layer + 1, spans, real)
    for group, boxes in part.copies.items():
        # What a filter-parallel group reads is whole, and the same on all ranks.
        common = part.groups[group].first + 1 in part.slices
        for tensor in boxes:
            value = lives.copied_value(tensor, group, training)
            found.append(Buffer(VALUE, tensor, itemsize, (value,), group, common))
            if training:
                delta = lives.copied_delta(tensor, group)
                found.append(Buffer(DELTA, tensor, itemsize, (delta,), group))
    return tuple(found)


class _Lives:
    """When the arrays of each piece of work are in use."""

    def __init__(self, network: Network, part: TilePart, cut: Sequence[Stage]) -> None:
        self._layers = network.layers
        self._groups = part.groups
        self._time: PassOrder = pass_order(cut)
        self._readers = Readers(network, part)

    def forward(self, piece: Piece) -> Span:
        event = self._time.forward[piece[0]]
        return event, event

    def forward_value(self, piece: Piece) -> Span:
        """Of a value, until the last layer has read it forward; of the last one, until the loss."""
        first, own = self.forward(piece)
        readers = [self._time.forward[reader] for reader in self._readers.uses(piece[-1] + 1)]
        if piece[-1] + 1 == len(self._layers):
            readers.append(self._time.loss)
        return first, max(readers, default=own)

    def value(self, piece: Piece, stage: Stage) -> tuple[Span, ...]:
        """Of a value in training: in one go, or again for backward after having been dropped."""
        tensor, once = piece[-1] + 1, self.forward_value(piece)
        later = self._later(self._readers.direct[tensor])
        if reads_output_again(self._layers[piece[0]]):
            later.append(self._time.backward[piece[0]])
        if tensor not in stage.dropped:
            if piece in stage.again:
                later.append(self._time.again[piece[0]])
            return ((once[0], max([once[1], *later])),)
        if piece in stage.again:
            start = self._time.again[piece[0]]
            return once, (start, max([start, *later]))
        return (once,)

    def _later(self, readers: Sequence[int]) -> list[int]:
        """When layers read a value behind the loss."""
        later = [self._time.again[reader] for reader in readers if reader in self._time.again]
        for reader in readers:
            if reads_input_again(self._layers[reader]):
                later.append(self._time.backward[reader])
        return later

    def copied_value(self, tensor: int, group: int, training: bool) -> Span:
        """Of a group's copy: from its start to the last layer that reads it."""
        readers = self._readers.copied[tensor, group]
        ends = [self._time.forward[reader] for reader in readers]
        if training:
            ends += self._later(readers)
        return self._time.forward[self._groups[group].first], max(ends)

    def copied_delta(self, tensor: int, group: int) -> Span:
        """Of a copy's gradient: from the last reader to the group's start, where it is sent."""
        start = self._time.backward[self._groups[group].first]
        return self._time.backward[max(self._readers.copied[tensor, group])], start

    def kept(self, piece: Piece, stage: Stage) -> tuple[Span, ...]:
        """Of what a layer keeps for its backward pass."""
        first, last = self.forward(piece)[0], self._time.backward[piece[0]]
        if piece in stage.again:
            return (first, first), (self._time.again[piece[0]], last)
        return ((first, last),)

    def delta(self, piece: Piece) -> Span:
        """Of a gradient: from the last reader, which writes to it first, or the loss."""
        own = self._time.backward[piece[0]]
        if piece[-1] + 1 == len(self._layers):
            return self._time.loss, own
        readers = self._readers.uses(piece[-1] + 1)
        return (self._time.backward[max(readers)] if readers else own), own

    def image_delta(self) -> Span:
        return self._time.backward[max(self._readers.direct[0])], self._time.end
