import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import Box, whole
from mpitile.kernels import activation, reference
from mpitile.kernels.tile import Tile
from mpitile.network.spec import ACTIVATIONS, OUTPUT_HIDES

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "dtype": st.sampled_from(["float32", "float64"]),
        "images": st.integers(0, 3),
        "height": st.integers(1, 8),
        "width": st.integers(1, 8),
        "channels": st.integers(1, 19),
        "kind": st.sampled_from(ACTIVATIONS),
        "biased": st.booleans(),
    }
)


@settings(deadline=None, max_examples=80)
@given(p=problems)
def test_a_box_of_a_tile_alone_is_activated(tools, p):
    draw = tools.draw(p["seed"], p["dtype"])
    y = draw.array(p["images"], p["height"], p["width"], p["channels"])
    biases = draw.array(p["channels"]) if p["biased"] else None
    box = draw.box(p["height"], p["width"])
    tile, expected = draw.tile(y, box), y.astype(np.float64)
    activation.forward(tile, box, biases, p["kind"])
    cells = expected[:, *box.slices()] + (0 if biases is None else biases.astype(np.float64))
    expected[:, *box.slices()] = reference.activation(cells, p["kind"])
    tools.close(tile.array, expected[:, *tile.box.slices()], p["dtype"])


@settings(deadline=None, max_examples=80)
@given(p=problems)
def test_gradients_of_a_box(tools, p):
    draw = tools.draw(p["seed"], p["dtype"])
    shape = (p["images"], p["height"], p["width"], p["channels"])
    y, dy = draw.array(*shape), draw.array(*shape)
    y[draw.random.random(shape) < 0.2] = 0
    box = draw.box(p["height"], p["width"])
    tile, expected = draw.tile(dy, box), dy.astype(np.float64)
    if p["kind"] in OUTPUT_HIDES:
        activation.backward_before(tile, draw.tile(y, box), box, p["kind"])
        derivative = reference.mish_derivative(y)
    else:
        activation.backward(tile, draw.tile(y, box), box, p["kind"])
        derivative = reference.activation_derivative(y, p["kind"])
    expected[:, *box.slices()] *= derivative[:, *box.slices()]
    tools.close(tile.array, expected[:, *tile.box.slices()], p["dtype"])
    out = draw.array(p["channels"])
    sums = out + expected[:, *box.slices()].sum(axis=(0, 1, 2))
    activation.bias_gradient(tile, box, out)
    tools.close(out, sums, p["dtype"])


def test_bias_gradient_is_summed_in_float64():
    dy = Tile(np.full((1, 1024, 1024, 1), 0.1, np.float32), whole(1024, 1024), 1024, 1024)
    out = np.zeros(1)
    activation.bias_gradient(dy, whole(1024, 1024), out)
    assert out[0] == pytest.approx(np.float64(np.float32(0.1)) * 2**20, rel=1e-12)


def test_logistic_of_large_values_is_finite():
    y = Tile(np.array([-1e4, 1e4], np.float32).reshape(1, 1, 2, 1), whole(1, 2), 1, 2)
    activation.forward(y, whole(1, 2), None, "logistic")
    assert y.array.ravel().tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mish_holds_its_digits_everywhere(dtype):
    x = np.array([-1e4, -90, -20, -1e-9, 0, 1e-9, 0.5, 19.999, 20, 20.001, 1e4], dtype)
    place = whole(1, len(x)), 1, len(x)
    y, dy = (Tile(array.reshape(1, 1, -1, 1), *place) for array in (x.copy(), np.ones_like(x)))
    activation.forward(y, y.box, None, "mish")
    activation.backward_before(dy, Tile(x.reshape(1, 1, -1, 1), *place), y.box, "mish")
    rounding = {"rtol": 8 * np.finfo(dtype).eps, "atol": np.finfo(dtype).tiny}
    np.testing.assert_allclose(y.array.ravel(), reference.activation(x, "mish"), **rounding)
    # The reference's own difference 1 - tanh**2 cancels.
    rounding["atol"] = 20 * np.finfo(dtype).eps
    np.testing.assert_allclose(dy.array.ravel(), reference.mish_derivative(x), **rounding)


def test_mish_of_what_was_normalised(tools):
    draw = tools.draw(1, "float64")
    x, dy = draw.array(2, 3, 4, 5), draw.array(2, 3, 4, 5)
    mean, factor, biases = (draw.array(5) for _ in range(3))
    tile = Tile(dy.copy(), whole(3, 4), 3, 4)
    source = Tile(x, whole(3, 4), 3, 4)
    activation.backward_before(tile, source, tile.box, "mish", mean, factor, biases)
    expected = dy * reference.mish_derivative((x - mean) * factor + biases)
    tools.close(tile.array, expected, "float64")


def test_wrong_arguments_are_named():
    y = Tile(np.zeros((1, 2, 2, 3), np.float32), whole(2, 2), 2, 2)
    with pytest.raises(ValueError, match="got 'swish'"):
        activation.forward(y, whole(2, 2), None, "swish")
    with pytest.raises(ValueError, match="output of mish does not tell"):
        activation.backward(y, y, whole(2, 2), "mish")
    with pytest.raises(ValueError, match="derivative of leaky is taken from its output"):
        activation.backward_before(y, y, whole(2, 2), "leaky")
    with pytest.raises(ValueError, match=r"biases: expected \(3,\) float32, got \(3,\) float64"):
        activation.forward(y, whole(2, 2), np.zeros(3), "leaky")
    with pytest.raises(ValueError, match="expected a tile that holds"):
        activation.bias_gradient(y, Box(0, 3, 0, 2), np.zeros(3))
    with pytest.raises(ValueError, match=r"expected shape \(3,\), got \(4,\)"):
        activation.bias_gradient(y, whole(2, 2), np.zeros(4))
