"""What a layer's time follows between measured boxes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpitile.kernels.choice import Shape, default
from mpitile.network.cfg import parse_network
from mpitile.plan.clusters.cluster import OPERATIONS
from mpitile.plan.costs.effort import effort

TEXT = """
[net]
height=64
width=64
[convolutional]
filters=32
size=3
pad=1
activation=leaky
[convolutional]
filters=64
size=3
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
filters=32
size=1
activation=leaky
"""
LAYERS = parse_network(TEXT, "net").layers
SIDES = st.integers(1, 60)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[2], LAYERS[3]])
def test_cells_where_winograd_does_not_compute(layer, operation):
    assert effort(layer, operation, 3, 5, 7) == 3 * 5 * 7


@pytest.mark.parametrize("rows, columns, images", [(29, 37, 1), (18, 25, 4), (13, 50, 8)])
def test_the_last_squares_count_as_what_is_left_of_the_box(rows, columns, images):
    """Of so many cells and two more, in each direction; of the input's gradient a larger box."""
    shape = Shape("forward", 3, 3, 32, 64, 1, images, rows, columns)
    assert default(shape) == "winograd4"

    def line(cells):
        return sum(min(4, cells - first) + 2 for first in range(0, cells, 4))

    fixed = 36 * 10 + 400
    for operation, reach in (("forward", 0), ("backward_weights", 0), ("backward_input", 2)):
        products = images * line(rows + reach) * line(columns + reach)
        found = effort(LAYERS[1], operation, images, rows, columns)
        assert found == pytest.approx(products * (1 + 28 * (1 / 32 + 1 / 64)) + fixed)


def test_a_few_cells_are_multiplied_directly():
    assert default(Shape("backward_weights", 3, 3, 32, 64, 1, 1, 2, 2)) == "direct"
    one, two = (effort(LAYERS[1], "backward_weights", 1, 1, cells) for cells in (1, 2))
    assert two - one == 9


def test_few_squares_do_not_reach_beyond_the_box():
    shape = Shape("forward", 3, 3, 32, 64, 1, 1, 9, 10)
    assert default(shape) == "winograd4"
    sides = [effort(LAYERS[1], "forward", 1, 9, columns) for columns in (8, 9, 10, 11, 12)]
    more = [after - before for before, after in pairwise(sides)]
    # 12 places, then 15, 16, 17 and 18.
    assert more == pytest.approx([3 * more[1], more[1], more[1], more[1]])


@given(operation=st.sampled_from(OPERATIONS), images=st.integers(1, 9), rows=SIDES, columns=SIDES)
def test_more_cells_never_take_less(operation, images, rows, columns):
    here = effort(LAYERS[1], operation, images, rows, columns)
    assert here <= effort(LAYERS[1], operation, images, rows + 1, columns)
    assert here <= effort(LAYERS[1], operation, images, rows, columns + 1)
    assert here < effort(LAYERS[1], operation, images + 1, rows, columns)


def test_backward_input_reaches_over_the_box():
    # 16 cells are four squares of four; what they hand back to is 18 cells wide.
    wide = effort(LAYERS[1], "backward_input", 4, 16, 16)
    assert wide == effort(LAYERS[1], "forward", 4, 18, 18)


def test_backward_input_of_few_squares_takes_no_more_of_them():
    back, forward = (
        [effort(LAYERS[1], operation, 1, 16, columns) for columns in (9, 16)]
        for operation in ("backward_input", "forward")
    )
    assert back[1] - back[0] == pytest.approx(forward[1] - forward[0])


@given(operation=st.sampled_from(OPERATIONS), images=st.integers(1, 4), rows=SIDES, columns=SIDES)
def test_merged_pools_are_measured_by_their_convolution(operation, images, rows, columns):
    merged = effort(LAYERS[2], operation, images, rows, columns, LAYERS[1])
    assert merged == effort(LAYERS[1], operation, images, 2 * rows, 2 * columns)
