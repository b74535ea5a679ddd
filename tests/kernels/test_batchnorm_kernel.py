import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import Box, whole
from mpitile.kernels import batchnorm, reference
from mpitile.kernels.tile import Tile

EPSILON = 1e-5

problems = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "dtype": st.sampled_from(["float32", "float64"]),
        "images": st.integers(1, 3),
        "height": st.integers(2, 9),
        "width": st.integers(2, 9),
        "channels": st.integers(1, 10),
        "grid": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    }
)


class Case:
    """A whole tensor, its reference results, and its cut into boxes."""

    def __init__(self, tools, p):
        self.draw = tools.draw(p["seed"], p["dtype"])
        self.x = self.draw.array(p["images"], p["height"], p["width"], p["channels"]) * 2 + 1
        self.dy = self.draw.array(*self.x.shape)
        self.scales, self.biases = self.draw.array(p["channels"]), self.draw.array(p["channels"])
        self.y, self.mean, self.inverse = reference.batch_norm(
            self.x, self.scales, self.biases, EPSILON
        )
        self.boxes = tools.cut(p["height"], p["width"], *p["grid"])
        self.cells = self.x.size // p["channels"]


@settings(deadline=None, max_examples=60)
@given(p=problems)
def test_forward_tile_by_tile_is_the_whole(tools, p):
    case = Case(tools, p)
    sums, squares = np.zeros((2, p["channels"]))
    for box in case.boxes:
        batchnorm.sums(case.draw.tile(case.x, box), box, sums)
        batchnorm.squares(case.draw.tile(case.x, box), box, case.mean, squares)
    tools.close(sums / case.cells, case.mean, "float64")
    tools.close(squares / case.cells, case.x.astype(np.float64).var(axis=(0, 1, 2)), "float64")
    for box in case.boxes:
        before = case.draw.array(*case.x.shape)
        y = case.draw.tile(before, box)
        batchnorm.normalize(
            case.draw.tile(case.x, box), y, box, case.mean, case.inverse, case.scales, case.biases
        )
        before[:, *box.slices()] = case.y[:, *box.slices()]
        tools.close(y.array, before[:, *y.box.slices()], p["dtype"])


@settings(deadline=None, max_examples=60)
@given(p=problems)
def test_backward_tile_by_tile_is_the_whole(tools, p):
    case = Case(tools, p)
    dx, dscales, dbiases = reference.batch_norm_backward(
        case.dy.astype(np.float64), case.x, case.scales, case.mean, case.inverse
    )
    sums = np.zeros((2, p["channels"]))
    for box in case.boxes:
        batchnorm.backward_sums(
            case.draw.tile(case.dy, box),
            case.draw.tile(case.x, box),
            box,
            case.mean,
            case.inverse,
            sums,
        )
    tools.close(sums, np.stack([dbiases, dscales]), "float64")
    for owned in case.boxes:
        dy = case.draw.tile(case.dy, owned)
        box = dy.box
        x = case.draw.tile(case.x, box)
        batchnorm.backward(
            dy, x, box, owned, case.mean, case.inverse, case.scales, *(sums / case.cells)
        )
        expected = case.scales * case.inverse * case.dy.astype(np.float64)
        expected[:, *owned.slices()] = dx[:, *owned.slices()]
        tools.close(dy.array, expected[:, *box.slices()], p["dtype"])


def test_normalize_in_place_and_box_bounds(tools):
    draw = tools.draw(1, "float32")
    x = draw.array(2, 3, 4, 5)
    y, mean, inverse = reference.batch_norm(x, np.ones(5), np.zeros(5), EPSILON)
    tile = Tile(x.copy(), whole(3, 4), 3, 4)
    ones, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    batchnorm.normalize(tile, tile, whole(3, 4), mean, inverse, ones, zeros)
    tools.close(tile.array, y, "float32")
    with pytest.raises(ValueError, match="expected a tile that holds"):
        batchnorm.sums(tile, Box(0, 4, 0, 4), np.zeros(5))
    with pytest.raises(ValueError, match=r"mean: expected \(5,\) float64, got \(5,\) float32"):
        batchnorm.normalize(tile, tile, whole(3, 4), zeros, inverse, ones, zeros)


def test_reference_agrees_with_torch(tools):
    torch = pytest.importorskip("torch")
    draw = tools.draw(2, "float64")
    x, dy, scales, biases = (draw.array(*s) for s in [(3, 5, 4, 6)] * 2 + [(6,)] * 2)
    y, mean, inverse = reference.batch_norm(x, scales, biases, EPSILON)
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    ts, tb = (torch.tensor(a, requires_grad=True) for a in (scales, biases))
    ty = torch.nn.functional.batch_norm(tx, None, None, ts, tb, training=True, eps=EPSILON)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    dx, dscales, dbiases = reference.batch_norm_backward(dy, x, scales, mean, inverse)
    tools.close(y, ty.detach().numpy().transpose(0, 2, 3, 1), "float64")
    tools.close(dx, tx.grad.numpy().transpose(0, 2, 3, 1), "float64")
    tools.close(dscales, ts.grad.numpy(), "float64")
    tools.close(dbiases, tb.grad.numpy(), "float64")
