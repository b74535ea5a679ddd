"""Darknet's size formulas and the layers that do not fit."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpitile.errors import InputError
from mpitile.network.cfg import read_network
from mpitile.network.shapes import infer, resize
from mpitile.network.spec import (
    AvgPool,
    Connected,
    Convolutional,
    Cost,
    Dropout,
    MaxPool,
    NetOptions,
    Region,
    Reorg,
    Route,
    Shape,
    Shortcut,
    Softmax,
    Upsample,
    Yolo,
)


def build(*operations, size=(8, 8, 3)):
    return infer(NetOptions(*size), [(10 * i, op) for i, op in enumerate(operations, 1)], "n")


def output(*operations, size=(8, 8, 3)):
    return build(*operations, size=size).shapes[-1]


@pytest.mark.parametrize(
    ("operation", "size", "expected"),
    [
        (Convolutional(5, 3, 1, 1), (7, 9, 3), Shape(7, 9, 5)),
        (Convolutional(5, 3, 2, 1), (7, 8, 3), Shape(4, 4, 5)),
        (Convolutional(5, 3), (7, 8, 3), Shape(5, 6, 5)),
        (Convolutional(5, 1, 2), (7, 8, 3), Shape(4, 4, 5)),
        (Convolutional(5, 2, 1, 1), (7, 8, 3), Shape(8, 9, 5)),
        (MaxPool(2, 2, 1), (7, 8, 3), Shape(4, 4, 3)),
        (MaxPool(2, 2, 0), (7, 8, 3), Shape(3, 4, 3)),
        (MaxPool(2, 1, 1), (13, 13, 3), Shape(13, 13, 3)),
        (MaxPool(3, 2, 2), (112, 111, 3), Shape(56, 56, 3)),
        (AvgPool(), (7, 8, 3), Shape(1, 1, 3)),
        (Connected(10), (7, 8, 3), Shape(1, 1, 10)),
        (Dropout(0.5), (7, 8, 3), Shape(7, 8, 3)),
        (Reorg(2), (6, 4, 8), Shape(3, 2, 32)),
        (Upsample(3), (2, 4, 8), Shape(6, 12, 8)),
        (Convolutional(6, 3, 1, 1, groups=2), (7, 9, 4), Shape(7, 9, 6)),
        (Yolo(((9.0, 9.0),) * 3, (0, 2), 3), (6, 4, 16), Shape(6, 4, 16)),
        (Cost(), (6, 4, 8), Shape(6, 4, 8)),
        (Softmax(), (1, 1, 8), Shape(1, 1, 8)),
        (Region(((1.0, 1.0), (2.0, 2.0)), 3), (6, 4, 16), Shape(6, 4, 16)),
    ],
)
def test_output_shape(operation, size, expected):
    assert output(operation, size=size) == expected


def test_route_adds_channels():
    route = build(Convolutional(4, 1), Convolutional(6, 1), Route((1, 0))).layers[-1]
    assert route.inputs == (2, 1)
    assert route.input_shapes == (Shape(8, 8, 6), Shape(8, 8, 4))
    assert route.output_shape == Shape(8, 8, 10)


def test_shortcut_takes_the_shape_of_the_layer_before_it():
    layers = (Convolutional(4, 1), Convolutional(6, 3, 2, 1), Shortcut(0))
    shortcut = build(*layers).layers[-1]
    assert shortcut.inputs == (2, 1)
    assert shortcut.output_shape == Shape(4, 4, 6)


@pytest.mark.parametrize(
    ("operations", "size", "line", "parts"),
    [
        ((Convolutional(1, 9),), (8, 9, 3), 10, ["[convolutional]", "8x9x3"]),
        ((MaxPool(9, 1, 0),), (9, 8, 3), 10, ["[maxpool]", "9x8x3"]),
        ((MaxPool(2, 2, 4),), (8, 8, 3), 10, ["wholly in padding", "8x8x3"]),
        ((MaxPool(2, 1, 5),), (8, 8, 3), 10, ["wholly in padding", "padding=5"]),
        ((MaxPool(1, 2, 1),), (9, 8, 3), 10, ["wholly in padding"]),
        ((MaxPool(1, 2, 1),), (8, 9, 3), 10, ["wholly in padding"]),
        ((Reorg(2),), (7, 8, 4), 10, ["[reorg]", "divisible by 2", "7x8x4"]),
        ((Reorg(2),), (8, 7, 4), 10, ["[reorg]", "8x7x4"]),
        ((Reorg(2),), (8, 8, 6), 10, ["channels by 4", "8x8x6"]),
        (
            (Convolutional(4, 1), MaxPool(2, 2, 1), Route((0, 1))),
            (8, 8, 3),
            30,
            ["[route]", "8x8x4 and 4x4x4"],
        ),
        ((Convolutional(4, 1), Route(())), (8, 8, 3), 20, ["[route]", "none"]),
        ((Convolutional(4, 1), Route((1,))), (8, 8, 3), 20, ["earlier", "found 1"]),
        ((Convolutional(4, 1), Route((-1,))), (8, 8, 3), 20, ["earlier", "found -1"]),
        ((Convolutional(4, 3), Shortcut(1)), (8, 8, 3), 20, ["[shortcut]", "found 1"]),
        (
            (Convolutional(4, 3, 2, 1), Convolutional(4, 2, 1, 1), Shortcut(0)),
            (8, 8, 3),
            30,
            ["[shortcut]", "at least 5x5x4", "found 4x4x4"],
        ),
        (
            (Convolutional(4, 1), Convolutional(4, 1, 2), Shortcut(0)),
            (11, 12, 3),
            30,
            ["one factor", "11x12x4"],
        ),
        ((Softmax(),), (1, 2, 3), 10, ["[softmax]", "1x1", "1x2x3"]),
        (
            (Region(((1.0, 1.0), (2.0, 2.0)), 3),),
            (4, 4, 15),
            10,
            ["16 filters", "2 anchors", "3 classes", "found 15"],
        ),
        (
            (Convolutional(6, 1), Region(((1.0, 1.0),), 1), Dropout(0.5)),
            (4, 4, 3),
            20,
            ["[region] must be the last layer"],
        ),
        (
            (Convolutional(4, 1, groups=2),),
            (4, 4, 3),
            10,
            ["[convolutional]", "channels that groups=2 divides", "found 3"],
        ),
        (
            (Convolutional(3, 1, groups=2),),
            (4, 4, 2),
            10,
            ["filters that groups=2 divides", "found 3"],
        ),
        (
            (Yolo(((9.0, 9.0),) * 3, (0, 2), 3),),
            (4, 4, 24),
            10,
            ["16 filters", "2 anchors", "found 24"],
        ),
        (
            (Convolutional(6, 1), Yolo(((9.0, 9.0),), (0,), 1), Route((0,))),
            (4, 4, 3),
            20,
            ["[yolo]", "as the last layer too", "[route]"],
        ),
        (
            (Convolutional(6, 1), Yolo(((9.0, 9.0),), (0,), 1), Yolo(((9.0, 9.0),), (0,), 1)),
            (4, 4, 3),
            30,
            ["reads layer 1", "a loss"],
        ),
        (
            (
                Convolutional(7, 1),
                Yolo(((9.0, 9.0),), (0,), 2),
                Route((0,)),
                Convolutional(6, 1),
                Yolo(((9.0, 9.0),), (0,), 1),
            ),
            (4, 4, 3),
            20,
            ["as many classes", "1, found 2"],
        ),
        ((AvgPool(), Cost(), Softmax()), (4, 4, 3), 20, ["[cost] must be the last layer"]),
        (
            (AvgPool(), Softmax(), Dropout(0.1)),
            (4, 4, 3),
            20,
            ["[softmax] must be the last layer, or stand before [cost]"],
        ),
    ],
)
def test_layers_that_do_not_fit(operations, size, line, parts):
    with pytest.raises(InputError) as caught:
        build(*operations, size=size)
    message = str(caught.value)
    assert message.startswith(f"n:{line}: ")
    for part in parts:
        assert part in message


def test_without_a_file_the_layer_is_named():
    with pytest.raises(InputError, match=r"^n: layer 1: \[reorg\] "):
        infer(NetOptions(8, 8), [(0, Convolutional(3, 1)), (0, Reorg(2))], "n")


def test_cost_may_follow_softmax():
    assert output(AvgPool(), Softmax(), Cost()) == Shape(1, 1, 3)


@pytest.mark.parametrize("size", [(0, 8), (8, -1)])
def test_resize_to_nothing(size):
    with pytest.raises(InputError, match="at least 1x1x1"):
        resize(build(Convolutional(1, 1)), *size)


def test_resize_below_what_the_layers_need(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("[net]\nheight=8\nwidth=8\n[conv]\nsize=5\n")
    with pytest.raises(InputError, match=r"a\.cfg:4: \[convolutional\] .* 4x8x3"):
        resize(read_network(path), 4, 8)


sizes = st.integers(1, 20)
windows = st.integers(1, 5)
strides = st.integers(1, 4)


@settings(deadline=None, max_examples=80)
@given(sizes, sizes, windows, strides, st.integers(0, 3))
def test_convolution_sizes_are_torchs(height, width, size, stride, padding):
    torch = pytest.importorskip("torch")
    assume(min(height, width) + 2 * padding >= size)
    found = output(Convolutional(1, size, stride, padding), size=(height, width, 1))
    result = torch.nn.functional.conv2d(
        torch.zeros(1, 1, height, width),
        torch.zeros(1, 1, size, size),
        stride=stride,
        padding=padding,
    )
    assert (found.height, found.width) == tuple(result.shape[2:])


@settings(deadline=None, max_examples=80)
@given(sizes, sizes, windows, strides, st.integers(0, 6))
def test_pool_windows(height, width, size, stride, padding):
    """As many windows as fit in the padded input; refused if one sees padding only."""

    def starts(length):
        before = padding // 2
        return range(-before, length + padding - before - size + 1, stride)

    rows, columns = starts(height), starts(width)
    empty = any(
        start + size <= 0 or start >= length
        for length, found in ((height, rows), (width, columns))
        for start in found
    )
    pool = MaxPool(size, stride, padding)
    if not rows or not columns or empty:
        with pytest.raises(InputError):
            output(pool, size=(height, width, 1))
    else:
        assert output(pool, size=(height, width, 1)) == Shape(len(rows), len(columns), 1)
