import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import Box, whole
from mpitile.kernels.boxes import BufferedCells, Move, moving
from mpitile.kernels.tile import Tile


def run(*moves):
    moving(moves)()


def as_numpy(move):
    """The same by NumPy."""
    if move.operation == "add":
        move.target[...] += move.source
    else:
        move.target[...] = move.source
    if move.operation == "take":
        move.source[...] = 0


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
    run(packed.pack)
    assert packed.end == end
    assert (buffer == expected).all()

    tile, added, wiped = (draw.tile(other, box) for _ in range(3))
    run(BufferedCells(tile, box, buffer, offset).unpack)
    run(BufferedCells(added, box, buffer, offset).add)
    run(BufferedCells(wiped, box, np.empty_like(buffer), offset).take)
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
    run(packed.pack)
    assert packed.end == 1 + cells.size
    assert (buffer[1:-1] == cells.ravel()).all()
    run(BufferedCells(target, box, buffer, 1, channels).unpack)
    run(BufferedCells(added, box, buffer, 1, channels).add)
    run(BufferedCells(wiped, box, np.empty_like(buffer), 1, channels).take)
    sums = other[:, *box.slices(), start:stop] + cells
    for actual, new in ((target, cells), (added, sums), (wiped, 0)):
        expected = other.copy()
        expected[:, *box.slices(), start:stop] = new
        assert (actual.array == expected).all()
    with pytest.raises(ValueError, match="channels: expected a part of"):
        BufferedCells(target, box, buffer, 0, (first, first + shape[3] + 1))


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    data=st.data(),
)
def test_many_boxes_in_one_call_do_as_one_after_the_other(tools, seed, dtype, shape, data):
    """To the bit, where boxes overlap too: the order of additions is that of the moves."""
    draw = tools.draw(seed, dtype)
    boxes = [draw.box(*shape[1:3]) for _ in range(data.draw(st.integers(0, 6)))]
    operations = st.sampled_from(["pack", "take", "unpack", "add"])
    chosen = [
        (data.draw(operations), data.draw(st.none() | st.tuples(*[st.integers(0, shape[3])] * 2)))
        for _ in boxes
    ]
    values, buffer = draw.array(*shape), draw.array(len(boxes) * np.prod(shape, dtype=int))

    def moves(array, memory):
        tile, end = Tile(array, whole(*shape[1:3]), *shape[1:3]), 0
        for box, (operation, channels) in zip(boxes, chosen, strict=True):
            cells = BufferedCells(tile, box, memory, end, channels and tuple(sorted(channels)))
            end = cells.end
            yield getattr(cells, operation)

    actual, expected = ((values.copy(), buffer.copy()) for _ in range(2))
    both = moving(moves(*actual))
    for _ in range(2):
        both()
        for move in moves(*expected):
            as_numpy(move)
    for one, other in zip(actual, expected, strict=True):
        assert one.tobytes() == other.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    operation=st.sampled_from(["copy", "take", "add"]),
    data=st.data(),
)
def test_cells_move_between_any_two_arrays(tools, seed, dtype, shape, operation, data):
    """Of which each has its own gaps, at any dimension or none."""
    draw = tools.draw(seed, dtype)

    def place():
        gaps = data.draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 4))
        sizes = [size + sum(gap) for size, gap in zip(shape, gaps, strict=True)]
        cells = tuple(slice(a, a + size) for size, (a, _) in zip(shape, gaps, strict=True))
        return draw.array(*sizes), cells

    places = [place() for _ in range(2)]
    actual, expected = ([array.copy() for array, _ in places] for _ in range(2))

    def move(arrays):
        views = (array[cells] for array, (_, cells) in zip(arrays, places, strict=True))
        return Move(operation, *views)

    run(move(actual))
    as_numpy(move(expected))
    for one, other in zip(actual, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def test_what_is_to_move_stays_in_memory():
    base = np.zeros((1, 3, 3, 2))
    source = np.ones((1, 2, 2, 2))
    target, last = base[:, 1:, 1:], weakref.ref(source)
    add = moving([Move("add", target, source)])
    del source
    assert last() is not None
    add()
    assert base.sum() == 8
    del add
    assert last() is None


def test_nothing_to_move_is_fine():
    none = np.zeros((1, 0, 3, 2))
    run()
    run(Move("add", none, none.copy()))


@pytest.mark.parametrize(
    "move, message",
    [
        (("swap", (1, 2, 2, 3), (1, 2, 2, 3)), "expected one of .*'take'.*, got 'swap'"),
        (("copy", (1, 2, 2, 3), (1, 2, 3, 2)), r"target's shape \(1, 2, 2, 3\), got"),
        (("copy", (2, 2, 3), (2, 2, 3)), "expected 4 dimensions"),
        (("add", (1, 0, 2, 3), (1, 1, 2, 3)), r"target's shape \(1, 0, 2, 3\), got"),
    ],
)
def test_what_cannot_move_is_an_error(move, message):
    operation, target, source = move
    with pytest.raises(ValueError, match=message):
        moving([Move(operation, np.zeros(target), np.zeros(source))])


def test_arrays_that_loops_cannot_take_are_errors():
    cells, fixed = np.zeros((1, 2, 2, 4)), np.zeros((1, 2, 2, 4))
    fixed.flags.writeable = False
    for target, source, message in (
        (cells, cells.astype(np.float32), "as target's float64, got float32"),
        (cells.astype(int), cells.astype(int), "expected float32 or float64"),
        (cells[:, :1], cells[:, :1], "no memory of the target"),
        (cells[..., ::2], cells[..., ::2].copy(), "last axis must be contiguous"),
        (fixed, cells, "read-only"),
    ):
        with pytest.raises(ValueError, match=message):
            moving([Move("copy", target, source)])


def test_add_is_the_adjoint_of_pack(tools):
    draw = tools.draw(1, "float64")
    values, buffer, box = draw.array(2, 5, 6, 3), draw.array(2 * 2 * 4 * 3), Box(1, 3, 2, 6)
    packed, back = np.empty_like(buffer), np.zeros_like(values)
    run(BufferedCells(Tile(values, whole(5, 6), 5, 6), box, packed, 0).pack)
    run(BufferedCells(Tile(back, whole(5, 6), 5, 6), box, buffer, 0).add)
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
