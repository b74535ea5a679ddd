import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import whole
from mpitile.kernels import reference, reorg
from mpitile.kernels.tile import Tile


def whole_tile(array):
    return Tile(array, whole(*array.shape[1:3]), *array.shape[1:3])


def test_reference_on_a_case_worked_by_hand():
    """A 2x2 image of 4 channels, stride 2: one plane of 4x4, flat values 0 to 15.

    Output channel k read in the input's shape takes the plane's cells of phase
    (k // 2, k % 2), so the flat output runs through the four phases in turn.
    """
    x = np.arange(16.0).reshape(1, 4, 2, 2).transpose(0, 2, 3, 1)
    y = reference.reorg(x, 2)
    assert y.shape == (1, 1, 1, 16)
    assert y.ravel().tolist() == [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]


def test_it_is_not_space_to_depth():
    x = np.arange(4 * 6 * 4.0).reshape(1, 4, 6, 4)
    plain = x.reshape(1, 2, 2, 3, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, 2, 3, 16)
    assert (np.sort(reference.reorg(x, 2), axis=None) == x.ravel()).all()
    assert (reference.reorg(x, 2) != plain).any()


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    images=st.integers(1, 3),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    planes=st.integers(1, 4),
    stride=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_tile_by_tile_is_the_whole(tools, seed, dtype, images, rows, columns, planes, stride, grid):
    draw = tools.draw(seed, dtype)
    x = draw.array(images, rows * stride, columns * stride, planes * stride**2)
    expected = reference.reorg(x, stride)
    dy, dx = draw.array(*expected.shape), draw.array(*x.shape)
    back = dx + reference.reorg_backward(dy, stride)
    for box in tools.cut(rows, columns, *grid):
        before = draw.array(*expected.shape)
        y = draw.tile(before, box)
        reorg.forward(whole_tile(x), y, box, stride)
        before[:, *box.slices()] = expected[:, *box.slices()]
        assert (y.array == before[:, *y.box.slices()]).all()
        reorg.backward(draw.tile(dy, box), box, whole_tile(dx), stride)
    tools.close(dx, back, dtype)


def test_sizes_must_divide():
    x, y = np.zeros((1, 4, 4, 6), np.float32), np.zeros((1, 2, 2, 24), np.float32)
    with pytest.raises(ValueError, match="got 4x4x6 and stride 2"):
        reorg.forward(whole_tile(x), whole_tile(y), whole(2, 2), 2)
