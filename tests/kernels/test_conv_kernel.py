import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import Box, whole
from mpitile.kernels import conv, reference
from mpitile.kernels.checks import window
from mpitile.kernels.tile import Tile

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "dtype": st.sampled_from(["float32", "float64"]),
        "images": st.integers(1, 3),
        "height": st.integers(1, 11),
        "width": st.integers(1, 11),
        "channels": st.integers(1, 5),
        "filters": st.integers(1, 6),
        "kernel_height": st.integers(1, 5),
        "kernel_width": st.integers(1, 5),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 3),
        "grid": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "patches": st.integers(1, 40),
    }
)


class Case:
    """One problem with its whole tensors and its grid of output boxes."""

    def __init__(self, tools, p):
        self.draw = tools.draw(p["seed"], p["dtype"])
        self.stride, self.padding = p["stride"], p["padding"]
        self.kernel = (p["kernel_height"], p["kernel_width"])
        self.rows = reference.conv_size(p["height"], self.kernel[0], self.stride, self.padding)
        self.columns = reference.conv_size(p["width"], self.kernel[1], self.stride, self.padding)
        assume(self.rows > 0 and self.columns > 0)
        self.x = self.draw.array(p["images"], p["height"], p["width"], p["channels"])
        self.weights = self.draw.array(*self.kernel, p["channels"], p["filters"])
        self.y_shape = (p["images"], self.rows, self.columns, p["filters"])
        self.boxes = tools.cut(self.rows, self.columns, *p["grid"])
        patch = self.kernel[0] * self.kernel[1] * p["channels"]
        self.workspace = self.draw.array(patch * p["patches"] + p["patches"] // 3)

    def needed(self, box):
        like = Tile(self.x, whole(*self.x.shape[1:3]), *self.x.shape[1:3])
        return window(like, box, self.kernel, self.stride, self.padding)


@settings(deadline=None, max_examples=120)
@given(p=problems)
def test_forward_tile_by_tile_is_the_whole(tools, p):
    case = Case(tools, p)
    expected = reference.conv2d(
        case.x.astype(np.float64), case.weights.astype(np.float64), case.stride, case.padding
    )
    for box in case.boxes:
        before = case.draw.array(*case.y_shape)
        y = case.draw.tile(before, box)
        x = case.draw.tile(case.x, case.needed(box))
        conv.forward(x, case.weights, y, box, case.stride, case.padding, case.workspace)
        rows, columns = box.slices()
        before[:, rows, columns] = expected[:, rows, columns]
        tools.close(y.array, before[:, *y.box.slices()], p["dtype"])


@settings(deadline=None, max_examples=120)
@given(p=problems)
def test_backward_input_tiles_add_up_to_the_whole(tools, p):
    case = Case(tools, p)
    dy = case.draw.array(*case.y_shape)
    start = case.draw.array(*case.x.shape)
    expected = start + reference.conv2d_backward_input(
        dy.astype(np.float64),
        case.weights.astype(np.float64),
        case.x.shape,
        case.stride,
        case.padding,
    )
    total = start.astype(np.float64)
    for box in case.boxes:
        dx = case.draw.tile(np.zeros_like(start), case.needed(box))
        conv.backward_input(
            case.draw.tile(dy, box),
            box,
            case.weights,
            dx,
            case.stride,
            case.padding,
            case.workspace,
        )
        total[:, *dx.box.slices()] += dx.array
    tools.close(total, expected, p["dtype"])


@settings(deadline=None, max_examples=120)
@given(p=problems)
def test_backward_weights_tiles_add_up_to_the_whole(tools, p):
    case = Case(tools, p)
    dy = case.draw.array(*case.y_shape)
    dweights = case.draw.array(*case.weights.shape)
    expected = dweights + reference.conv2d_backward_weights(
        case.x.astype(np.float64), dy.astype(np.float64), case.kernel, case.stride, case.padding
    )
    for box in case.boxes:
        conv.backward_weights(
            case.draw.tile(case.x, case.needed(box)),
            case.draw.tile(dy, box),
            box,
            dweights,
            case.stride,
            case.padding,
            case.workspace,
        )
    tools.close(dweights, expected, p["dtype"])


def whole_tile(array):
    return Tile(array, whole(*array.shape[1:3]), *array.shape[1:3])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("images", [1, 4])
def test_kernel_of_the_whole_tensor_is_a_connected_layer(tools, dtype, images):
    draw = tools.draw(3, dtype)
    x, weights = draw.array(images, 5, 7, 3), draw.array(5, 7, 3, 11)
    y, dx, dweights = draw.array(images, 1, 1, 11), np.zeros_like(x), np.zeros_like(weights)
    workspace, box = draw.array(5 * 7 * 3), Box(0, 1, 0, 1)
    matrix = weights.reshape(-1, 11)
    conv.forward(whole_tile(x), weights, whole_tile(y), box, 1, 0, workspace)
    tools.close(y[:, 0, 0], x.reshape(images, -1) @ matrix, dtype)
    conv.backward_input(whole_tile(y), box, weights, whole_tile(dx), 1, 0, workspace)
    tools.close(dx.reshape(images, -1), y[:, 0, 0] @ matrix.T, dtype)
    conv.backward_weights(whole_tile(x), whole_tile(y), box, dweights, 1, 0, workspace)
    tools.close(dweights.reshape(-1, 11), x.reshape(images, -1).T @ y[:, 0, 0], dtype)


def test_workspace_is_bounded_and_only_its_own_cells_are_touched(tools):
    draw = tools.draw(4, "float32")
    x, weights = draw.array(1, 20, 300, 8), draw.array(3, 3, 8, 4)
    results = []
    wanted = tools.elements("direct", whole_tile(x), weights, whole(20, 300), 1, 1)
    for elements in (72, 100, 72 * 300, wanted):
        guarded = np.full(elements + 64, 7, np.float32)
        y = np.zeros((1, 20, 300, 4), np.float32)
        conv.forward(
            whole_tile(x), weights, whole_tile(y), whole(20, 300), 1, 1, guarded[:elements]
        )
        assert (guarded[elements:] == 7).all()
        results.append(y)
    for y in results[1:]:
        tools.close(y, results[0], "float32")


def test_same_call_gives_the_same_bits(tools):
    draw = tools.draw(5, "float32")
    x, weights, dy = draw.array(2, 31, 29, 16), draw.array(3, 3, 16, 24), draw.array(2, 31, 29, 24)
    workspace, box = draw.array(9000), whole(31, 29)

    def run():
        y, dx, dweights = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weights)
        conv.forward(whole_tile(x), weights, whole_tile(y), box, 1, 1, workspace)
        conv.backward_input(whole_tile(dy), box, weights, whole_tile(dx), 1, 1, workspace)
        conv.backward_weights(whole_tile(x), whole_tile(dy), box, dweights, 1, 1, workspace)
        return y.tobytes() + dx.tobytes() + dweights.tobytes()

    assert run() == run()


def test_nothing_to_do_changes_nothing(tools):
    draw = tools.draw(6, "float32")
    weights, workspace = draw.array(3, 3, 2, 2), draw.array(18)
    x, y = draw.array(1, 4, 4, 2), draw.array(1, 4, 4, 2)
    kept = y.copy()
    conv.forward(whole_tile(x), weights, whole_tile(y), Box(2, 2, 0, 4), 1, 1, workspace)
    assert (y == kept).all()
    none = whole_tile(np.zeros((0, 4, 4, 2), np.float32))
    dweights = np.zeros_like(weights)
    conv.forward(none, weights, none, whole(4, 4), 1, 1, workspace)
    conv.backward_input(none, whole(4, 4), weights, none, 1, 1, workspace)
    conv.backward_weights(none, none, whole(4, 4), dweights, 1, 1, workspace)
    assert not dweights.any()


def test_wrong_arguments_are_named(tools):
    draw = tools.draw(7, "float32")
    weights, workspace = draw.array(3, 3, 2, 2), draw.array(18)
    x, y = whole_tile(draw.array(1, 6, 6, 2)), whole_tile(draw.array(1, 6, 6, 2))
    box = whole(6, 6)

    def forward(x=x, weights=weights, y=y, box=box, workspace=workspace):
        conv.forward(x, weights, y, box, 1, 1, workspace)

    part = Tile(draw.array(1, 4, 6, 2), Box(1, 5, 0, 6), 6, 6)
    with pytest.raises(ValueError, match="conv input: expected a tile that holds"):
        forward(x=part)
    with pytest.raises(ValueError, match="conv output: expected a tile that holds"):
        forward(y=part)
    with pytest.raises(ValueError, match=r"conv weights: expected .*float32, got .*float64"):
        forward(weights=weights.astype(np.float64))
    with pytest.raises(ValueError, match="C-contiguous"):
        forward(weights=weights.transpose(1, 0, 2, 3))
    with pytest.raises(ValueError, match=r"conv workspace: expected \(18,\)"):
        forward(workspace=workspace[:17])
    with pytest.raises(ValueError, match="conv input: expected 3 channels, got 2"):
        forward(weights=draw.array(3, 3, 3, 2))


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (2, 2, 0), (5, 3, 2)])
def test_reference_agrees_with_torch(tools, size, stride, padding):
    torch = pytest.importorskip("torch")
    draw = tools.draw(8, "float64")
    x, weights = draw.array(2, 11, 9, 3), draw.array(size, size, 3, 4)
    y = reference.conv2d(x, weights, stride, padding)
    dy = draw.array(*y.shape)
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    tw = torch.tensor(weights.transpose(3, 2, 0, 1), requires_grad=True)
    ty = torch.nn.functional.conv2d(tx, tw, stride=stride, padding=padding)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    tools.close(y, ty.detach().numpy().transpose(0, 2, 3, 1), "float64")
    dx = reference.conv2d_backward_input(dy, weights, x.shape, stride, padding)
    tools.close(dx, tx.grad.numpy().transpose(0, 2, 3, 1), "float64")
    dweights = reference.conv2d_backward_weights(x, dy, (size, size), stride, padding)
    tools.close(dweights, tw.grad.numpy().transpose(2, 3, 1, 0), "float64")
