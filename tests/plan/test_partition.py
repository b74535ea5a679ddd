"""Parts of all tiles fit together: every cell has an owner, every need a message."""

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import cases

from mpitile.errors import InputError
from mpitile.geometry.box import whole
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan

CFG = """
[net]
height={size}
width={size}
[convolutional]
filters=2
size=3
pad=1
[maxpool]
size=2
stride=2
[convolutional]
filters=2
size=3
pad=1
"""


def network(size=16):
    return parse_network(CFG.format(size=size), "small.cfg")


def marks(shape, boxes):
    """How many of the boxes hold each cell."""
    count = np.zeros((shape.height, shape.width), int)
    for box in boxes:
        count[box.slices()] += not box.empty
    return count


@settings(max_examples=40)
@given(cases())
def test_every_cell_has_one_owner_that_holds_and_computes_it(case):
    partition = Partition(case.network, case.plan)
    parts = [partition.part(tile) for tile in range(case.plan.grid.tiles)]
    for tensor, shape in enumerate(case.network.shapes):
        assert (marks(shape, [part.owned[tensor] for part in parts]) == 1).all()
        for part in parts:
            owned, stored = part.owned[tensor], part.stored[tensor]
            assert stored.hull(owned) == stored
            assert whole(shape.height, shape.width).hull(stored) == whole(shape.height, shape.width)
    for part in parts:
        for needs in part.groups:
            for layer, computed in enumerate(needs.computed, needs.first):
                owned = part.owned[layer + 1]
                assert computed.hull(owned) == computed
                assert part.stored[layer + 1].hull(computed) == part.stored[layer + 1]


@settings(max_examples=40)
@given(cases())
def test_messages_bring_what_is_needed_and_not_owned_once(case):
    partition = Partition(case.network, case.plan)
    parts = [partition.part(tile) for tile in range(case.plan.grid.tiles)]
    for number in range(len(partition.ranges)):
        sent = {
            (part.tile, message.peer, piece.tensor, piece.box)
            for part in parts
            for message in part.transfers[number].sends
            for piece in message.pieces
        }
        received = {
            (message.peer, part.tile, piece.tensor, piece.box)
            for part in parts
            for message in part.transfers[number].receives
            for piece in message.pieces
        }
        assert sent == received
        assert all(source != target and tensor for source, target, tensor, _ in sent)
        for part in parts:
            for tensor, needed in part.groups[number].fetched.items():
                shape = case.network.shape(tensor)
                pieces = [
                    box for _, target, t, box in received if (target, t) == (part.tile, tensor)
                ]
                if tensor == 0:
                    assert not pieces
                    continue
                owned = part.owned[tensor]
                count = marks(shape, pieces)
                wanted = marks(shape, [needed]) > 0
                inside = marks(shape, [owned]) > 0
                np.testing.assert_array_equal(count, wanted & ~inside)


def test_halos_by_hand():
    partition = Partition(network(), Plan(Grid(2, 1), (0, 2)))
    upper, lower = partition.part(0), partition.part(1)
    # Tensors: image 16, convolution 16, pool 8, convolution 8 cells.
    assert [box.slices()[0] for box in upper.owned] == [
        slice(0, 8),
        slice(0, 8),
        slice(0, 4),
        slice(0, 4),
    ]
    assert [box.y0 for box in lower.stored] == [7, 8, 3, 4]
    assert [box.y1 for box in upper.stored] == [9, 8, 5, 4]
    (message,) = upper.transfers[1].receives
    assert message.peer == 1 and [piece.box.slices()[0] for piece in message.pieces] == [
        slice(4, 5)
    ]
    assert not upper.transfers[0].receives and not upper.transfers[0].sends


def test_fused_groups_compute_halos_instead():
    part = Partition(network(), Plan(Grid(2, 1), (0,))).part(0)
    assert [box.y1 for box in part.groups[0].computed] == [10, 5, 4]
    assert part.groups[0].fetched[0].y1 == 11
    assert not part.transfers[0].receives


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(Grid(17, 1), (0,)), "grid 17x1 is larger than the image of 16x16"),
        (Plan(Grid(2, 2), (0, 3)), "do not cover"),
        (Plan(Grid(2, 2), ()), "do not cover"),
        (Plan(Grid(2, 2), (0,), row_weights=(1.0,)), "1 tile weights for grid 2x2"),
        (Plan(Grid(2, 2), (0,), column_weights=(1.0, 0.0)), "positive"),
    ],
)
def test_plans_that_do_not_fit_are_named(plan, message):
    with pytest.raises(InputError, match=message):
        Partition(network(), plan)
