"""The region loss against a transcription of Darknet's, whole and in tiles."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from region_oracle import region_oracle

from mpitile.geometry.box import EMPTY, Box, whole
from mpitile.geometry.tiling import cut_lines
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Site, Step
from mpitile.layers.detection import RegionLoss
from mpitile.network import spec
from mpitile.network.kept import GRADIENT
from mpitile.network.shapes import infer

FLAGS = ("softmax", "bias_match", "rescore")
SCALES = ("object_scale", "noobject_scale", "class_scale", "coord_scale")


def layer_of(region, height, width):
    """A region layer that reads the image."""
    channels = len(region.anchors) * (5 + region.classes)
    options = spec.NetOptions(height, width, channels)
    return infer(options, [(0, region)], "region").layers[0]


def run_part(region, raw, truths, owned, seen, dtype=np.float64, start=0.0):
    """Loss and input gradient of the cells that one tile owns, which are all that it holds."""
    height, width = raw.shape[1:3]

    def tile(fill=None):
        shape = (len(raw), owned.height, owned.width, raw.shape[3])
        array = np.full(shape, start, dtype) if fill is None else fill.astype(dtype)
        return Tile(array, owned, height, width)

    inputs, delta, output = tile(raw[:, *owned.slices()]), tile(), tile()
    site = Site(
        layer=layer_of(region, height, width),
        box=owned,
        owned=owned,
        inputs=(inputs,),
        input_deltas=(delta,),
        output=output,
        output_delta=None,
        kept={GRADIENT: np.empty_like(output.array)},
    )
    work = RegionLoss(site)
    step = Step(training=True, reduce=None, images=len(raw), seen=seen, truths=truths)
    work.forward(step)
    work.backward_input(step)
    np.testing.assert_array_equal(output.array, inputs.array)
    return work.loss, delta.array


def run(region, raw, truths, seen=20000, cuts=(1, 1), dtype=np.float64):
    """The sum of all tiles' losses, and their gradients put together."""
    height, width = raw.shape[1:3]
    rows, columns = cut_lines(height, [1] * cuts[0]), cut_lines(width, [1] * cuts[1])
    loss, gradient = 0.0, np.full(raw.shape, np.nan)
    for y0, y1 in itertools.pairwise(rows):
        for x0, x1 in itertools.pairwise(columns):
            box = Box(y0, y1, x0, x1)
            part, delta = run_part(region, raw, truths, EMPTY if box.empty else box, seen, dtype)
            loss += part
            if not box.empty:
                gradient[:, y0:y1, x0:x1] = delta
    return loss, gradient


def expected(region, raw, truths, seen=20000):
    limit = region.max_boxes or None
    names = ("anchors", "classes", "thresh", *FLAGS, *SCALES)
    options = {name: getattr(region, name) for name in names}
    return region_oracle(raw, [rows[:limit] for rows in truths], seen=seen, **options)


def agree(found, wanted, tolerance):
    (loss, gradient), (cost, slope) = found, wanted
    assert loss == pytest.approx(cost, rel=tolerance)
    scale = np.abs(slope).max()
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=tolerance * scale)


@st.composite
def regions(draw):
    size = st.floats(0.3, 6)
    anchors = draw(st.lists(st.tuples(size, size), min_size=1, max_size=4))
    scale = st.floats(0.1, 5)
    return spec.Region(
        tuple(anchors),
        draw(st.integers(1, 4)),
        thresh=draw(st.floats(0.05, 0.95)),
        max_boxes=draw(st.sampled_from([0, 0, 1, 3])),
        **{flag: draw(st.booleans()) for flag in FLAGS},
        **{name: draw(scale) for name in SCALES},
    )


@st.composite
def cases(draw):
    """A region layer, raw inputs and truths, some of them in one cell or of one anchor."""
    region = draw(regions())
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    images = draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = len(region.anchors) * (5 + region.classes)
    raw = random.normal(0, draw(st.sampled_from([0.3, 1, 2])), (images, height, width, channels))
    truths = []
    for _ in range(images):
        count = draw(st.integers(0, 6))
        places = random.uniform(0.001, 0.999, (count, 2))
        sizes = random.uniform(0.02, 1.2, (count, 2))
        if count > 1 and draw(st.booleans()):
            # The later of two in one cell and with one shape counts.
            places[-1] = places[0]
            sizes[-1] = sizes[0] * random.choice([1, 1.01])
        classes = random.integers(region.classes, size=count)
        truths.append(np.column_stack([places, sizes, classes]))
    return region, raw, truths


@settings(max_examples=60)
@given(cases(), st.sampled_from([1, 12799, 12800, 10**6]))
def test_loss_and_gradient_are_darknets(case, seen):
    region, raw, truths = case
    agree(run(region, raw, truths, seen), expected(region, raw, truths, seen), 1e-12)


@settings(max_examples=40)
@given(cases(), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.sampled_from([1, 20000]))
def test_owners_add_up_to_the_whole(case, cuts, seen):
    region, raw, truths = case
    # Grids may be larger than the tensor: some tiles own nothing.
    found = run(region, raw, truths, seen, cuts)
    agree(found, expected(region, raw, truths, seen), 1e-12)
    # A cell's gradient is the same to the last bit in any tiling.
    np.testing.assert_array_equal(found[1], run(region, raw, truths, seen)[1])


@settings(max_examples=25)
@given(cases())
def test_float32_is_near(case):
    region, raw, truths = case
    # Rounded inputs for both: a threshold falls on one side.
    raw = raw.astype(np.float32).astype(np.float64)
    found = run(region, raw, truths, dtype=np.float32)
    agree(found, expected(region, raw, truths), 1e-6)


ANCHORS = ((1.0, 1.0), (3.0, 2.0))


def one_truth(**changes):
    region = spec.Region(ANCHORS, 3, **{"thresh": 0.6, "softmax": True, **changes})
    raw = np.random.default_rng(2).normal(size=(1, 4, 5, 16))
    return region, raw, np.array([[0.31, 0.52, 0.4, 0.3, 1.0]])


def test_only_the_owner_of_a_truths_cell_learns_its_box():
    region, raw, truth = one_truth()
    for columns, learns in (((0, 2), True), ((2, 5), False)):
        owned = Box(0, 4, *columns)
        _, with_truth = run_part(region, raw, [truth], owned, 20000)
        _, without = run_part(region, raw, [np.zeros((0, 5))], owned, 20000)
        boxes = with_truth.reshape(4, -1, 2, 8)[..., :4]
        assert boxes.any() == learns
        assert not without.reshape(4, -1, 2, 8)[..., :4].any()
        if learns:
            cells = np.argwhere(boxes.any(axis=3))
            assert [tuple(cell[:2]) for cell in cells] == [(2, 1)]


def test_the_last_of_equal_truths_counts():
    region, raw, truth = one_truth(thresh=1.0)
    first = truth.copy()
    first[0, 4] = 2
    both = run(region, raw, [np.concatenate([first, truth])])
    last = run(region, raw, [truth])
    np.testing.assert_array_equal(both[1], last[1])
    assert both[0] == last[0]


@pytest.mark.parametrize(("limit", "taken"), [(0, 3), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_no_more_truths_than_max(limit, taken):
    region, raw, _ = one_truth(max_boxes=limit)
    truths = np.array([[0.1, 0.1, 0.3, 0.3, 0], [0.5, 0.5, 0.3, 0.3, 1], [0.9, 0.9, 0.3, 0.3, 2]])
    gradient = run(region, raw, [truths])[1].reshape(4, 5, 2, 8)
    assert gradient[..., 5:].any(axis=(2, 3)).sum() == taken
    agree(run(region, raw, [truths]), expected(region, raw, [truths]), 1e-12)


def test_gradients_are_added():
    region, raw, truth = one_truth()
    owned = whole(4, 5)
    _, alone = run_part(region, raw, [truth], owned, 20000)
    _, added = run_part(region, raw, [truth], owned, 20000, start=0.5)
    np.testing.assert_allclose(added, alone + 0.5, rtol=1e-14)


def test_gradient_is_the_losss_where_nothing_is_searched():
    # Half the squared deltas' derivative along width and height, whose deltas are linear.
    region, raw, truth = one_truth(thresh=1.0)
    _, gradient = run(region, raw, [truth])
    cell = (0, 2, 1)
    changed = np.argwhere(gradient.reshape(1, 4, 5, 2, 8)[cell][:, 2])
    channel = int(changed[0, 0]) * 8 + 2
    step = 1e-5
    losses = []
    for sign in (1, -1):
        moved = raw.copy()
        moved[(*cell, channel)] += sign * step
        losses.append(run(region, moved, [truth])[0])
    scale = 2 - truth[0, 2] * truth[0, 3]
    slope = (losses[0] - losses[1]) / (2 * step)
    assert gradient[(*cell, channel)] * 2 * scale == pytest.approx(slope, rel=1e-7)


@pytest.mark.filterwarnings("error")
def test_large_outputs_stay_finite():
    region, raw, truth = one_truth()
    for value in (300.0, -300.0):
        big = raw.reshape(1, 4, 5, 2, 8).copy()
        big[..., [0, 1, 4, 5, 6]] = value
        loss, gradient = run(region, big.reshape(raw.shape), [truth])
        assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_inference_copies_and_learns_nothing():
    region, raw, _ = one_truth()
    owned = whole(4, 5)
    inputs, output = Tile(raw, owned, 4, 5), Tile(np.zeros_like(raw), owned, 4, 5)
    kept = {GRADIENT: np.empty_like(output.array)}
    site = Site(layer_of(region, 4, 5), owned, owned, (inputs,), (None,), output, None, kept=kept)
    work = RegionLoss(site)
    work.forward(Step(training=False, reduce=None, images=1))
    np.testing.assert_array_equal(output.array, raw)
    assert work.loss == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_image_needs_its_truths(count):
    """The gradients of images without any would be what stood in memory."""
    region, raw, truth = one_truth()
    with pytest.raises(ValueError):
        run(region, np.concatenate([raw, raw]), [truth] * count)
