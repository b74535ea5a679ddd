"""Losses of classifiers against PyTorch and finite differences."""

import numpy as np
import pytest

from mpitile.errors import InputError
from mpitile.geometry.box import EMPTY, Box, whole
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Site, Step
from mpitile.layers.classification import SoftmaxCrossEntropy, SquaredError, SumOfSquares
from mpitile.network import spec
from mpitile.network.shapes import infer

IMAGES, CLASSES = 4, 6
LABELS = np.array([0, 5, 2, 2])
MAKE = {
    "softmax": (spec.Softmax(), SoftmaxCrossEntropy),
    "cost": (spec.Cost(), lambda site: SquaredError(site, False)),
}


def scores(seed=0):
    return np.random.default_rng(seed).normal(0, 2, (IMAGES, 1, 1, CLASSES))


def run(kind, values, labels=LABELS, start=0.0, owned=None, training=True, wanted=True):
    """Loss, output and input gradient."""
    operation, make = MAKE[kind]
    box = whole(1, 1) if owned is None else owned
    shape = (len(values), box.height, box.width, CLASSES)
    dtype = values.dtype

    def tile(array):
        return Tile(array, box, 1, 1)

    inputs = tile(values[:, : box.height, : box.width].copy())
    output, delta = tile(np.full(shape, np.nan, dtype)), tile(np.full(shape, start, dtype))
    options = spec.NetOptions(1, 1, CLASSES)
    layer = infer(options, [(3, operation)], "small").layers[0]
    work = make(Site(layer, box, box, (inputs,), (delta if wanted else None,), output, None))
    step = Step(training=training, reduce=None, images=len(values), truths=labels)
    work.forward(step)
    if training:
        work.backward_input(step)
    return work.loss, output.array, delta.array


@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist()])
def test_softmax_is_pytorchs_cross_entropy(labels):
    torch = pytest.importorskip("torch")
    raw = torch.tensor(scores()[:, 0, 0], requires_grad=True)
    entropy = torch.nn.functional.cross_entropy(raw, torch.tensor(LABELS), reduction="sum")
    entropy.backward()
    loss, output, delta = run("softmax", scores(), labels)
    assert loss == pytest.approx(entropy.item(), rel=1e-13)
    np.testing.assert_allclose(output[:, 0, 0], torch.softmax(raw, 1).detach(), rtol=1e-13)
    np.testing.assert_allclose(delta[:, 0, 0], raw.grad, rtol=1e-12, atol=1e-15)


def slopes(kind, values):
    """The loss's derivatives by central differences."""
    result = np.zeros_like(values)
    for place in np.ndindex(values.shape):
        step = np.zeros_like(values)
        step[place] = 1e-5
        result[place] = (run(kind, values + step)[0] - run(kind, values - step)[0]) / 2e-5
    return result


def test_softmax_gradient_by_differences():
    np.testing.assert_allclose(run("softmax", scores())[2], slopes("softmax", scores()), atol=1e-8)


def test_cost_gradient_is_half_that_of_its_loss():
    # Darknet reports the sum of squares and goes on with the plain difference.
    loss, output, delta = run("cost", scores())
    np.testing.assert_allclose(delta, slopes("cost", scores()) / 2, atol=1e-8)
    np.testing.assert_array_equal(output, scores())
    truth = np.eye(CLASSES)[LABELS].reshape(scores().shape)
    np.testing.assert_allclose(delta, scores() - truth, rtol=1e-14)
    assert loss == pytest.approx(((scores() - truth) ** 2).sum(), rel=1e-14)


@pytest.mark.parametrize("kind", MAKE)
def test_losses_are_sums_over_images(kind):
    loss, _, delta = run(kind, scores())
    parts = [run(kind, scores()[n : n + 1], LABELS[n : n + 1]) for n in range(IMAGES)]
    assert loss == pytest.approx(sum(part[0] for part in parts), rel=1e-14)
    np.testing.assert_allclose(delta, np.concatenate([part[2] for part in parts]), rtol=1e-14)


@pytest.mark.parametrize("kind", MAKE)
def test_gradients_are_added(kind):
    np.testing.assert_allclose(
        run(kind, scores(), start=0.5)[2], run(kind, scores())[2] + 0.5, rtol=1e-14
    )


@pytest.mark.parametrize("kind", MAKE)
def test_a_tile_without_cells_has_no_part(kind):
    loss, output, delta = run(kind, scores(), owned=EMPTY)
    assert loss == 0 and output.size == delta.size == 0


@pytest.mark.parametrize("kind", MAKE)
def test_nobody_may_want_the_gradient(kind):
    assert run(kind, scores(), wanted=False)[0] == run(kind, scores())[0]


@pytest.mark.parametrize("kind", MAKE)
def test_inference_needs_no_labels(kind):
    loss, output, _ = run(kind, scores(), labels=(), training=False)
    assert loss == 0
    np.testing.assert_array_equal(output, run(kind, scores())[1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_scores_do_not_overflow(dtype):
    values = np.zeros((1, 1, 1, CLASSES), dtype)
    values[..., 1], values[..., 2] = 5000, 4990
    loss, output, delta = run("softmax", values, [2])
    assert loss == pytest.approx(10 + np.log1p(np.exp(-10)), rel=1e-6)
    assert output.sum() == pytest.approx(1) and np.isfinite(delta).all()
    assert run("softmax", values, [0])[0] == pytest.approx(5000, rel=1e-6)


@pytest.mark.parametrize("kind", MAKE)
def test_float32_is_near(kind):
    small, exact = run(kind, scores().astype(np.float32)), run(kind, scores())
    assert small[0] == pytest.approx(exact[0], rel=1e-6)
    assert small[2].dtype == np.float32
    np.testing.assert_allclose(small[2], exact[2], atol=1e-6)


def test_cost_behind_softmax_adds_nothing():
    options = spec.NetOptions(1, 1, CLASSES)
    operations = [(1, spec.Softmax()), (2, spec.Cost())]
    layer = infer(options, operations, "small").layers[1]
    box = whole(1, 1)
    inputs, output, delta = (Tile(scores(k), box, 1, 1) for k in range(3))
    work = SquaredError(Site(layer, box, box, (inputs,), (delta,), output, None), True)
    step = Step(training=True, reduce=None, images=IMAGES, truths=LABELS)
    work.forward(step)
    work.backward_input(step)
    assert work.loss == 0
    np.testing.assert_array_equal(output.array, scores(0))
    np.testing.assert_array_equal(delta.array, scores(2))


def test_cost_wants_a_single_cell():
    layer = infer(spec.NetOptions(2, 3, CLASSES), [(7, spec.Cost())], "small").layers[0]
    tile = Tile(np.zeros((1, 2, 3, CLASSES)), whole(2, 3), 2, 3)
    site = Site(layer, tile.box, tile.box, (tile,), (None,), tile, None)
    with pytest.raises(InputError, match=r"line 7.*1x1.*2x3x6"):
        SquaredError(site, False)


def test_sum_of_squares_is_of_owned_cells_alone():
    random = np.random.default_rng(1)
    box, owned = whole(4, 5), Box(1, 3, 2, 5)
    output = Tile(random.normal(size=(2, 4, 5, 3)), box, 4, 5)
    delta = Tile(np.full((2, 4, 5, 3), 0.25), box, 4, 5)
    layer = infer(spec.NetOptions(4, 5, 3), [(0, spec.Dropout(0.5))], "small").layers[0]
    work = SumOfSquares(Site(layer, box, owned, (output,), (None,), output, delta))
    step = Step(training=True, reduce=None, images=2)
    work.forward(step)
    work.backward_input(step)
    values = output.array[:, 1:3, 2:5]
    assert work.loss == pytest.approx((values**2).sum(), rel=1e-14)
    expected = np.full((2, 4, 5, 3), 0.25)
    expected[:, 1:3, 2:5] += 2 * values
    np.testing.assert_allclose(delta.array, expected, rtol=1e-14)
