"""Halo exchange at the start of a fused group, and its adjoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from mpitile.comm.communicator import Channel, Communicator
from mpitile.geometry.box import Box
from mpitile.geometry.transfers import Message, Transfers
from mpitile.kernels import boxes
from mpitile.kernels.tile import Tile


class Exchange:
    """One message per neighbour and direction for all tensors and images of a group.

    Forward copies owned cells into the neighbours' halos. The adjoint sends what
    stands in the halos back, adds it at the owner and clears the halos, so that
    ``<forward x, y> = <x, adjoint y>``. Making one is collective in the team, as
    is each of its calls; all memory and requests are made here.

    Parameters
    ----------
    team : the ranks that share images; peers in `transfers` are its rank numbers.
    transfers : this rank's messages.
    values, deltas : the tiles that hold each tensor, and its gradient, on this rank.
    """

    def __init__(
        self,
        team: Communicator,
        transfers: Transfers,
        values: Mapping[int, Tile],
        deltas: Mapping[int, Tile],
    ) -> None:
        self._values = values
        self._deltas = deltas
        self._outgoing = _buffers(transfers.sends, values)
        self._incoming = _buffers(transfers.receives, values)
        sends = [(message.peer, buffer) for message, buffer in self._outgoing]
        receives = [(message.peer, buffer) for message, buffer in self._incoming]
        self._forward: Channel = team.channel(sends, receives)
        self._backward: Channel = team.channel(receives, sends)

    @property
    def bytes(self) -> int:
        """Bytes of all message buffers."""
        return sum(buffer.nbytes for _, buffer in [*self._outgoing, *self._incoming])

    def close(self) -> None:
        """Free the requests; the exchange is of no use afterwards."""
        self._forward.close()
        self._backward.close()

    def begin_forward(self) -> None:
        """Pack and send owned cells."""
        for tile, box, buffer, offset in _places(self._outgoing, self._values):
            boxes.pack(tile, box, buffer, offset)
        self._forward.begin()

    def end_forward(self) -> None:
        """Receive, and fill the halos."""
        self._forward.end()
        for tile, box, buffer, offset in _places(self._incoming, self._values):
            boxes.unpack(tile, box, buffer, offset)

    def begin_adjoint(self) -> None:
        """Pack and send the halos' partial deltas to their owners, and clear them."""
        for tile, box, buffer, offset in _places(self._incoming, self._deltas):
            boxes.pack(tile, box, buffer, offset)
            boxes.clear(tile, box)
        self._backward.begin()

    def end_adjoint(self) -> None:
        """Receive partial deltas and add them, in the order of peers: the sum is reproducible."""
        self._backward.end()
        for tile, box, buffer, offset in _places(self._outgoing, self._deltas):
            boxes.unpack_add(tile, box, buffer, offset)


def _buffers(
    messages: tuple[Message, ...], values: Mapping[int, Tile]
) -> list[tuple[Message, np.ndarray]]:
    """One flat buffer for each message."""
    buffers = []
    for message in messages:
        first = values[message.pieces[0].tensor].array
        size = len(first) * message.elements(lambda tensor: values[tensor].array.shape[3])
        buffers.append((message, np.empty(size, first.dtype)))
    return buffers


def _places(
    messages: list[tuple[Message, np.ndarray]], tiles: Mapping[int, Tile]
) -> Iterator[tuple[Tile, Box, np.ndarray, int]]:
    """Each piece's tile and box, and its place in the message's buffer."""
    for message, buffer in messages:
        offset = 0
        for piece in message.pieces:
            tile = tiles[piece.tensor]
            yield tile, piece.box, buffer, offset
            offset += tile.array.shape[0] * piece.box.cells * tile.array.shape[3]
