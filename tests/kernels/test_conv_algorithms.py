"""Every algorithm and instruction set against the NumPy reference, on boxes of tiles."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simd_sets import instruction_sets

from mpitile.geometry.box import whole
from mpitile.kernels import _fast, algorithms, conv, reference
from mpitile.kernels.checks import window
from mpitile.kernels.tile import Tile

SETS = instruction_sets()

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "simd": st.sampled_from(SETS),
        "images": st.integers(1, 3),
        "height": st.integers(1, 17),
        "width": st.integers(1, 17),
        "channels": st.sampled_from([1, 3, 4, 8, 16, 17, 20, 32, 48, 67]),
        "filters": st.sampled_from([1, 3, 4, 8, 16, 19, 28, 32, 48, 70]),
        "padding": st.integers(0, 3),
        "activation": st.sampled_from(["linear", "leaky", "relu", "logistic"]),
        "biased": st.booleans(),
        "windowed": st.booleans(),
    }
)


class Case:
    """Whole tensors in float32, one box of the output, and tiles around what it needs."""

    def __init__(self, tools, p, kernel, stride):
        _fast.select(p["simd"])
        self.tools = tools
        self.draw = draw = tools.draw(p["seed"], "float32")
        self.kernel, self.stride, self.padding = kernel, stride, p["padding"]
        self.rows = reference.conv_size(p["height"], kernel[0], stride, self.padding)
        self.columns = reference.conv_size(p["width"], kernel[1], stride, self.padding)
        assume(self.rows > 0 and self.columns > 0)
        self.x = draw.array(p["images"], p["height"], p["width"], p["channels"])
        self.weights = draw.array(*kernel, p["channels"], p["filters"])
        self.dy = draw.array(p["images"], self.rows, self.columns, p["filters"])
        self.y = draw.array(*self.dy.shape)
        self.biases = draw.array(p["filters"]) if p["biased"] else None
        self.activation = p["activation"]
        if p["windowed"]:
            self.box = draw.box(self.rows, self.columns)
        else:
            self.box = whole(self.rows, self.columns)
        like = Tile(self.x, whole(*self.x.shape[1:3]), *self.x.shape[1:3])
        self.needed = window(like, self.box, kernel, stride, self.padding)

    def workspace(self, algorithm, operation, x):
        """Of just the right length, full of what must not get into a result."""
        rest = (self.box, self.stride, self.padding, (operation,))
        elements = self.tools.elements(algorithm, x, self.weights, *rest)
        guarded = np.full(elements + 99, np.nan, np.float32)
        guarded[elements:] = 7
        self.guard = guarded[elements:]
        return guarded[:elements]

    def only_box(self, array):
        """float64, zero outside the box."""
        kept = np.zeros(array.shape)
        kept[:, *self.box.slices()] = array[:, *self.box.slices()]
        return kept


ways = pytest.mark.parametrize(
    ("algorithm", "kernel", "stride"),
    [
        ("direct", (3, 3), 1),
        ("direct", (1, 1), 1),
        ("direct", (2, 5), 1),
        ("direct", (3, 2), 2),
        ("winograd2", (3, 3), 1),
        ("winograd4", (3, 3), 1),
        ("im2row", (3, 3), 1),
    ],
)


def activated(values, biases, kind):
    values = values + (0 if biases is None else biases)
    return {
        "linear": lambda v: v,
        "leaky": lambda v: np.where(v > 0, v, 0.1 * v),
        "relu": lambda v: np.maximum(v, 0),
        "logistic": lambda v: 1 / (1 + np.exp(-v)),
    }[kind](values)


def slope(y, kind):
    return {
        "linear": np.ones_like(y),
        "leaky": np.where(y > 0, 1, 0.1),
        "relu": np.where(y > 0, 1.0, 0),
        "logistic": y * (1 - y),
    }[kind]


@ways
@settings(deadline=None, max_examples=40)
@given(p=problems)
def test_forward(tools, algorithm, kernel, stride, p):
    case = Case(tools, p, kernel, stride)
    product = reference.conv2d(case.x, case.weights.astype(float), stride, case.padding)
    expected = activated(product, case.biases, case.activation)
    before = case.draw.array(*case.dy.shape)
    x, y = case.draw.tile(case.x, case.needed), case.draw.tile(before, case.box)
    conv.forward(
        x,
        case.weights,
        y,
        case.box,
        stride,
        case.padding,
        case.workspace(algorithm, "forward", x),
        biases=case.biases,
        activation=case.activation,
        algorithm=algorithm,
    )
    before[:, *case.box.slices()] = expected[:, *case.box.slices()]
    # A logistic output is small where what it is taken of, and its rounding, is large.
    largest = max(1.0, float(np.abs(product).max(initial=0)))
    tools.close(y.array, before[:, *y.box.slices()], "float32", largest)
    assert (case.guard == 7).all()


@ways
@settings(deadline=None, max_examples=40)
@given(p=problems)
def test_backward_input(tools, algorithm, kernel, stride, p):
    case = Case(tools, p, kernel, stride)
    outer = case.dy * slope(case.y.astype(float), case.activation)
    delta = case.only_box(outer)
    start = case.draw.array(*case.x.shape)
    expected = start + reference.conv2d_backward_input(
        delta, case.weights.astype(float), case.x.shape, stride, case.padding
    )
    dy, y = case.draw.tile(case.dy, case.box), case.draw.tile(case.y, case.box)
    dx = case.draw.tile(start, case.needed)
    sums = np.ones(case.dy.shape[3], np.float32) if p["biased"] else None
    conv.backward_input(
        dy,
        case.box,
        case.weights,
        dx,
        stride,
        case.padding,
        case.workspace(algorithm, "backward_input", dx),
        output=y,
        activation=case.activation,
        bias_gradient=sums,
        algorithm=algorithm,
    )
    kept = expected[:, *dx.box.slices()]
    tools.close(dx.array, kept, "float32")
    tools.close(dy.view(case.box), outer[:, *case.box.slices()], "float32")
    if sums is not None:
        tools.close(sums, 1 + delta.sum((0, 1, 2)), "float32")
    assert (case.guard == 7).all()


@ways
@settings(deadline=None, max_examples=40)
@given(p=problems)
def test_backward_weights(tools, algorithm, kernel, stride, p):
    case = Case(tools, p, kernel, stride)
    outer = case.dy * slope(case.y.astype(float), case.activation)
    delta = case.only_box(outer)
    dweights = case.draw.array(*case.weights.shape)
    expected = dweights + reference.conv2d_backward_weights(
        case.x.astype(float), delta, kernel, stride, case.padding
    )
    dy, y = case.draw.tile(case.dy, case.box), case.draw.tile(case.y, case.box)
    sums = np.ones(case.dy.shape[3], np.float32) if p["biased"] else None
    x = case.draw.tile(case.x, case.needed)
    conv.backward_weights(
        x,
        dy,
        case.box,
        dweights,
        stride,
        case.padding,
        case.workspace(algorithm, "backward_weights", x),
        output=y,
        activation=case.activation,
        bias_gradient=sums,
        algorithm=algorithm,
    )
    tools.close(dweights, expected, "float32")
    tools.close(dy.view(case.box), outer[:, *case.box.slices()], "float32")
    if sums is not None:
        tools.close(sums, 1 + delta.sum((0, 1, 2)), "float32")
    assert (case.guard == 7).all()


def whole_tile(array):
    return Tile(array, whole(*array.shape[1:3]), *array.shape[1:3])


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize(("algorithm", "bound"), [("winograd2", 4e-6), ("winograd4", 5e-5)])
def test_winograd_is_close_to_float64(tools, simd, algorithm, bound):
    _fast.select(simd)
    draw = tools.draw(1, "float32")
    x, dy = draw.array(1, 26, 27, 128), draw.array(1, 26, 27, 96)
    weights = draw.array(3, 3, 128, 96)
    y, dx, dweights = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weights)
    box = whole(26, 27)
    elements = tools.elements(algorithm, whole_tile(x), weights, box, 1, 1)
    rest = (1, 1, np.empty(elements, np.float32))
    conv.forward(whole_tile(x), weights, whole_tile(y), box, *rest, algorithm=algorithm)
    conv.backward_input(whole_tile(dy), box, weights, whole_tile(dx), *rest, algorithm=algorithm)
    conv.backward_weights(whole_tile(x), whole_tile(dy), box, dweights, *rest, algorithm=algorithm)
    weights, x, dy = weights.astype(float), x.astype(float), dy.astype(float)
    for result, exact in (
        (y, reference.conv2d(x, weights, 1, 1)),
        (dx, reference.conv2d_backward_input(dy, weights, x.shape, 1, 1)),
        (dweights, reference.conv2d_backward_weights(x, dy, (3, 3), 1, 1)),
    ):
        assert np.abs(result - exact).max() < bound * np.abs(exact).max()


@pytest.mark.parametrize("simd", SETS)
@pytest.mark.parametrize("size", [1, 3])
def test_direct_results_do_not_depend_on_the_tile(tools, simd, size):
    _fast.select(simd)
    draw, padding = tools.draw(2, "float32"), size // 2
    x, dy = draw.array(2, 23, 31, 21), draw.array(2, 23, 31, 37)
    weights = draw.array(size, size, 21, 37)
    elements = tools.elements("direct", whole_tile(x), weights, whole(23, 31), 1, padding)
    rest = (1, padding, np.empty(elements, np.float32))
    y, dx = np.zeros_like(dy), np.zeros_like(x)
    conv.forward(whole_tile(x), weights, whole_tile(y), whole(23, 31), *rest, algorithm="direct")
    conv.backward_input(
        whole_tile(dy), whole(23, 31), weights, whole_tile(dx), *rest, algorithm="direct"
    )
    for box in tools.cut(23, 31, 3, 4):
        needed = window(whole_tile(x), box, (size, size), 1, padding)
        part = draw.tile(np.zeros_like(y), box)
        conv.forward(draw.tile(x, needed), weights, part, box, *rest, algorithm="direct")
        assert (part.view(box) == y[:, *box.slices()]).all()
        # The deltas around a box are all that reach its cells.
        back = draw.tile(np.zeros_like(x), window(whole_tile(x), needed, (size, size), 1, padding))
        conv.backward_input(draw.tile(dy, needed), needed, weights, back, *rest, algorithm="direct")
        assert (back.view(box) == dx[:, *box.slices()]).all()


@ways
@settings(deadline=None, max_examples=25)
@given(p=problems)
def test_overwritten_is_added_to_zero(tools, algorithm, kernel, stride, p):
    case = Case(tools, p, kernel, stride)
    dy = case.draw.tile(case.dy, case.box)
    dx = case.draw.tile(case.x, case.needed)
    added = Tile(np.zeros_like(dx.array), dx.box, dx.height, dx.width)
    for target, accumulate in ((dx, False), (added, True)):
        conv.backward_input(
            dy,
            case.box,
            case.weights,
            target,
            stride,
            case.padding,
            case.workspace(algorithm, "backward_input", target),
            accumulate=accumulate,
            algorithm=algorithm,
        )
    assert (dx.array == added.array).all()
    x = case.draw.tile(case.x, case.needed)
    overwritten, summed = np.full_like(case.weights, np.nan), np.zeros_like(case.weights)
    for gradient, accumulate in ((overwritten, False), (summed, True)):
        conv.backward_weights(
            x,
            dy,
            case.box,
            gradient,
            stride,
            case.padding,
            case.workspace(algorithm, "backward_weights", x),
            accumulate=accumulate,
            algorithm=algorithm,
        )
    assert (overwritten == summed).all()


@pytest.mark.parametrize("algorithm", algorithms.ALGORITHMS)
def test_same_choice_gives_the_same_bits(tools, algorithm):
    draw = tools.draw(5, "float32")
    x, weights, dy = draw.array(2, 31, 29, 16), draw.array(3, 3, 16, 24), draw.array(2, 31, 29, 24)
    box = whole(31, 29)
    elements = tools.elements(algorithm, whole_tile(x), weights, box, 1, 1)

    def run():
        y, dx, dweights = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weights)
        rest = (1, 1, draw.array(elements))
        conv.forward(whole_tile(x), weights, whole_tile(y), box, *rest, algorithm=algorithm)
        conv.backward_input(
            whole_tile(dy), box, weights, whole_tile(dx), *rest, algorithm=algorithm
        )
        conv.backward_weights(
            whole_tile(x), whole_tile(dy), box, dweights, *rest, algorithm=algorithm
        )
        return y.tobytes() + dx.tobytes() + dweights.tobytes()

    assert run() == run()


@pytest.fixture
def chunk(request, monkeypatch):
    """How many filters a chunk has where there are 40 channels."""
    monkeypatch.setattr(algorithms, "CHUNK_LIMIT", 36 * 40 * request.param)
    algorithms.workspace_elements.cache_clear()
    yield
    algorithms.workspace_elements.cache_clear()


@pytest.mark.parametrize("chunk", [33, 256], indirect=True)
@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("images, rows, columns", [(1, 9, 10), (3, 29, 35), (3, 30, 32)])
def test_chunks_and_blocks_with_all_that_goes_before_and_after(tools, images, rows, columns):
    draw, box = tools.draw(6, "float32"), whole(rows, columns)
    x, weights = draw.array(images, rows, columns, 40), draw.array(3, 3, 40, 75)
    dy = draw.array(images, rows, columns, 75)
    elements = tools.elements("winograd4", whole_tile(x), weights, box, 1, 1)
    rest = (1, 1, np.empty(elements, np.float32))
    results = []
    for name in ("winograd4", "im2row"):
        y, dx, dweights = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weights)
        delta, sums = whole_tile(dy.copy()), np.zeros(75, np.float32)
        conv.forward(
            whole_tile(x),
            weights,
            whole_tile(y),
            box,
            *rest,
            biases=weights[0, 0, 0],
            activation="leaky",
            algorithm=name,
        )
        conv.backward_weights(
            whole_tile(x),
            delta,
            box,
            dweights,
            *rest,
            output=whole_tile(dy),
            activation="relu",
            bias_gradient=sums,
            algorithm=name,
        )
        conv.backward_input(delta, box, weights, whole_tile(dx), *rest, algorithm=name)
        results.append((y, dx, dweights, delta.array, sums))
    for result, expected in zip(*results, strict=True):
        tools.close(result, expected, "float32")


def test_derivative_needs_the_output(tools):
    draw = tools.draw(7, "float32")
    x, weights, dy = draw.array(1, 4, 4, 2), draw.array(1, 1, 2, 2), draw.array(1, 4, 4, 2)
    with pytest.raises(ValueError, match="derivative needs its output"):
        conv.backward_input(
            whole_tile(dy),
            whole(4, 4),
            weights,
            whole_tile(x),
            1,
            0,
            draw.array(100),
            activation="leaky",
        )
    with pytest.raises(ValueError, match="expected one of im2row, direct"):
        conv.forward(
            whole_tile(x),
            weights,
            whole_tile(dy),
            whole(4, 4),
            1,
            0,
            draw.array(100),
            algorithm="fft",
        )
