"""Convolution in groups, from two groups to one for each channel, in every instruction set."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simd_sets import instruction_sets

from mpitile.geometry.box import whole
from mpitile.kernels import _fast, conv, reference
from mpitile.kernels.checks import window
from mpitile.kernels.tile import Tile

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "dtype": st.sampled_from(["float32", "float64"]),
        "simd": st.sampled_from(instruction_sets()),
        "images": st.integers(1, 3),
        "height": st.integers(1, 11),
        "width": st.integers(1, 13),
        # Groups, and channels and filters of one group.
        "groups": st.tuples(st.integers(2, 4), st.integers(1, 5), st.integers(1, 5))
        | st.tuples(st.integers(2, 40), st.just(1), st.just(1)),
        "kernel": st.tuples(st.integers(1, 5), st.integers(1, 5)),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "grid": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "kind": st.sampled_from(["linear", "leaky", "logistic"]),
    }
)


class Case:
    """One problem with its whole tensors and its grid of output boxes."""

    def __init__(self, tools, p):
        _fast.select(p["simd"])
        self.draw = tools.draw(p["seed"], p["dtype"])
        self.groups, channels, filters = p["groups"]
        self.kernel = p["kernel"]
        self.place = p["stride"], p["padding"]
        rows = reference.conv_size(p["height"], self.kernel[0], *self.place)
        columns = reference.conv_size(p["width"], self.kernel[1], *self.place)
        assume(rows > 0 and columns > 0)
        shape = p["images"], p["height"], p["width"]
        self.x = self.draw.array(*shape, self.groups * channels)
        self.weights = self.draw.array(*self.kernel, channels, self.groups * filters)
        self.dy = self.draw.array(p["images"], rows, columns, self.groups * filters)
        self.boxes = tools.cut(rows, columns, *p["grid"])
        self.workspace = self.draw.array(self.weights[..., 0].size + 7)

    def needed(self, box):
        like = Tile(self.x, whole(*self.x.shape[1:3]), *self.x.shape[1:3])
        return window(like, box, self.kernel, *self.place)

    def exact(self, name):
        return getattr(self, name).astype(np.float64)


@settings(deadline=None, max_examples=120)
@given(p=problems)
def test_forward_tile_by_tile_is_the_whole(tools, p):
    case = Case(tools, p)
    biases = case.draw.array(case.weights.shape[3])
    product = reference.conv2d(case.exact("x"), case.exact("weights"), *case.place, case.groups)
    expected = reference.activation(product + biases, p["kind"])
    for box in case.boxes:
        before = case.draw.array(*case.dy.shape)
        y = case.draw.tile(before, box)
        x = case.draw.tile(case.x, case.needed(box))
        arguments = x, case.weights, y, box, *case.place, case.workspace
        conv.forward(*arguments, biases=biases, activation=p["kind"], groups=case.groups)
        cells = np.s_[:, *box.slices()]
        before[cells] = expected[cells]
        tools.close(y.array, before[:, *y.box.slices()], p["dtype"])


@settings(deadline=None, max_examples=120)
@given(p=problems)
def test_backward_input_tiles_add_up_to_the_whole(tools, p):
    case = Case(tools, p)
    y = case.draw.array(*case.dy.shape)
    kind = "linear" if p["kind"] == "linear" else "leaky"
    delta = case.dy * reference.activation_derivative(y, kind)
    expected = reference.conv2d_backward_input(
        delta, case.exact("weights"), case.x.shape, *case.place, case.groups
    )
    total, gradient = np.zeros(case.x.shape), np.zeros(y.shape[3])
    for number, box in enumerate(case.boxes):
        # Odd tiles overwrite what stands there, even ones add to it.
        start = np.nan if number % 2 else 0.5
        dx = case.draw.tile(np.full_like(case.x, start), case.needed(box))
        sums = np.zeros(y.shape[3], p["dtype"])
        conv.backward_input(
            case.draw.tile(case.dy, box),
            box,
            case.weights,
            dx,
            *case.place,
            case.workspace,
            output=case.draw.tile(y, box),
            activation=kind,
            bias_gradient=sums,
            accumulate=not number % 2,
            groups=case.groups,
        )
        total[:, *dx.box.slices()] += dx.array - (0 if number % 2 else start)
        gradient += sums
    tools.close(total, expected, p["dtype"])
    tools.close(gradient, delta.sum(axis=(0, 1, 2)), p["dtype"])


@settings(deadline=None, max_examples=120)
@given(p=problems)
def test_backward_weights_tiles_add_up_to_the_whole(tools, p):
    case = Case(tools, p)
    start = case.draw.array(*case.weights.shape)
    expected = reference.conv2d_backward_weights(
        case.exact("x"), case.exact("dy"), case.kernel, *case.place, case.groups
    )
    added, overwritten = start.copy(), np.full_like(start, np.nan)
    for number, box in enumerate(case.boxes):
        arguments = case.draw.tile(case.x, case.needed(box)), case.draw.tile(case.dy, box), box
        rest = *case.place, case.workspace
        conv.backward_weights(*arguments, added, *rest, groups=case.groups)
        conv.backward_weights(
            *arguments, overwritten, *rest, accumulate=bool(number), groups=case.groups
        )
    tools.close(added, start + expected, p["dtype"])
    tools.close(overwritten, expected, p["dtype"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_depthwise_does_not_depend_on_the_tile(tools, dtype):
    """To the last bit, as an exact kernel."""
    draw = tools.draw(3, dtype)
    x, weights = draw.array(1, 12, 17, 37), draw.array(3, 3, 1, 37)
    whole_y = Tile(np.empty((1, 12, 17, 37), dtype), whole(12, 17), 12, 17)
    workspace = np.empty(9, dtype)
    tile = Tile(x, whole(12, 17), 12, 17)
    conv.forward(tile, weights, whole_y, whole_y.box, 1, 1, workspace, groups=37)
    for box in tools.cut(12, 17, 3, 4):
        y = draw.tile(np.zeros_like(x), box)
        conv.forward(tile, weights, y, box, 1, 1, workspace, groups=37)
        np.testing.assert_array_equal(y.view(box), whole_y.view(box))


def test_the_workspace_of_groups_is_small():
    def wanted(groups, channels, filters):
        kernel = (3, 3, channels // groups, filters)
        box = whole(13, 13)
        return conv.workspace_size(
            conv.Call("forward", kernel, 1, 1, groups, 4, box, box), ("winograd4",)
        )

    assert wanted(512, 512, 512) == 9
    assert wanted(2, 128, 128) < wanted(1, 128, 128)


def test_wrong_groups_are_named():
    x = Tile(np.zeros((1, 4, 4, 6), np.float32), whole(4, 4), 4, 4)
    weights, workspace = np.zeros((1, 1, 3, 6), np.float32), np.zeros(9, np.float32)
    with pytest.raises(ValueError, match="expected 9 channels, got 6"):
        conv.forward(x, weights, x, x.box, 1, 0, workspace, groups=3)
    with pytest.raises(ValueError, match="expected filters that groups divide, got 6 and 4"):
        conv.forward(x, weights, x, x.box, 1, 0, workspace, groups=4)
