"""The exchange at the start of a fused group, and its adjoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mpitile.comm.communicator import Channel, Communicator
from mpitile.geometry.transfers import Message, Piece, Transfers
from mpitile.kernels import boxes
from mpitile.kernels.tile import Tile

# A message and the memory that it is packed in.
_Packed = tuple[Message, np.ndarray]
# A piece, its message's memory, and its place there.
_Place = tuple[Piece, np.ndarray, int]


class Exchange:
    """One message per neighbour and direction for all tensors and images of a group.

    Forward copies owned cells into the neighbours' halos, or into their copies of a tensor.
    The adjoint sends what stands there back, adds it at the owner and clears the halos, so that
    ``<forward x, y> = <x, adjoint y>``. Making one is collective in the team, as
    is each of its calls; all memory and requests are made here.

    Parameters
    ----------
    team : the ranks that share images; peers in `transfers` are its rank numbers.
    transfers : this rank's messages.
    values, deltas : the tiles that hold each tensor, and its gradient, on this rank.
    copies, copy_deltas : of tensors that are received into an array of their own, the tiles
        that hold this copy and its gradient.
    """

    def __init__(
        self,
        team: Communicator,
        transfers: Transfers,
        values: Mapping[int, Tile],
        deltas: Mapping[int, Tile],
        copies: Mapping[int, Tile] | None = None,
        copy_deltas: Mapping[int, Tile] | None = None,
    ) -> None:
        self._values, self._deltas = values, deltas
        self._copies, self._copy_deltas = copies or {}, copy_deltas or {}
        self._local = transfers.local
        targets = {**values, **self._copies}
        outgoing = _buffers(transfers.sends, values)
        incoming = _buffers(transfers.receives, targets)
        self._sent, self._received = _places(outgoing, values), _places(incoming, targets)
        self._before = sum(len(m.pieces) for m in transfers.sends if m.peer < team.rank)
        sends = [(message.peer, buffer) for message, buffer in outgoing]
        receives = [(message.peer, buffer) for message, buffer in incoming]
        self._bytes = sum(buffer.nbytes for _, buffer in [*sends, *receives])
        self._forward: Channel = team.channel(sends, receives)
        self._backward: Channel = team.channel(receives, sends)

    @property
    def bytes(self) -> int:
        """Bytes of all message buffers."""
        return self._bytes

    def close(self) -> None:
        """Free the requests; the exchange is of no use afterwards."""
        self._forward.close()
        self._backward.close()

    def begin_forward(self) -> None:
        """Pack and send owned cells."""
        for piece, buffer, offset in self._sent:
            boxes.pack(self._values[piece.tensor], piece.box, buffer, offset, piece.channels)
        self._forward.begin()
        for piece in self._local:
            copy, home = self._copies[piece.tensor], self._values[piece.tensor]
            copy.view(piece.box, piece.channels)[...] = home.view(piece.box, piece.channels)

    def end_forward(self) -> None:
        """Receive, and fill the halos and copies."""
        self._forward.end()
        targets = {**self._values, **self._copies}
        for piece, buffer, offset in self._received:
            boxes.unpack(targets[piece.tensor], piece.box, buffer, offset, piece.channels)

    def begin_adjoint(self) -> None:
        """Pack and send partial deltas of halos and copies to their owners; clear the halos."""
        sources = {**self._deltas, **self._copy_deltas}
        for piece, buffer, offset in self._received:
            boxes.pack(sources[piece.tensor], piece.box, buffer, offset, piece.channels)
            if piece.tensor not in self._copy_deltas:
                boxes.clear(sources[piece.tensor], piece.box)
        self._backward.begin()

    def end_adjoint(self) -> None:
        """Receive partial deltas and add them, in the order of ranks: the sum is reproducible."""
        self._backward.end()
        self._add(self._sent[: self._before])
        for piece in self._local:
            home, copy = self._deltas[piece.tensor], self._copy_deltas[piece.tensor]
            home.view(piece.box, piece.channels)[...] += copy.view(piece.box, piece.channels)
        self._add(self._sent[self._before :])

    def _add(self, places: Sequence[_Place]) -> None:
        for piece, buffer, offset in places:
            boxes.unpack_add(self._deltas[piece.tensor], piece.box, buffer, offset, piece.channels)


def _buffers(messages: tuple[Message, ...], values: Mapping[int, Tile]) -> list[_Packed]:
    """One flat buffer for each message."""
    buffers = []
    for message in messages:
        first = values[message.pieces[0].tensor].array
        size = len(first) * message.elements(lambda tensor: values[tensor].array.shape[3])
        buffers.append((message, np.empty(size, first.dtype)))
    return buffers


def _places(messages: Sequence[_Packed], tiles: Mapping[int, Tile]) -> list[_Place]:
    """All messages' pieces in order."""
    places = []
    for message, buffer in messages:
        offset = 0
        for piece in message.pieces:
            array = tiles[piece.tensor].array
            places.append((piece, buffer, offset))
            offset += len(array) * piece.elements(array.shape[3])
    return places
