"""The yolo loss against a transcription of Darknet's, whole and in tiles."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from yolo_oracle import yolo_oracle

from mpitile.geometry.box import EMPTY, Box, whole
from mpitile.geometry.tiling import cut_lines
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Site, Step
from mpitile.layers.yolo import YoloLoss
from mpitile.network import spec
from mpitile.network.kept import GRADIENT
from mpitile.network.shapes import infer

IMAGE = spec.Shape(96, 128, 3)


def layer_of(yolo, height, width):
    """A yolo layer that reads the image."""
    options = spec.NetOptions(height, width, len(yolo.mask) * (5 + yolo.classes))
    return infer(options, [(0, yolo)], "yolo").layers[0]


def run_part(yolo, raw, truths, owned, dtype=np.float64, start=0.0, training=True):
    """Loss, input gradient and output of the cells that one tile owns, all that it holds."""
    height, width = raw.shape[1:3]

    def tile(array):
        return Tile(np.ascontiguousarray(array, dtype), owned, height, width)

    part = raw[:, *owned.slices()]
    inputs, delta, output = tile(part), tile(np.full_like(part, start)), tile(np.zeros_like(part))
    site = Site(
        layer=layer_of(yolo, height, width),
        box=owned,
        owned=owned,
        inputs=(inputs,),
        input_deltas=(delta,),
        output=output,
        output_delta=None,
        kept={GRADIENT: np.empty_like(output.array)},
    )
    work = YoloLoss(site, IMAGE)
    step = Step(training=training, reduce=None, images=len(raw), truths=truths)
    work.forward(step)
    if training:
        work.backward_input(step)
    np.testing.assert_array_equal(output.array, inputs.array)
    return work.loss, delta.array


def run(yolo, raw, truths, cuts=(1, 1), dtype=np.float64):
    """The sum of all tiles' losses, and their gradients put together."""
    height, width = raw.shape[1:3]
    rows, columns = cut_lines(height, [1] * cuts[0]), cut_lines(width, [1] * cuts[1])
    loss, gradient = 0.0, np.full(raw.shape, np.nan)
    for y0, y1 in itertools.pairwise(rows):
        for x0, x1 in itertools.pairwise(columns):
            box = Box(y0, y1, x0, x1)
            part, delta = run_part(yolo, raw, truths, EMPTY if box.empty else box, dtype)
            loss += part
            if not box.empty:
                gradient[:, y0:y1, x0:x1] = delta
    return loss, gradient


def expected(yolo, raw, truths):
    names = ("anchors", "mask", "classes", "ignore_thresh", "truth_thresh", "scale_x_y")
    options = {name: getattr(yolo, name) for name in names}
    limited = [rows[: yolo.max_boxes or None] for rows in truths]
    return yolo_oracle(raw, limited, (IMAGE.height, IMAGE.width), **options)


def agree(found, wanted, tolerance):
    (loss, gradient), (cost, slope) = found, wanted
    assert loss == pytest.approx(cost, rel=tolerance)
    scale = np.abs(slope).max()
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=tolerance * scale)


@st.composite
def cases(draw):
    """A yolo layer, raw inputs and truths, some of them in one cell and of one shape."""
    size = st.floats(4, 90)
    anchors = draw(st.lists(st.tuples(size, size), min_size=1, max_size=5))
    mask = draw(st.lists(st.integers(0, len(anchors) - 1), min_size=1, max_size=3, unique=True))
    yolo = spec.Yolo(
        tuple(anchors),
        tuple(mask),
        draw(st.integers(1, 4)),
        ignore_thresh=draw(st.floats(0.05, 0.95)),
        truth_thresh=draw(st.sampled_from([1.0, 0.7, 0.3, 0.1])),
        scale_x_y=draw(st.sampled_from([1.0, 1.05, 2.0])),
        max_boxes=draw(st.sampled_from([0, 0, 1, 3])),
    )
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    images = draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = len(mask) * (5 + yolo.classes)
    raw = random.normal(0, draw(st.sampled_from([0.3, 1, 2])), (images, height, width, channels))
    truths = []
    for _ in range(images):
        count = draw(st.integers(0, 6))
        places = random.uniform(0.001, 0.999, (count, 2))
        sizes = random.uniform(0.02, 1.2, (count, 2))
        if count > 1 and draw(st.booleans()):
            # A box learns two truths: the later one's place, and the classes of both.
            places[-1] = places[0]
            sizes[-1] = sizes[0] * random.choice([1, 1.01])
        classes = random.integers(yolo.classes, size=count)
        truths.append(np.column_stack([places, sizes, classes]))
    return yolo, raw, truths


@settings(max_examples=60)
@given(cases())
def test_loss_and_gradient_are_darknets(case):
    agree(run(*case), expected(*case), 1e-12)


@settings(max_examples=40)
@given(cases(), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_owners_add_up_to_the_whole(case, cuts):
    # Grids may be larger than the tensor: some tiles own nothing.
    found = run(*case, cuts=cuts)
    agree(found, expected(*case), 1e-12)
    # A cell's gradient is the same to the last bit in any tiling.
    np.testing.assert_array_equal(found[1], run(*case)[1])


@settings(max_examples=25)
@given(cases())
def test_float32_is_near(case):
    yolo, raw, truths = case
    # Rounded inputs for both: a threshold falls on one side.
    raw = raw.astype(np.float32).astype(np.float64)
    agree(run(yolo, raw, truths, dtype=np.float32), expected(yolo, raw, truths), 1e-6)


ANCHORS = ((20.0, 20.0), (60.0, 40.0))


def two_truths(**changes):
    """Both in cell (2, 1), and of the second anchor's shape."""
    yolo = spec.Yolo(ANCHORS, **{"mask": (0, 1), "classes": 3, "ignore_thresh": 0.9, **changes})
    channels = len(yolo.mask) * 8
    raw = np.random.default_rng(2).normal(size=(1, 4, 5, channels))
    truths = np.array([[0.31, 0.52, 0.5, 0.4, 1.0], [0.35, 0.55, 0.45, 0.4, 2.0]])
    return yolo, raw, truths


def test_classes_of_two_truths_in_one_box_add_up():
    yolo, raw, truths = two_truths()
    _, gradient = run(yolo, raw, [truths])
    cell = gradient.reshape(4, 5, 2, 8)[2, 1, 1]
    assert (cell[5:] < 0).tolist() == [False, True, True]
    _, last = run(yolo, raw, [truths[1:]])
    np.testing.assert_array_equal(cell[:5], last.reshape(4, 5, 2, 8)[2, 1, 1, :5])


def test_a_truth_of_another_heads_anchor_is_not_learnt():
    yolo, raw, truths = two_truths(mask=(0,))
    _, gradient = run(yolo, raw, [truths])
    boxes = gradient.reshape(4, 5, 1, 8)
    assert not boxes[..., :4].any() and not boxes[..., 5:].any()
    assert (boxes[..., 4] > 0).all()


def test_no_more_truths_than_max():
    yolo, raw, truths = two_truths(max_boxes=1)
    np.testing.assert_array_equal(run(yolo, raw, [truths])[1], run(yolo, raw, [truths[:1]])[1])


def test_gradients_are_added():
    yolo, raw, truths = two_truths()
    _, alone = run_part(yolo, raw, [truths], whole(4, 5))
    _, added = run_part(yolo, raw, [truths], whole(4, 5), start=0.5)
    np.testing.assert_allclose(added, alone + 0.5, rtol=1e-14)


@pytest.mark.filterwarnings("error")
def test_large_outputs_stay_finite():
    yolo, raw, truths = two_truths()
    for value in (300.0, -300.0):
        big = raw.reshape(1, 4, 5, 2, 8).copy()
        big[..., [0, 1, 4, 5, 6]] = value
        loss, gradient = run(yolo, big.reshape(raw.shape), [truths])
        assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_inference_copies_and_learns_nothing():
    yolo, raw, truths = two_truths()
    loss, _ = run_part(yolo, raw, [truths], whole(4, 5), training=False)
    assert loss == 0
