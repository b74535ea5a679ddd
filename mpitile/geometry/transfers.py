"""Which boxes travel between which tiles before a group can start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpitile.geometry.box import Box


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of a tensor that travels as part of one message."""

    tensor: int
    box: Box


@dataclass(frozen=True, slots=True)
class Message:
    """All that travels between this tile and a peer, in the order of packing."""

    peer: int
    pieces: tuple[Piece, ...]

    def elements(self, channels: Callable[[int], int]) -> int:
        """How many numbers travel for one image; `channels` tells those of a tensor."""
        return sum(piece.box.cells * channels(piece.tensor) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Transfers:
    """One tile's messages of one exchange, at most one per peer and direction.

    Forward, owned cells are sent and halo cells received; the adjoint sends the
    received boxes back and adds them to the sent ones.
    """

    sends: tuple[Message, ...]
    receives: tuple[Message, ...]


def transfers(
    tile: int,
    tiles: int,
    tensors: Sequence[int],
    owned: Callable[[int, int], Box],
    needed: Callable[[int, int], Box],
) -> Transfers:
    """The messages of `tile`: ``owned by one and needed by the other``, for every pair.

    Parameters
    ----------
    tile, tiles : this tile's number and how many there are.
    tensors : the tensors that the exchange carries.
    owned, needed : boxes by tensor and tile.
    """

    def messages(box: Callable[[int, int], Box]) -> tuple[Message, ...]:
        found = []
        for peer in range(tiles):
            pieces = tuple(
                Piece(tensor, cells)
                for tensor in tensors
                if peer != tile and not (cells := box(tensor, peer)).empty
            )
            if pieces:
                found.append(Message(peer, pieces))
        return tuple(found)

    return Transfers(
        sends=messages(lambda t, peer: owned(t, tile).intersect(needed(t, peer))),
        receives=messages(lambda t, peer: owned(t, peer).intersect(needed(t, tile))),
    )
