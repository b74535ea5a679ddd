from fractions import Fraction
from math import inf, nan

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from strategies import networks

from mpitile.errors import InputError
from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.receptive import Enlarged, LayerGeometry, Window
from mpitile.geometry.tiling import Grid, cut_lines, parse_grid, tensor_strides, tile_tensors
from mpitile.network import receptive


def chain(*strides):
    """Layers one behind the other, with windows as large as their strides."""
    return [
        LayerGeometry((index,), (Window(stride, stride, stride),), stride)
        for index, stride in enumerate(strides)
    ]


def boxes(tiling, tensor):
    return [tiling.owned(tensor, tile) for tile in range(tiling.grid.tiles)]


@given(st.data())
def test_numbers_run_through_blocks(data):
    high, wide = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    rows, columns = high * data.draw(st.integers(1, 3)), wide * data.draw(st.integers(1, 3))
    grid = Grid(rows, columns, (high, wide))
    places = [grid.position(tile) for tile in range(grid.tiles)]
    assert sorted(places) == [(row, column) for row in range(rows) for column in range(columns)]
    assert [grid.tile(*place) for place in places] == list(range(grid.tiles))
    for first in range(0, grid.tiles, high * wide):
        block = places[first : first + high * wide]
        assert block == sorted(block)
        (top, left), (bottom, right) = block[0], block[-1]
        assert (top % high, left % wide) == (0, 0)
        assert (bottom - top, right - left) == (high - 1, wide - 1)
    assert parse_grid(str(grid)) == grid
    if (high, wide) == (1, 1):
        assert places == sorted(places)


@pytest.mark.parametrize("block", [(0, 1), (2, 5), (3, 2), (1, -1)])
def test_blocks_divide_the_grid(block):
    with pytest.raises(InputError, match="expected blocks that divide 4x6 tiles"):
        Grid(4, 6, block)


@given(st.integers(1, 60), st.lists(st.sampled_from([0.5, 1, 2, 7]), min_size=1, max_size=8))
def test_cut_lines_are_in_proportion(length, weights):
    cuts = cut_lines(length, weights)
    assert len(cuts) == len(weights) + 1
    assert (cuts[0], cuts[-1]) == (0, length)
    for behind, cut in enumerate(cuts):
        exact = length * Fraction(sum(weights[:behind])) / Fraction(sum(weights))
        assert exact - 1 < cut <= exact


@given(st.integers(1, 60), st.integers(1, 9))
def test_equal_weights_cut_evenly(length, parts):
    sizes = np.diff(cut_lines(length, [1] * parts))
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("weights", [[], [1, 0], [2, -1], [nan], [1, inf]])
def test_weights_are_positive(weights):
    with pytest.raises(InputError, match="expected positive numbers"):
        cut_lines(10, weights)


@given(networks(), st.integers(1, 5), st.integers(1, 5), st.data())
def test_owners_cover_every_tensor_once(network, rows, columns, data):
    def weights(parts):
        return data.draw(st.none() | st.lists(st.integers(1, 5), min_size=parts, max_size=parts))

    tiling = tile_tensors(
        receptive.sizes(network),
        receptive.geometry(network),
        Grid(rows, columns),
        weights(rows),
        weights(columns),
    )
    for tensor, shape in enumerate(network.shapes):
        owners = np.zeros((shape.height, shape.width), int)
        for box in boxes(tiling, tensor):
            owners[box.slices()] += 1
            assert not box.empty or box == EMPTY
        assert (owners == 1).all()


def test_cut_lines_follow_the_strides():
    sizes = [(17, 17), (17, 17), (8, 8), (4, 4)]
    tiling = tile_tensors(sizes, chain(1, 2, 2), Grid(2, 1))
    assert tiling.rows == ((0, 8, 17), (0, 8, 17), (0, 4, 8), (0, 2, 4))
    assert tiling.columns == ((0, 17), (0, 17), (0, 8), (0, 4))


def test_a_pool_that_is_no_wider_than_its_stride_needs_no_halo():
    sizes, layers = [(20, 20), (10, 10), (5, 5)], chain(2, 2)
    tiling = tile_tensors(sizes, layers, Grid(3, 2))
    for tile in range(6):
        for layer in layers:
            tensor = layer.inputs[0]
            needed = layer.receptive[0].needs(tiling.owned(tensor + 1, tile), *sizes[tensor])
            assert tiling.owned(tensor, tile).contains(needed)


def test_weights_make_tiles_uneven():
    tiling = tile_tensors([(12, 8)], [], Grid(2, 2), [1, 3], [1, 1])
    assert boxes(tiling, 0) == [
        Box(0, 3, 0, 4),
        Box(0, 3, 4, 8),
        Box(3, 12, 0, 4),
        Box(3, 12, 4, 8),
    ]


def test_small_tensors_leave_tiles_empty():
    # Three tiles of four cells each; the last tensor has two cells of eight.
    tiling = tile_tensors([(12, 12), (3, 3), (2, 2)], chain(4, 2), Grid(3, 1))
    assert tiling.rows == ((0, 4, 8, 12), (0, 1, 2, 3), (0, 1, 1, 2))
    assert tiling.owned(2, 1) == EMPTY


def test_tensors_that_grow_by_padding_leave_their_inputs_tiles_empty():
    sizes = [(2, 2), (6, 6)]
    layers = [LayerGeometry((0,), (Window(3, 3, 1, 3),))]
    tiling = tile_tensors([(4, 4), *sizes], [chain(2)[0], *shifted(layers)], Grid(3, 1))
    assert tiling.rows == ((0, 4, 4, 4), (0, 2, 2, 2), (0, 2, 4, 6))


def shifted(layers):
    """The same layers behind one more."""
    return [
        LayerGeometry(tuple(t + 1 for t in layer.inputs), layer.receptive, layer.stride)
        for layer in layers
    ]


def test_strides_go_along_the_first_input():
    layers = [*chain(2, 3), LayerGeometry((1, 2), (Window(), Window()))]
    assert tensor_strides(layers) == (1, 2, 6, 2)


def test_upsampling_divides_cut_lines():
    """As in YOLOv3-tiny: what is enlarged meets an earlier tensor of its size with equal lines."""
    pool = LayerGeometry((1,), (Window(2, 2, 2),), 2)
    enlarged = LayerGeometry((2,), (Enlarged(2),), Fraction(1, 2))
    joined = LayerGeometry((3, 1), (Window(), Window()))
    sizes = [(26, 26), (26, 26), (13, 13), (26, 26), (26, 26)]
    layers = [*chain(1), pool, enlarged, joined]
    assert tensor_strides(layers) == (1, 1, 2, 1, 1)
    tiling = tile_tensors(sizes, layers, Grid(2, 3))
    # A line within a cell of the coarse tensor moves behind it.
    assert tiling.rows == ((0, 13, 26), (0, 13, 26), (0, 7, 13), (0, 13, 26), (0, 13, 26))
    assert tiling.columns[2:4] == ((0, 4, 9, 13), (0, 8, 17, 26))


@pytest.mark.parametrize("grid", [Grid(5, 1), Grid(1, 7), Grid(5, 7)])
def test_a_grid_larger_than_the_image_is_an_error(grid):
    with pytest.raises(InputError, match=f"grid {grid} is larger than the image of 4x6 cells"):
        tile_tensors([(4, 6)], [], grid)


def test_weights_must_fit_the_grid():
    with pytest.raises(InputError, match=r"3 tile weights for grid 2x3: expected 2, .* each row"):
        tile_tensors([(8, 8)], [], Grid(2, 3), [1, 1, 1])
    with pytest.raises(InputError, match=r"1 tile weights for grid 2x3: .* 3, .* each column"):
        tile_tensors([(8, 8)], [], Grid(2, 3), None, [1])


def test_tiles_are_numbered_row_by_row():
    grid = Grid(2, 3)
    assert grid.tiles == 6
    assert [grid.position(tile) for tile in (0, 2, 3, 5)] == [(0, 0), (0, 2), (1, 0), (1, 2)]


@pytest.mark.parametrize(("rows", "columns"), [(0, 1), (2, 0), (-1, 2)])
def test_a_grid_has_tiles(rows, columns):
    with pytest.raises(InputError, match="expected at least 1x1 tiles"):
        Grid(rows, columns)


def test_grids_are_read_as_they_are_written():
    assert parse_grid("2x3") == parse_grid(" 2X3 ") == parse_grid(str(Grid(2, 3))) == Grid(2, 3)


@pytest.mark.parametrize("text", ["", "2", "x2", "2x", "2x2x2", "-1x2", "a x b", "\u00b2x2"])
def test_other_texts_are_no_grid(text):
    with pytest.raises(InputError, match="expected ROWSxCOLUMNS"):
        parse_grid(text)


def test_zero_tiles_are_no_grid():
    with pytest.raises(InputError, match="grid 0x2: expected at least 1x1 tiles"):
        parse_grid("0x2")
