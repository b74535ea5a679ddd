import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.tiling import Grid, tile_tensors
from mpitile.geometry.transfers import Message, Piece, transfers

SIDE = 12
edges = st.integers(0, SIDE)
any_boxes = st.builds(Box, edges, edges, edges, edges)


@st.composite
def exchanges(draw):
    """Ownership of two tensors by a grid, and what each tile needs of them: any boxes."""
    grid = Grid(draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    tilings = [
        tile_tensors(
            [(SIDE, SIDE)],
            [],
            grid,
            draw(st.lists(st.integers(1, 9), min_size=grid.rows, max_size=grid.rows)),
        )
        for _ in range(2)
    ]
    needed = [[draw(any_boxes) for _ in range(grid.tiles)] for _ in range(2)]
    return (
        grid.tiles,
        lambda tensor, tile: tilings[tensor].owned(0, tile),
        lambda tensor, tile: needed[tensor][tile],
    )


@given(exchanges())
def test_what_one_sends_the_other_expects(exchange):
    tiles, owned, needed = exchange
    all_transfers = [transfers(tile, tiles, [0, 1], owned, needed) for tile in range(tiles)]
    for tile, own in enumerate(all_transfers):
        for messages in (own.sends, own.receives):
            peers = [message.peer for message in messages]
            assert peers == sorted(set(peers)) and tile not in peers
        for message in own.sends:
            expected = [m.pieces for m in all_transfers[message.peer].receives if m.peer == tile]
            assert expected == [message.pieces]
        for message in own.receives:
            sent = [m.pieces for m in all_transfers[message.peer].sends if m.peer == tile]
            assert sent == [message.pieces]


@given(exchanges())
def test_a_tile_receives_every_cell_that_it_needs_and_does_not_own_once(exchange):
    tiles, owned, needed = exchange
    for tile in range(tiles):
        own = transfers(tile, tiles, [0, 1], owned, needed)
        for tensor in (0, 1):
            count = np.zeros((SIDE, SIDE), int)
            for message in own.receives:
                for piece in message.pieces:
                    assert not piece.box.empty
                    if piece.tensor == tensor:
                        count[piece.box.slices()] += 1
            wanted = np.zeros((SIDE, SIDE), int)
            wanted[needed(tensor, tile).slices()] = 1
            wanted[owned(tensor, tile).slices()] = 0
            np.testing.assert_array_equal(count, wanted)


@given(exchanges(), st.integers(0, 7))
def test_owners_of_channels_send_these_and_keep_their_own_for_a_copy(exchange, count):
    """Tensor 1 is sliced: all own all cells of it, some channels each, perhaps none."""
    tiles, owned, needed = exchange
    lines = [count * tile // tiles for tile in range(tiles + 1)]

    def cells(tensor, tile):
        if tensor == 0:
            return owned(tensor, tile)
        return Box(0, SIDE, 0, SIDE) if lines[tile] < lines[tile + 1] else EMPTY

    def channels(tensor, tile):
        return None if tensor == 0 else (lines[tile], lines[tile + 1])

    every = [
        transfers(tile, tiles, [0, 1], cells, needed, channels, copied=[1]) for tile in range(tiles)
    ]
    for tile, own in enumerate(every):
        for message in own.receives:
            sent = [m.pieces for m in every[message.peer].sends if m.peer == tile]
            assert sent == [message.pieces]
        assert all(piece.tensor == 1 for piece in own.local)
        found = np.zeros((SIDE, SIDE, count), int)
        received = [piece for message in own.receives for piece in message.pieces]
        for piece in [*received, *own.local]:
            if piece.tensor == 1:
                found[(*piece.box.slices(), slice(*piece.channels))] += 1
        wanted = np.zeros((SIDE, SIDE, count), int)
        wanted[needed(1, tile).slices()] = 1
        np.testing.assert_array_equal(found, wanted)


def test_corners_and_pieces_of_several_tensors_share_a_message():
    tiling = tile_tensors([(4, 4)], [], Grid(2, 2))
    halo = [Box(0, 3, 0, 3), Box(0, 3, 1, 4), Box(1, 4, 0, 3), Box(1, 4, 1, 4)]
    own = transfers(
        0,
        4,
        [3, 5],
        lambda tensor, tile: tiling.owned(0, tile),
        lambda tensor, tile: halo[tile] if tensor == 5 or tile == 0 else EMPTY,
    )
    assert own.receives == (
        Message(1, (Piece(3, Box(0, 2, 2, 3)), Piece(5, Box(0, 2, 2, 3)))),
        Message(2, (Piece(3, Box(2, 3, 0, 2)), Piece(5, Box(2, 3, 0, 2)))),
        Message(3, (Piece(3, Box(2, 3, 2, 3)), Piece(5, Box(2, 3, 2, 3)))),
    )
    assert own.sends == (
        Message(1, (Piece(5, Box(0, 2, 1, 2)),)),
        Message(2, (Piece(5, Box(1, 2, 0, 2)),)),
        Message(3, (Piece(5, Box(1, 2, 1, 2)),)),
    )


def test_a_halo_may_be_wider_than_the_neighbour():
    tiling = tile_tensors([(4, 1)], [], Grid(4, 1))
    own = transfers(
        0, 4, [0], lambda tensor, tile: tiling.owned(0, tile), lambda tensor, tile: Box(0, 3, 0, 1)
    )
    assert [message.peer for message in own.receives] == [1, 2]
    assert [message.peer for message in own.sends] == [1, 2, 3]
