import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from mpitile.geometry.box import EMPTY, Box, whole

SIDE = 9
edges = st.integers(0, SIDE)
boxes = st.builds(Box, edges, edges, edges, edges)


def cells(box):
    return {(y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)}


@given(boxes)
def test_a_box_is_its_cells(box):
    assert box.cells == len(cells(box)) == box.height * box.width
    assert box.empty == (not cells(box))


@given(boxes, boxes)
def test_intersection_is_that_of_the_cells(one, other):
    both = one.intersect(other)
    assert cells(both) == cells(one) & cells(other)
    assert not both.empty or both == EMPTY


@given(boxes, boxes)
def test_hull_is_the_smallest_box_with_both(one, other):
    hull = one.hull(other)
    union = cells(one) | cells(other)
    if not union:
        assert hull == EMPTY
        return
    rows, columns = zip(*union, strict=True)
    assert hull == Box(min(rows), max(rows) + 1, min(columns), max(columns) + 1)


@given(boxes, boxes)
def test_containing_is_that_of_the_cells(one, other):
    assert one.contains(other) == (cells(other) <= cells(one))


@given(boxes, st.integers(0, 3), st.integers(0, 3))
def test_slices_cut_the_cells_out_of_an_array_with_that_origin(box, y, x):
    y, x = min(y, box.y0), min(x, box.x0)
    rows, columns = np.mgrid[y:SIDE, x:SIDE]
    cut = box.slices(y, x)
    found = set(zip(rows[cut].ravel().tolist(), columns[cut].ravel().tolist(), strict=True))
    assert found == cells(box)


def test_whole_tensor():
    assert whole(3, 5) == Box(0, 3, 0, 5)
    assert whole(3, 5).cells == 15


def test_boxes_are_frozen():
    with pytest.raises(AttributeError):
        EMPTY.y0 = 1
