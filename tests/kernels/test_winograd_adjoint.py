"""Backward-input by the adjoint of F(4x4, 3x3), where tiles are few: on clipped and whole boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simd_sets import instruction_sets

from mpitile.geometry.box import Box
from mpitile.kernels import _fast, conv, reference
from mpitile.kernels.checks import window
from mpitile.kernels.tile import Tile

SETS = instruction_sets()
SIZE = 24

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "simd": st.sampled_from(SETS),
        "images": st.integers(1, 3),
        # The box's first row and column in the tensor: at its border or not, as its last ones.
        "row": st.sampled_from([0, 3, 5]),
        "column": st.sampled_from([0, 2, 5]),
        "rows": st.integers(1, 19),
        "columns": st.integers(1, 19),
        "channels": st.sampled_from([1, 5, 16, 31, 32, 40, 67]),
        "filters": st.sampled_from([1, 7, 16, 33, 48, 130, 150]),
    }
)


class Case:
    """A box of a tensor of the least size, or larger, and tiles that hold what it needs."""

    def __init__(self, tools, p):
        _fast.select(p["simd"])
        self.draw = draw = tools.draw(p["seed"], "float32")
        self.box = Box(p["row"], p["row"] + p["rows"], p["column"], p["column"] + p["columns"])
        size = (p["images"], SIZE, SIZE)
        self.dy = np.zeros((*size, p["filters"]), np.float32)
        kept = (p["images"], p["rows"], p["columns"], p["filters"])
        self.dy[:, *self.box.slices()] = draw.array(*kept)
        self.x = draw.array(*size, p["channels"])
        self.weights = draw.array(3, 3, p["channels"], p["filters"])
        like = Tile(self.x, Box(0, SIZE, 0, SIZE), SIZE, SIZE)
        self.needed = window(like, self.box, (3, 3), 1, 1)
        elements = tools.elements("winograd4", like, self.weights, self.box, 1, 1)
        self.rest = (1, 1, np.full(elements, np.nan, np.float32))

    def backward(self, dx, **more):
        dy = self.draw.tile(self.dy, self.box)
        conv.backward_input(
            dy, self.box, self.weights, dx, *self.rest, algorithm="winograd4", **more
        )
        return dx.array

    def exact(self):
        return reference.conv2d_backward_input(
            self.dy.astype(float), self.weights.astype(float), self.x.shape, 1, 1
        )


@settings(deadline=None, max_examples=60)
@given(p=problems)
def test_written_or_added_gradient(tools, p):
    case = Case(tools, p)
    dx = case.draw.tile(np.full_like(case.x, np.nan), case.needed)
    expected = case.exact()[:, *dx.box.slices()]
    written = case.backward(dx, accumulate=False)
    tools.close(written, expected, "float32")
    added = case.draw.tile(case.x, case.needed)
    expected = (case.x + case.exact())[:, *added.box.slices()]
    tools.close(case.backward(added), expected, "float32")


@settings(deadline=None, max_examples=40)
@given(p=problems)
def test_product_with_forward(tools, p):
    """<y(x), dy> = <x, dx(dy)>, up to the rounding of the sums that make y and dx."""
    case = Case(tools, p)
    x = case.draw.tile(case.x, case.needed)
    y = case.draw.tile(np.zeros_like(case.dy), case.box)
    conv.forward(x, case.weights, y, case.box, *case.rest, algorithm="winograd4")
    dx = Tile(np.zeros_like(x.array), x.box, SIZE, SIZE)
    case.backward(dx)
    dy = case.dy[:, *case.box.slices()].astype(float)
    forward = (y.view(case.box) * dy).sum()
    backward = (x.array.astype(float) * dx.array).sum()
    scale = np.linalg.norm(x.array) * np.linalg.norm(case.weights) * np.linalg.norm(dy)
    assert abs(forward - backward) <= 1e-6 * scale


@pytest.mark.parametrize("simd", SETS)
def test_derivative_is_applied_once(tools, simd):
    p = {"seed": 3, "simd": simd, "images": 2, "row": 0, "column": 4, "rows": 10, "columns": 9}
    case = Case(tools, {**p, "channels": 20, "filters": 144})
    y = case.draw.array(*case.dy.shape)
    start = case.dy.copy()
    case.dy *= np.where(y > 0, 1, np.float32(0.1))
    dy, output = case.draw.tile(start, case.box), case.draw.tile(y, case.box)
    dx = case.draw.tile(np.full_like(case.x, np.nan), case.needed)
    sums = np.ones(144, np.float32)
    conv.backward_input(
        dy,
        case.box,
        case.weights,
        dx,
        *case.rest,
        output=output,
        activation="leaky",
        bias_gradient=sums,
        accumulate=False,
        algorithm="winograd4",
    )
    tools.close(dx.array, case.exact()[:, *dx.box.slices()], "float32")
    assert (dy.view(case.box) == case.dy[:, *case.box.slices()]).all()
    tools.close(sums, 1 + case.dy.astype(float).sum((0, 1, 2)), "float32")


@pytest.mark.parametrize("simd", SETS)
def test_no_neighbour_of_a_cell_changes_the_others(tools, simd):
    """Cells further than one from a box of dy get nothing of it, not even a rounding error."""
    p = {"seed": 4, "simd": simd, "images": 1, "row": 5, "column": 5, "rows": 7, "columns": 6}
    case = Case(tools, {**p, "channels": 18, "filters": 17})
    dx = Tile(case.x.copy(), Box(0, SIZE, 0, SIZE), SIZE, SIZE)
    case.backward(dx)
    same = (dx.array == case.x).all((0, 3))
    same[4:13, 4:12] = True
    assert same.all()


def test_more_tiles_than_stay_in_panels(tools):
    """60 tiles in one block, as wide layers have them."""
    p = {"seed": 5, "simd": None, "images": 4, "row": 1, "column": 0, "rows": 18, "columns": 9}
    case = Case(tools, {**p, "channels": 160, "filters": 130})
    dx = case.draw.tile(np.full_like(case.x, np.nan), case.needed)
    written = case.backward(dx, accumulate=False)
    tools.close(written, case.exact()[:, *dx.box.slices()], "float32")
