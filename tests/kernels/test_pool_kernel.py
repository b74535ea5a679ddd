import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simd_sets import instruction_sets

from mpitile.geometry.box import Box, whole
from mpitile.kernels import _fast, pool, reference
from mpitile.kernels.checks import window
from mpitile.kernels.tile import Tile

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "dtype": st.sampled_from(["float32", "float64"]),
        "images": st.integers(1, 3),
        "height": st.integers(1, 12),
        "width": st.integers(1, 12),
        "channels": st.integers(1, 20),
        "size": st.integers(1, 5),
        "stride": st.integers(1, 3),
        "grid": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "ties": st.booleans(),
        "simd": st.sampled_from(instruction_sets()),
    }
)


def whole_tile(array):
    return Tile(array, whole(*array.shape[1:3]), *array.shape[1:3])


@settings(deadline=None, max_examples=150)
@given(p=problems, data=st.data())
def test_max_pool_tile_by_tile_is_the_whole(tools, p, data):
    _fast.select(p["simd"])
    size, stride = p["size"], p["stride"]
    padding = data.draw(st.integers(0, size - 1), label="padding")
    rows = reference.pool_size(p["height"], size, stride, padding)
    columns = reference.pool_size(p["width"], size, stride, padding)
    assume(rows > 0 and columns > 0)
    draw = tools.draw(p["seed"], p["dtype"])
    x = draw.array(p["images"], p["height"], p["width"], p["channels"])
    if p["ties"]:
        x = np.round(x)
    expected, places = reference.max_pool(x, size, stride, padding)
    dy, start = draw.array(*expected.shape), draw.array(*x.shape)
    total = start.astype(np.float64)
    for box in tools.cut(rows, columns, *p["grid"]):
        needed = window(whole_tile(x), box, (size, size), stride, padding // 2)
        before = draw.array(*expected.shape)
        y = draw.tile(before, box)
        argmax = np.full(y.array.shape, 255, np.uint8)
        pool.max_forward(draw.tile(x, needed), y, box, size, stride, padding, argmax)
        marks = np.full(expected.shape, 255)
        before[:, *box.slices()] = expected[:, *box.slices()]
        marks[:, *box.slices()] = places[:, *box.slices()]
        assert (y.array == before[:, *y.box.slices()]).all()
        assert (argmax == marks[:, *y.box.slices()]).all()
        dx = draw.tile(np.zeros_like(start), needed)
        gradient = Tile(dy[:, *y.box.slices()].copy(), y.box, rows, columns)
        pool.max_backward(gradient, box, dx, size, stride, padding, argmax)
        total[:, *dx.box.slices()] += dx.array
        again = Tile(draw.array(*dx.array.shape), dx.box, dx.height, dx.width)
        pool.max_backward(gradient, box, again, size, stride, padding, argmax, accumulate=False)
        assert (again.array == dx.array).all()
    back = reference.max_pool_backward(dy, places, x.shape, size, stride, padding)
    tools.close(total, start + back, p["dtype"])


def test_first_of_equal_values_wins():
    x = np.zeros((1, 2, 2, 1), np.float32)
    x[0, 0, 1] = x[0, 1, 0] = 3
    y, argmax = np.empty((1, 1, 1, 1), np.float32), np.empty((1, 1, 1, 1), np.uint8)
    pool.max_forward(whole_tile(x), whole_tile(y), Box(0, 1, 0, 1), 2, 2, 0, argmax)
    assert (y.item(), argmax.item()) == (3, 1)


@pytest.mark.parametrize("filler", [-np.inf, np.nan])
def test_argmax_stays_in_the_tensor(filler):
    x = np.full((1, 3, 3, 5), filler, np.float32)
    y, argmax = np.empty_like(x), np.empty(x.shape, np.uint8)
    pool.max_forward(whole_tile(x), whole_tile(y), whole(3, 3), 3, 1, 2, argmax)
    rows = np.arange(3)[:, None, None] - 1 + argmax[0] // 3
    columns = np.arange(3)[None, :, None] - 1 + argmax[0] % 3
    assert ((rows >= 0) & (rows < 3) & (columns >= 0) & (columns < 3)).all()


def test_window_outside_the_tensor_is_an_error():
    x, y = np.zeros((1, 2, 2, 1), np.float32), np.zeros((1, 5, 5, 1), np.float32)
    argmax = np.zeros(y.shape, np.uint8)
    with pytest.raises(ValueError, match="windows that meet the 2x2 tensor"):
        pool.max_forward(whole_tile(x), whole_tile(y), whole(5, 5), 2, 1, 4, argmax)
    with pytest.raises(ValueError, match="size 1 to 15, got 16"):
        pool.max_forward(whole_tile(x), whole_tile(y), whole(1, 1), 16, 1, 15, argmax)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_average_pool(tools, dtype):
    draw = tools.draw(1, dtype)
    x, y, start = draw.array(3, 5, 4, 7), draw.array(3, 1, 1, 7), draw.array(3, 5, 4, 7)
    box = Box(0, 1, 0, 1)
    pool.average_forward(whole_tile(x), whole_tile(y), box)
    tools.close(y, reference.average_pool(x), dtype)
    dx = start.copy()
    pool.average_backward(whole_tile(y), box, whole_tile(dx))
    tools.close(dx, start + reference.average_pool_backward(y, x.shape), dtype)
    part = Tile(start[:, 1:3].copy(), Box(1, 3, 0, 4), 5, 4)
    pool.average_backward(whole_tile(y), box, part)
    assert (part.array == dx[:, 1:3]).all()
    pool.average_forward(whole_tile(x), whole_tile(y), Box(0, 0, 0, 0))
    with pytest.raises(ValueError, match="average-pool input: expected a tile that holds"):
        pool.average_forward(part, whole_tile(y), box)


def test_average_is_summed_in_float64():
    x = np.full((1, 512, 512, 1), 0.1, np.float32)
    y = np.zeros((1, 1, 1, 1), np.float32)
    pool.average_forward(whole_tile(x), whole_tile(y), Box(0, 1, 0, 1))
    assert y.item() == x[0, 0, 0, 0]


@pytest.mark.parametrize(("size", "stride", "side"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_reference_agrees_with_torch(tools, size, stride, side):
    torch = pytest.importorskip("torch")
    x = tools.draw(2, "float64").array(2, 9, 8, 3)
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    ty = torch.nn.functional.max_pool2d(tx, size, stride, side)
    ty.square().sum().backward()
    y, places = reference.max_pool(x, size, stride, 2 * side)
    rows, columns = ty.shape[2:]
    y, places = y[:, :rows, :columns], places[:, :rows, :columns]
    assert (y == ty.detach().numpy().transpose(0, 2, 3, 1)).all()
    dx = reference.max_pool_backward(2 * y, places, x.shape, size, stride, 2 * side)
    tools.close(dx, tx.grad.numpy().transpose(0, 2, 3, 1), "float64")
