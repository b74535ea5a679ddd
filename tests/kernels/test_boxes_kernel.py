import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import Box, whole
from mpitile.kernels.boxes import BufferedCells
from mpitile.kernels.tile import Tile


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    shape=st.tuples(*[st.integers(1, 6)] * 4),
    offset=st.integers(0, 5),
)
def test_cells_travel_through_a_buffer(tools, seed, dtype, shape, offset):
    draw = tools.draw(seed, dtype)
    values, other = draw.array(*shape), draw.array(*shape)
    box = draw.box(*shape[1:3])
    cells = values[:, *box.slices()]
    end = offset + cells.size
    buffer = draw.array(end + 3)
    expected = buffer.copy()
    expected[offset:end] = cells.ravel()
    packed = BufferedCells(draw.tile(values, box), box, buffer, offset)
    packed.pack()
    assert packed.end == end
    assert (buffer == expected).all()

    tile, added, wiped = (draw.tile(other, box) for _ in range(3))
    BufferedCells(tile, box, buffer, offset).unpack()
    BufferedCells(added, box, buffer, offset).add()
    BufferedCells(wiped, box, buffer, offset).clear()
    for actual, new in ((tile, cells), (added, other[:, *box.slices()] + cells), (wiped, 0)):
        whole_tensor = other.copy()
        whole_tensor[:, *box.slices()] = new
        assert (actual.array == whole_tensor[:, *actual.box.slices()]).all()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    shape=st.tuples(*[st.integers(1, 6)] * 4),
    first=st.integers(0, 4),
    data=st.data(),
)
def test_some_channels_travel_alone(tools, seed, dtype, shape, first, data):
    """Numbered as in the whole tensor, of which the tile has those from `first` on."""
    draw = tools.draw(seed, dtype)
    values, other = draw.array(*shape), draw.array(*shape)
    box = draw.box(*shape[1:3])
    start = data.draw(st.integers(0, shape[3]))
    stop = data.draw(st.integers(start, shape[3]))
    channels = (first + start, first + stop)
    cells = values[:, *box.slices(), start:stop]
    buffer = draw.array(cells.size + 2)

    def tile(array):
        return Tile(array.copy(), whole(*shape[1:3]), *shape[1:3], first)

    target, added, wiped = tile(other), tile(other), tile(other)
    packed = BufferedCells(tile(values), box, buffer, 1, channels)
    packed.pack()
    assert packed.end == 1 + cells.size
    assert (buffer[1:-1] == cells.ravel()).all()
    BufferedCells(target, box, buffer, 1, channels).unpack()
    BufferedCells(added, box, buffer, 1, channels).add()
    BufferedCells(wiped, box, buffer, 1, channels).clear()
    sums = other[:, *box.slices(), start:stop] + cells
    for actual, new in ((target, cells), (added, sums), (wiped, 0)):
        expected = other.copy()
        expected[:, *box.slices(), start:stop] = new
        assert (actual.array == expected).all()
    with pytest.raises(ValueError, match="channels: expected a part of"):
        BufferedCells(target, box, buffer, 0, (first, first + shape[3] + 1))


def test_add_is_the_adjoint_of_pack(tools):
    draw = tools.draw(1, "float64")
    values, buffer, box = draw.array(2, 5, 6, 3), draw.array(2 * 2 * 4 * 3), Box(1, 3, 2, 6)
    packed, back = np.empty_like(buffer), np.zeros_like(values)
    BufferedCells(Tile(values, whole(5, 6), 5, 6), box, packed, 0).pack()
    BufferedCells(Tile(back, whole(5, 6), 5, 6), box, buffer, 0).add()
    assert packed @ buffer == pytest.approx((values * back).sum(), rel=1e-14)


def test_what_does_not_fit_is_an_error():
    tile = Tile(np.zeros((1, 4, 4, 2), np.float32), Box(2, 6, 2, 6), 8, 8)
    buffer = np.zeros(8, np.float32)
    assert BufferedCells(tile, Box(2, 4, 2, 4), buffer, 0).end == 8
    assert BufferedCells(tile, Box(3, 3, 2, 4), buffer, 8).end == 8
    with pytest.raises(ValueError, match=r"room for \[1, 9\), got 8 elements"):
        BufferedCells(tile, Box(2, 4, 2, 4), buffer, 1)
    with pytest.raises(ValueError, match="expected a tile that holds"):
        BufferedCells(tile, Box(1, 3, 2, 4), buffer, 0)
    with pytest.raises(ValueError, match=r"one dimension of float32, got shape .* of float64"):
        BufferedCells(tile, Box(2, 4, 2, 4), np.zeros(8), 0)
