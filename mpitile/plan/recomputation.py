"""Which values a recomputing group gives up after forward, and what it then computes again.

A group that recomputes is cut into stages. What a stage hands on, to later stages, later
groups or a loss, is kept; what only the stage itself reads is dropped after forward and
computed again just before the stage's backward pass, from the stage's inputs. So no layer is
computed more than twice, no exchange is repeated, and the last stage of the
network, whose backward pass comes at once, drops nothing. (Chen et al., "Training Deep Nets
with Sublinear Memory Cost", arXiv 1604.06174.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpitile.geometry.needs import group_ranges
from mpitile.network.kept import PRODUCT, kept, reads_input_again, reads_output_again
from mpitile.network.merging import pieces
from mpitile.network.spec import Network

# Numbers of the layers that one piece of work computes; the last one's output is stored.
Piece = tuple[int, ...]

# Bytes of a value and of a byte among arrays kept, when stages are weighed against each other.
_REAL, _BYTE = 4, 1


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive pieces whose backward passes follow one another.

    Attributes
    ----------
    pieces : in the order of forward.
    dropped : tensors whose values are given up after forward.
    again : pieces that are computed again just before the stage's backward pass, in the
        order of forward; what they keep is given up too.
    """

    pieces: tuple[Piece, ...]
    dropped: frozenset[int] = frozenset()
    again: tuple[Piece, ...] = ()


def stages(
    network: Network,
    groups: Sequence[int],
    recompute: Sequence[bool] = (),
    merged: Collection[int] = (),
) -> tuple[Stage, ...]:
    """The stages of a whole network, in the order of forward.

    Parameters
    ----------
    groups : the first layer of each fused group.
    recompute : a flag for each group; empty for none.
    merged : pools that are computed together with the convolution before them.
    """
    return Stages(network).of(groups, recompute, merged)


class Stages:
    """The stages of a network under any plan; how a group is cut is found once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._graph = _Graph(network)
        self._known: dict[tuple[Piece, ...], tuple[Stage, ...]] = {}

    def of(
        self, groups: Sequence[int], recompute: Sequence[bool] = (), merged: Collection[int] = ()
    ) -> tuple[Stage, ...]:
        """What `stages` returns."""
        ranges = group_ranges(groups, len(self._network.layers))
        everything = pieces(self._network, merged)
        found: list[Stage] = []
        for (first, stop), flag in zip(ranges, recompute or [False] * len(ranges), strict=True):
            own = tuple(piece for piece in everything if first <= piece[0] < stop)
            found += self._recomputing(own) if flag else (Stage(own),)
        return tuple(found)

    def _recomputing(self, group: tuple[Piece, ...]) -> tuple[Stage, ...]:
        if group not in self._known:
            steady = self._graph.steady(group)
            parts = self._graph.cut(group)
            self._known[group] = tuple(self._graph.stage(part, steady) for part in parts)
        return self._known[group]


class _Graph:
    """Who reads what, and how large it is."""

    def __init__(self, network: Network) -> None:
        self._layers = network.layers
        self._readers: list[list[int]] = [[] for _ in network.shapes]
        for layer in network.layers:
            for tensor in layer.inputs:
                self._readers[tensor].append(layer.index)
        self._cells = [shape.height * shape.width * shape.channels for shape in network.shapes]
        self._sizes: dict[Piece, _Sizes] = {}
        # By the pieces that are cut.
        self._ways: dict[tuple[Piece, ...], list[_Cut]] = {(): [_Cut(0, 0, ())]}

    def stage(self, part: tuple[Piece, ...], steady: Collection[Piece]) -> Stage:
        """What a stage drops, and the least that it has to compute again."""
        stop = part[-1][-1] + 1
        if stop == len(self._layers):
            return Stage(part)
        dropped = {
            piece[-1] + 1 for piece in part if piece in steady and self._last_reader(piece) < stop
        }
        wanted: set[int] = set()
        again = []
        for piece in reversed(part):
            first, last = self._layers[piece[0]], self._layers[piece[-1]]
            if reads_output_again(first):
                wanted.add(last.output)
            if reads_input_again(first):
                wanted.update(first.inputs)
            lost = last.output in dropped and last.output in wanted
            if piece in steady and (lost or PRODUCT in kept(first)):
                again.append(piece)
                wanted.update(first.inputs)
        return Stage(part, frozenset(dropped), tuple(reversed(again)))

    def steady(self, group: tuple[Piece, ...]) -> frozenset[Piece]:
        """The pieces of a group that give the same bits when computed again.

        A tensor that is read in its own group and in a later one may hold halo cells that this
        tile computed, until the later group's exchange puts the owners' in their place:
        the same numbers but for the rounding of kernels whose result depends on the tile.
        Pieces that read or write such a tensor are left out.
        """
        start, stop = group[0][0], group[-1][-1] + 1
        shared = {
            tensor
            for tensor in range(start + 1, stop + 1)
            if any(reader < stop for reader in self._readers[tensor])
            and any(reader >= stop for reader in self._readers[tensor])
        }
        return frozenset(
            piece
            for piece in group
            if piece[-1] + 1 not in shared and not shared.intersection(self._inputs(piece))
        )

    def cut(self, group: tuple[Piece, ...]) -> list[tuple[Piece, ...]]:
        """The cut of a group into stages that needs the least memory in its backward pass.

        While a stage computes backward, there are the outlets of the stages up to it, the
        values inside it, and a few gradients. Dynamic programming over the cuts: of
        two ways to reach one, the better has fewer bytes of outlets, or a lower peak.
        """
        for stop in range(len(group)):
            self._reach(group[: stop + 1])
        ends = min(self._ways[group], key=lambda way: (way.peak, way.outlets, len(way.ends))).ends
        return [group[a:b] for a, b in zip((0, *ends), ends, strict=False)]

    def _reach(self, group: tuple[Piece, ...]) -> None:
        """Find the ways to cut these pieces, where those of all fewer are known."""
        if group in self._ways:
            return
        last = group[-1][-1]
        found: list[list[_Cut]] = []
        inside = most = outlets = 0
        for start in reversed(range(len(group))):
            own = self._sizes_of(group[start])
            inside += own.kept
            # What is read again behind these pieces is an outlet.
            if self._last_reader(group[start]) <= last:
                inside += own.stored
            else:
                outlets += own.stored
            most = max(most, own.gradients)
            found.append([])
            for way in self._ways[group[:start]]:
                every = way.outlets + outlets
                peak = max(way.peak, every + inside + most)
                found[-1].append(_Cut(every, peak, (*way.ends, len(group))))
        self._ways[group] = _undominated(way for ways in reversed(found) for way in ways)

    def _sizes_of(self, piece: Piece) -> _Sizes:
        if piece not in self._sizes:
            stored = _REAL * self._cells[piece[-1] + 1]
            self._sizes[piece] = _Sizes(
                stored,
                sum(
                    (_REAL if real else _BYTE) * self._cells[layer + 1]
                    for layer in piece
                    for real in kept(self._layers[layer]).values()
                ),
                stored + sum(_REAL * self._cells[tensor] for tensor in self._inputs(piece)),
            )
        return self._sizes[piece]

    def _inputs(self, piece: Piece) -> tuple[int, ...]:
        return self._layers[piece[0]].inputs

    def _last_reader(self, piece: Piece) -> int:
        """Of a piece's output; the piece itself where nobody reads it but perhaps a loss."""
        return max(self._readers[piece[-1] + 1], default=piece[-1])


class _Sizes(NamedTuple):
    """Bytes because of a piece: of its output, of what it keeps, of gradients while it computes."""

    stored: int
    kept: int
    gradients: int


class _Cut(NamedTuple):
    """A way to cut the first pieces of a group: bytes of outlets, largest bytes in use, ends."""

    outlets: int
    peak: int
    ends: tuple[int, ...]


def _undominated(ways: Iterable[_Cut]) -> list[_Cut]:
    kept_ways: list[_Cut] = []
    for way in sorted(ways, key=lambda way: (way.outlets, way.peak, len(way.ends))):
        if not kept_ways or way.peak < kept_ways[-1].peak:
            kept_ways.append(way)
    return kept_ways
