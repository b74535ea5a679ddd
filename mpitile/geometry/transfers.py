"""Which boxes travel between which tiles before a group can start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mpitile.geometry.box import Box

# From where up to where, in channels of a whole tensor.
Channels = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor that travels as part of one message: these channels, or all (None)."""

    tensor: int
    box: Box
    channels: Channels | None = None

    def elements(self, channels: int) -> int:
        """How many numbers of one image; `channels` are those of the tensor."""
        if self.channels is not None:
            channels = self.channels[1] - self.channels[0]
        return self.box.cells * channels


@dataclass(frozen=True, slots=True)
class Message:
    """All that travels between this tile and a peer, in the order of packing."""

    peer: int
    pieces: tuple[Piece, ...]

    def elements(self, channels: Callable[[int], int]) -> int:
        """How many numbers travel for one image; `channels` tells those of a tensor."""
        return sum(piece.elements(channels(piece.tensor)) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Transfers:
    """One tile's messages of one exchange, at most one per peer and direction.

    Forward, owned cells are sent and halo cells received; the adjoint sends the
    received boxes back and adds them to the sent ones. `local` are owned cells that the tile
    itself reads from a copy.
    """

    sends: tuple[Message, ...]
    receives: tuple[Message, ...]
    local: tuple[Piece, ...] = ()


def _all_channels(tensor: int, tile: int) -> Channels | None:
    return None


def transfers(
    tile: int,
    tiles: int,
    tensors: Sequence[int],
    owned: Callable[[int, int], Box],
    needed: Callable[[int, int], Box],
    channels: Callable[[int, int], Channels | None] = _all_channels,
    copied: Collection[int] = (),
) -> Transfers:
    """The messages of `tile`: ``owned by one and needed by the other``, for every pair.

    Parameters
    ----------
    tile, tiles : this tile's number and how many there are.
    tensors : the tensors that the exchange carries.
    owned, needed : boxes by tensor and tile.
    channels : by tensor and tile, those that the tile owns; all where it is None.
    copied : tensors whose needed cells, the tile's own among them, go to a copy.
    """

    def pieces(source: int, target: int, some: Sequence[int]) -> tuple[Piece, ...]:
        return tuple(
            Piece(tensor, cells, channels(tensor, source))
            for tensor in some
            if not (cells := owned(tensor, source).intersect(needed(tensor, target))).empty
        )

    def messages(of: Callable[[int], tuple[Piece, ...]]) -> tuple[Message, ...]:
        found = ((peer, of(peer)) for peer in range(tiles) if peer != tile)
        return tuple(Message(peer, some) for peer, some in found if some)

    return Transfers(
        sends=messages(lambda peer: pieces(tile, peer, tensors)),
        receives=messages(lambda peer: pieces(peer, tile, tensors)),
        local=pieces(tile, tile, [tensor for tensor in tensors if tensor in copied]),
    )
