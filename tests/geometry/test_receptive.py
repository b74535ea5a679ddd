import hypothesis.strategies as st
import pytest
from hypothesis import given

from mpitile.geometry.box import EMPTY, Box, whole
from mpitile.geometry.receptive import Whole, Window


def rows_read(window, box, height):
    return {
        row
        for i in range(box.y0, box.y1)
        for row in range(
            i * window.stride - window.before, i * window.stride - window.before + window.size_y
        )
        if 0 <= row < height
    }


@pytest.mark.parametrize(
    ("window", "needed"),
    [
        (Window(), Box(2, 4, 3, 5)),
        (Window(3, 3, 1, 1), Box(1, 5, 2, 6)),
        (Window(2, 2, 2, 0), Box(4, 8, 6, 10)),
        (Window(3, 3, 2, 1), Box(3, 8, 5, 10)),
        (Window(1, 1, 3), Box(6, 10, 9, 13)),
        (Window(5, 4, 1, 2), Box(0, 6, 1, 6)),
        (Whole(), whole(11, 13)),
    ],
)
def test_needs_of_one_box_by_hand(window, needed):
    assert window.needs(Box(2, 4, 3, 5), 11, 13) == needed


def test_needs_are_clipped_to_the_tensor():
    assert Window(3, 3, 1, 1).needs(whole(4, 5), 4, 5) == whole(4, 5)


def test_padding_alone_needs_nothing():
    assert Window(1, 1, 1, 3).needs(Box(0, 3, 0, 9), 4, 4) == EMPTY


@pytest.mark.parametrize("receptive", [Window(3, 3, 1, 1), Whole()])
def test_no_output_needs_no_input(receptive):
    assert receptive.needs(Box(4, 4, 0, 7), 8, 8) == EMPTY


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(0, 6),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_needs_hold_every_cell_that_a_window_reads(size, stride, before, first, count, height):
    window = Window(size, size, stride, before)
    box = Box(first, first + count, first, first + count)
    needed = window.needs(box, height, height)
    read = rows_read(window, box, height)
    assert read <= set(range(needed.y0, needed.y1))
    inside = first * stride - before + size > 0 and (box.y1 - 1) * stride - before < height
    if read and inside:
        assert (needed.y0, needed.y1) == (min(read), max(read) + 1)
    assert (needed.y0, needed.y1) == (needed.x0, needed.x1)
