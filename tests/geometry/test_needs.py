"""What a group computes and fetches, against cells followed one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import cases

from mpitile.errors import InputError
from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.needs import group_needs, group_ranges
from mpitile.geometry.receptive import LayerGeometry, Whole, Window
from mpitile.geometry.tiling import tile_tensors
from mpitile.network import receptive, spec


def window(layer, number):
    """Size, stride and padding in front of the cells that one output cell reads."""
    operation, shape = layer.operation, layer.input_shapes[number]
    match operation:
        case spec.Convolutional(size=size, stride=stride, padding=padding):
            return (size, size), stride, padding
        case spec.MaxPool(size=size, stride=stride, padding=padding):
            return (size, size), stride, padding // 2
        case spec.AvgPool() | spec.Connected() | spec.Reorg():
            return (shape.height, shape.width), 0, 0
        case spec.Shortcut() if number == 1:
            return (1, 1), shape.width // layer.input_shapes[0].width, 0
    return (1, 1), 1, 0


def reads(layer, number, wanted):
    """Mask of the cells of an input that the cells of the mask `wanted` read."""
    if isinstance(layer.operation, spec.Upsample):
        stride = layer.operation.stride
        places = np.ndindex(stride, stride)
        return np.logical_or.reduce([wanted[i::stride, j::stride] for i, j in places])
    (height, width), stride, before = window(layer, number)
    shape = layer.input_shapes[number]
    result = np.zeros((shape.height, shape.width), bool)
    rows, columns = np.nonzero(wanted)
    for dy, dx in np.ndindex(height, width):
        y, x = rows * stride - before + dy, columns * stride - before + dx
        inside = (y >= 0) & (y < shape.height) & (x >= 0) & (x < shape.width)
        result[y[inside], x[inside]] = True
    return result


def cell_by_cell(network, owned, first, stop):
    """For each tensor that a group touches, the mask of cells that a tile needs of it."""
    masks = {}
    for tensor, shape in enumerate(network.shapes):
        masks[tensor] = np.zeros((shape.height, shape.width), bool)
        if first < tensor <= stop:
            masks[tensor][owned(tensor).slices()] = True
    for layer in reversed(network.layers[first:stop]):
        for number, tensor in enumerate(layer.inputs):
            masks[tensor] |= reads(layer, number, masks[layer.output])
    return masks


def hull(mask):
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return EMPTY
    return Box(*(int(n) for n in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)))


@settings(max_examples=60)
@given(cases())
def test_needs_are_the_hulls_of_the_cells_that_are_read(case):
    network = case.network
    layers, sizes = receptive.geometry(network), receptive.sizes(network)
    tiling = tile_tensors(
        sizes, layers, case.plan.grid, case.plan.row_weights, case.plan.column_weights
    )
    for tile in range(case.plan.grid.tiles):

        def owned(tensor, tile=tile):
            return tiling.owned(tensor, tile)

        for first, stop in group_ranges(case.plan.groups, len(layers)):
            needs = group_needs(layers, sizes, owned, first, stop)
            masks = cell_by_cell(network, owned, first, stop)
            inner = {layer + 1: box for layer, box in enumerate(needs.computed, first)}
            outside = {
                tensor
                for layer in network.layers[first:stop]
                for tensor in layer.inputs
                if tensor not in inner
            }
            assert set(needs.fetched) == outside
            for tensor, box in [*inner.items(), *needs.fetched.items()]:
                # Every window touches its tensor, so nothing more than the hull is needed.
                assert box == hull(masks[tensor]), (tile, tensor)
            for tensor, box in inner.items():
                assert box.contains(owned(tensor))


def test_a_layer_computes_what_a_later_group_member_reads_beside_the_chain():
    # Tensor 1 is read by the next layer through 3x3 windows and by the last one directly.
    layers = [
        LayerGeometry((0,), (Window(3, 3, 1, 1),)),
        LayerGeometry((1,), (Window(3, 3, 1, 1),)),
        LayerGeometry((2, 1), (Window(), Window())),
    ]
    needs = group_needs(layers, [(12, 12)] * 4, lambda tensor: Box(4, 8, 0, 12), 0, 3)
    assert needs.computed == (Box(3, 9, 0, 12), Box(4, 8, 0, 12), Box(4, 8, 0, 12))
    assert needs.fetched == {0: Box(2, 10, 0, 12)}


def test_a_group_fetches_every_tensor_from_outside():
    layers = [
        LayerGeometry((0,), (Window(),)),
        LayerGeometry((1,), (Window(2, 2, 2),), 2),
        LayerGeometry((2, 1), (Window(), Window(stride=2))),
        LayerGeometry((3,), (Whole(),)),
    ]
    sizes = [(8, 8), (8, 8), (4, 4), (4, 4), (4, 4)]
    needs = group_needs(layers, sizes, lambda tensor: Box(0, 2, 0, 2), 2, 4)
    # The last layer wants all of tensor 3, hence all of tensor 2 and every other cell of 1.
    assert needs.fetched == {1: Box(0, 7, 0, 7), 2: Box(0, 4, 0, 4)}


def test_a_tile_that_owns_nothing_needs_nothing():
    layers = [LayerGeometry((0,), (Window(3, 3, 1, 1),)), LayerGeometry((1,), (Whole(),))]
    needs = group_needs(layers, [(4, 4)] * 3, lambda tensor: EMPTY, 0, 2)
    assert needs.computed == (EMPTY, EMPTY)
    assert needs.fetched == {0: EMPTY}


def test_group_ranges():
    assert group_ranges((0,), 5) == ((0, 5),)
    assert group_ranges([0, 2, 3], 5) == ((0, 2), (2, 3), (3, 5))


@pytest.mark.parametrize("groups", [[], [1], [0, 2, 2], [0, 3, 2], [0, 5], [-1, 0]])
def test_groups_that_do_not_cover_the_layers_are_errors(groups):
    with pytest.raises(InputError) as caught:
        group_ranges(groups, 5)
    assert str(caught.value) == (
        f"groups {groups} do not cover the network: expected ascending first layers that "
        "start with 0 and end at most with 4"
    )
