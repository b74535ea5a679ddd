"""Shapes whose loops take another way: rows wide enough to be cut, rows of weights that collide."""

from fractions import Fraction
from itertools import product
from math import prod

import numpy as np
import pytest
from simd_sets import instruction_sets

from mpitile.geometry.box import whole
from mpitile.kernels import _fast, conv, reference
from mpitile.kernels.checks import window
from mpitile.kernels.tile import Tile

SETS = instruction_sets()


def whole_tile(array):
    return Tile(array, whole(*array.shape[1:3]), *array.shape[1:3])


def check(tools, algorithm, x, weights, stride, padding):
    """All three operations on whole tensors against float64."""
    kernel = weights.shape[:2]
    exact = reference.conv2d(x.astype(float), weights.astype(float), stride, padding)
    y = np.full(exact.shape, np.nan, np.float32)
    box = whole(*y.shape[1:3])
    elements = tools.elements(algorithm, whole_tile(x), weights, box, stride, padding)
    guarded = np.full(elements + 99, np.nan, np.float32)
    guarded[elements:] = 7
    rest = (stride, padding, guarded[:elements])
    conv.forward(whole_tile(x), weights, whole_tile(y), box, *rest, algorithm=algorithm)
    tools.close(y, exact, "float32")
    dy = y / np.abs(y).max()
    if stride == 1:
        dx = np.full_like(x, np.nan)
        conv.backward_input(
            whole_tile(dy),
            box,
            weights,
            whole_tile(dx),
            *rest,
            accumulate=False,
            algorithm=algorithm,
        )
        exact = reference.conv2d_backward_input(
            dy.astype(float), weights.astype(float), x.shape, stride, padding
        )
        tools.close(dx, exact, "float32")
    exact = reference.conv2d_backward_weights(
        x.astype(float), dy.astype(float), kernel, stride, padding
    )
    for accumulate, before in ((False, np.nan), (True, 1.0)):
        dweights = np.full_like(weights, before)
        conv.backward_weights(
            whole_tile(x),
            whole_tile(dy),
            box,
            dweights,
            *rest,
            accumulate=accumulate,
            algorithm=algorithm,
        )
        tools.close(dweights, exact + accumulate, "float32")
    assert (guarded[elements:] == 7).all()


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize(("width", "stride"), [(43, 1), (61, 1), (290, 1), (95, 2), (262, 2)])
@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3), 1), ((1, 1), 0), ((1, 1), 1), ((2, 5), 3)]
)
def test_wide_rows(tools, simd, width, stride, kernel, padding):
    _fast.select(simd)
    draw = tools.draw(width, "float32")
    x, weights = draw.array(2, 6, width, 5), draw.array(*kernel, 5, 19)
    check(tools, "direct", x, weights, stride, padding)


@pytest.mark.parametrize("simd", SETS)
def test_wide_rows_do_not_depend_on_the_tile(tools, simd):
    _fast.select(simd)
    draw = tools.draw(3, "float32")
    x, weights = draw.array(1, 9, 150, 5), draw.array(3, 3, 5, 19)
    elements = tools.elements("direct", whole_tile(x), weights, whole(9, 150), 1, 1)
    rest = (1, 1, np.empty(elements, np.float32))
    y = np.zeros((1, 9, 150, 19), np.float32)
    conv.forward(whole_tile(x), weights, whole_tile(y), whole(9, 150), *rest, algorithm="direct")
    for box in tools.cut(9, 150, 2, 3):
        part = draw.tile(np.zeros_like(y), box)
        needed = draw.tile(x, window(whole_tile(x), box, (3, 3), 1, 1))
        conv.forward(needed, weights, part, box, *rest, algorithm="direct")
        assert (part.view(box) == y[:, *box.slices()]).all()


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4"])
@pytest.mark.parametrize("size", [5, 30])
def test_rows_of_weights_that_collide(tools, simd, algorithm, size):
    _fast.select(simd)
    draw = tools.draw(4, "float32")
    x, weights = draw.array(1, size, size, 131), draw.array(3, 3, 131, 512)
    check(tools, algorithm, x, weights, 1, 1)


@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4"])
@pytest.mark.parametrize(
    ("images", "rows", "columns", "channels", "filters"),
    [(4, 13, 13, 300, 43), (1, 62, 30, 20, 300)],
    ids=["one block of many tiles", "chunks of few channels"],
)
def test_ways_to_cut_winograd_s_work(tools, algorithm, images, rows, columns, channels, filters):
    draw = tools.draw(5, "float32")
    x, weights = draw.array(images, rows, columns, channels), draw.array(3, 3, channels, filters)
    check(tools, algorithm, x, weights, 1, 1)


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("rows", range(1, 9))
def test_tiles_at_the_edges_have_what_is_left(tools, simd, rows):
    _fast.select(simd)
    draw = tools.draw(rows, "float32")
    sizes = ((1, 64, 32), (3, 35, 67))
    for columns, (images, channels, filters) in product(range(1, 9), sizes):
        x, weights = (
            draw.array(images, rows, columns, channels),
            draw.array(3, 3, channels, filters),
        )
        check(tools, "winograd4", x, weights, 1, 1)


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("rows", range(28, 32))
def test_what_is_left_in_several_blocks(tools, simd, rows):
    """Blocks of at most 56 tiles end among whole tiles, or among those at an edge."""
    _fast.select(simd)
    draw = tools.draw(rows, "float32")
    for columns, images in product(range(36, 40), (2, 5)):
        x, weights = draw.array(images, rows, columns, 20), draw.array(3, 3, 20, 35)
        check(tools, "winograd4", x, weights, 1, 1)


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_maps_of_what_is_left_are_exact(cells):
    """y_k = sum of g_j x_(k+j), from the first points of F(4, 3)."""
    points = (0, 1, -1, 2, -2)[: cells + 2]
    forward, back = _fast.rest_maps(cells)
    assert np.shape(forward) == (cells + 2, cells + 2) and np.shape(back) == (cells, cells + 2)
    others = [prod(a - b for b in points if b != a) for a in points]
    assert back == [
        [float(np.float32(a**k) / np.float32(n)) for a, n in zip(points, others, strict=True)]
        for k in range(cells)
    ]
    scaled = [
        [Fraction(a**k, n) for a, n in zip(points, others, strict=True)] for k in range(cells)
    ]
    for k, j, m in product(range(cells), range(3), range(cells + 2)):
        terms = (scaled[k][i] * a**j * Fraction(forward[i][m]) for i, a in enumerate(points))
        assert sum(terms) == (m == k + j)


def test_many_channels_of_few_filters_want_little(tools):
    """Where all tiles fit into one block, the transforms of all channels need not exist at once."""
    x, weights = np.empty((4, 13, 13, 1024), np.float32), np.empty((3, 3, 1024, 43), np.float32)
    wanted = tools.elements("winograd4", whole_tile(x), weights, whole(13, 13), 1, 1)
    assert wanted < 36 * 1024 * 32
