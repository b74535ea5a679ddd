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
from mpitile.plan.traffic import group_traffic, whole_parts

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
@given(cases(filters=True))
def test_every_cell_has_one_owner_that_holds_and_computes_it(case):
    partition = Partition(case.network, case.plan)
    parts = [partition.part(tile) for tile in range(case.plan.grid.tiles)]
    for tensor, shape in enumerate(case.network.shapes):
        count = np.zeros((shape.height, shape.width, shape.channels), int)
        for part in parts:
            channels = slice(*part.slices.get(tensor, (0, shape.channels)))
            count[(*part.owned[tensor].slices(), channels)] += 1
        assert (count == 1).all()
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


@settings(max_examples=40)
@given(cases(filters=True))
def test_copies_are_of_what_lies_in_another_form_and_brought_once(case):
    network, filters = case.network, case.plan.filters
    partition = Partition(network, case.plan)
    for tile in range(case.plan.grid.tiles):
        part = partition.part(tile)
        for number, needs in enumerate(part.groups):
            divided = needs.first in filters
            for layer in range(needs.first, needs.stop):
                assert (layer in filters) == divided
                for tensor in network.layers[layer].inputs:
                    inside = tensor > needs.first or tensor == 0
                    other = divided or tensor - 1 in filters
                    copied = part.copied_for(tensor, layer)
                    assert copied == (number if other and not inside else None)
            assert part.copies.get(number, {}).keys() == partition.copied[number]
            if partition.gathers(number):
                assert not part.transfers[number].receives and not part.transfers[number].sends
                continue
            own, receives = part.transfers[number].local, part.transfers[number].receives
            for tensor, box in part.copies.get(number, {}).items():
                pieces = [*own, *(piece for message in receives for piece in message.pieces)]
                shape = network.shape(tensor)
                count = np.zeros((shape.height, shape.width, shape.channels), int)
                for piece in pieces:
                    if piece.tensor == tensor:
                        count[(*piece.box.slices(), slice(*piece.channels))] += 1
                wanted = np.zeros_like(count)
                wanted[box.slices()] = 1
                np.testing.assert_array_equal(count, wanted)


@settings(max_examples=40)
@given(cases(filters=True))
def test_traffic_is_what_messages_bring(case):
    partition = Partition(case.network, case.plan)
    for number in range(len(partition.ranges)):
        expected = {}
        for tile in range(case.plan.grid.tiles):
            for message in partition.part(tile).transfers[number].receives:
                elements = message.elements(lambda t: case.network.shape(t).channels)
                expected[message.peer, tile] = elements
        assert group_traffic(partition, number) == expected


def test_gathers_cover_the_tensor():
    plan = Plan(Grid(1, 3), (0, 2), filters=(2,))
    partition = Partition(network(), plan)
    assert partition.gathers(1) and not partition.gathers(0)
    (parts,) = whole_parts(partition, 1).values()
    assert [part.channels for part in parts] == [(0, 2)] * 3
    assert sum(part.box.cells for part in parts) == 64
    # Two filters for three ranks.
    assert [partition.channels(3, tile) for tile in range(3)] == [(0, 0), (0, 1), (1, 2)]
    assert partition.boxes(0).owned[3].empty and partition.boxes(0).stored[3].empty
    assert partition.boxes(0).copies == {1: {2: whole(8, 8)}}


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
        (Plan(Grid(2, 2), (0,), filters=(1,)), "layer 1 .maxpool. cannot be divided"),
        (Plan(Grid(2, 2), (0,), filters=(2,)), r"groups \[0\] do not fit filters \[2\].*\[0, 2\]"),
        (
            Plan(Grid(2, 2), (0, 1), filters=(0, 1)),
            r"do not fit filters .* expected first .*\[0, 2\]",
        ),
    ],
)
def test_plans_that_do_not_fit_are_named(plan, message):
    with pytest.raises(InputError, match=message):
        Partition(network(), plan)
