import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import whole
from mpitile.kernels import dropout, reference
from mpitile.kernels.tile import Tile


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    shape=st.tuples(*[st.integers(1, 7)] * 4),
    probability=st.sampled_from([0.0, 0.1, 0.5, 0.99]),
    key=st.integers(0, 2**64 - 1),
    first_image=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_any_tiling_draws_the_reference_mask(
    tools, seed, dtype, shape, probability, key, first_image, grid
):
    draw = tools.draw(seed, dtype)
    mask = reference.dropout_mask(shape, probability, key, first_image)
    x, dy, dx = (draw.array(*shape) for _ in range(3))
    for box in tools.cut(*shape[1:3], *grid):
        before = draw.array(*shape)
        y = draw.tile(before, box)
        dropout.forward(draw.tile(x, box), y, box, probability, key, first_image)
        before[:, *box.slices()] = (x * mask)[:, *box.slices()]
        tools.close(y.array, before[:, *y.box.slices()], dtype)
        back = draw.tile(dx, box)
        dropout.backward(draw.tile(dy, box), box, back, probability, key, first_image)
        expected = dx.astype(np.float64)
        expected[:, *box.slices()] += (dy * mask)[:, *box.slices()]
        tools.close(back.array, expected[:, *back.box.slices()], dtype)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    shape=st.tuples(*[st.integers(1, 7)] * 4),
    probability=st.sampled_from([0.0, 0.1, 0.5, 0.99]),
    key=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_a_slice_of_channels_draws_its_part_of_the_mask(
    tools, seed, dtype, shape, probability, key, data
):
    draw = tools.draw(seed, dtype)
    mask = reference.dropout_mask(shape, probability, key, 3)
    first = data.draw(st.integers(0, shape[3] - 1))
    mask = mask[..., first:]
    box = draw.box(*shape[1:3])
    cells = (slice(None), *box.slices())
    x, dy, y, dx = (draw.array(*mask.shape) for _ in range(4))
    expected_y, expected_dx = y.copy(), dx.copy()
    expected_y[cells] = (x * mask)[cells]
    expected_dx[cells] += (dy * mask)[cells]

    def tile(array):
        return Tile(array, whole(*shape[1:3]), *shape[1:3], first)

    dropout.forward(tile(x), tile(y), box, probability, key, 3)
    dropout.backward(tile(dy), box, tile(dx), probability, key, 3)
    tools.close(y, expected_y, dtype)
    tools.close(dx, expected_dx, dtype)


def test_an_image_has_the_same_mask_wherever_the_batch_is_split():
    both = reference.dropout_mask((2, 4, 5, 6), 0.5, 9, 10)
    second = reference.dropout_mask((1, 4, 5, 6), 0.5, 9, 11)
    assert (both[1] == second[0]).all()
    assert (both[0] != both[1]).any()


def test_share_of_dropped_cells():
    mask = reference.dropout_mask((4, 50, 50, 20), 0.3, 123, 0)
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.005)
    for axis in range(4):
        others = tuple(a for a in range(4) if a != axis)
        assert np.abs((mask == 0).mean(axis=others) - 0.3).max() < 0.03


def test_splitmix64_gives_the_published_sequence():
    """The first outputs for seed 1234567, as the generator's public test vectors have them."""
    outputs = reference._splitmix64(np.uint64(1234567), np.arange(3, dtype=np.uint64))
    assert outputs.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_probability_must_leave_something():
    x = Tile(np.zeros((1, 1, 1, 1), np.float32), whole(1, 1), 1, 1)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\), got 1"):
        dropout.forward(x, x, whole(1, 1), 1.0, 0, 0)
