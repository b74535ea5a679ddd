import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.errors import InputError
from mpitile.geometry.box import Box
from mpitile.layers.boxes import box_iou
from mpitile.network import spec
from mpitile.network.shapes import infer
from mpitile.train.detections import (
    decode_head,
    decode_region,
    sort_rows,
    suppress,
)

ANCHORS = [(1.3, 1.7), (3.2, 2.1)]
CLASSES = 3
CHANNELS = len(ANCHORS) * (5 + CLASSES)


def logistic(value):
    return 1 / (1 + math.exp(-value))


def decode_by_loops(outputs, softmax, threshold):
    height, width = outputs.shape[:2]
    rows = []
    for i in range(height):
        for j in range(width):
            for a, (aw, ah) in enumerate(ANCHORS):
                tx, ty, tw, th, to, *logits = outputs[i, j].reshape(len(ANCHORS), -1)[a]
                total = sum(math.exp(value) for value in logits)
                for c, value in enumerate(logits):
                    p = math.exp(value) / total if softmax else logistic(value)
                    if logistic(to) * p > threshold:
                        rows.append(
                            [
                                (j + logistic(tx)) / width,
                                (i + logistic(ty)) / height,
                                math.exp(tw) * aw / width,
                                math.exp(th) * ah / height,
                                c,
                                logistic(to) * p,
                            ]
                        )
    return np.array(rows).reshape(-1, 6)


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9])
def test_decode_equals_loops_in_order(softmax, threshold):
    outputs = np.random.default_rng(1).normal(size=(4, 5, CHANNELS))
    rows = decode_region(outputs, (0, 0), (4, 5), ANCHORS, CLASSES, softmax, threshold)
    expected = decode_by_loops(outputs, softmax, threshold)
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows, expected, rtol=1e-13)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.data(),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)
def test_tiles_decode_to_the_rows_of_the_whole(height, width, data, seed, softmax, dtype):
    outputs = np.random.default_rng(seed).normal(size=(height, width, CHANNELS)).astype(dtype)
    cut_y = data.draw(st.integers(0, height))
    cut_x = data.draw(st.integers(0, width))
    grid = (height, width)
    whole = decode_region(outputs, (0, 0), grid, ANCHORS, CLASSES, softmax, 0.1)
    tiles = [
        decode_region(outputs[y0:y1, x0:x1], (y0, x0), grid, ANCHORS, CLASSES, softmax, 0.1)
        for y0, y1 in ((0, cut_y), (cut_y, height))
        for x0, x1 in ((0, cut_x), (cut_x, width))
    ]
    np.testing.assert_array_equal(sort_rows(np.concatenate(tiles)), sort_rows(whole))


def test_a_yolo_head_is_decoded_by_loops():
    """Anchors in cells of the image, of which the mask takes some; independent classes."""
    yolo = spec.Yolo(((30.0, 50.0), (9.0, 7.0), (64.0, 32.0)), (2, 0), CLASSES, scale_x_y=1.2)
    image, height, width = spec.Shape(96, 160, 3), 3, 5
    channels = 2 * (5 + CLASSES)
    outputs = np.random.default_rng(4).normal(size=(height, width, channels))
    head = infer(spec.NetOptions(height, width, channels), [(0, yolo)], "head").layers[0]
    expected = []
    for i, j, m, c in np.ndindex(height, width, 2, CLASSES):
        tx, ty, tw, th, to, *classes = outputs[i, j].reshape(2, -1)[m]
        score = logistic(to) * logistic(classes[c])
        if score > 0.3:
            wide, tall = yolo.anchors[yolo.mask[m]]
            x, y = (1.2 * logistic(t) - 0.1 for t in (tx, ty))
            box = [(j + x) / width, (i + y) / height]
            box += [math.exp(tw) * wide / image.width, math.exp(th) * tall / image.height]
            expected.append([*box, c, score])
    rows = decode_head(head, image, outputs, Box(0, height, 0, width), 0.3)
    assert 3 < len(rows) < height * width * 2 * CLASSES
    np.testing.assert_allclose(rows, expected, rtol=1e-12)
    lower = decode_head(head, image, outputs[1:, 2:], Box(1, height, 2, width), 0.3)
    assert len(lower) > 1
    assert {tuple(row) for row in lower} < {tuple(row) for row in rows}


@pytest.mark.filterwarnings("error")
def test_saturated_and_lost_outputs_stay_quiet():
    outputs = np.zeros((1, 2, CHANNELS))
    outputs[0, 0] = 1000.0
    outputs[0, 1] = -1000.0
    rows = decode_region(outputs, (0, 0), (1, 2), ANCHORS, CLASSES, True, 0.2)
    assert len(rows) == len(ANCHORS) * CLASSES
    assert np.isinf(rows[:, 2]).all()
    assert len(suppress(rows)) == len(rows)
    lost = np.full((1, 2, CHANNELS), np.nan)
    assert decode_region(lost, (0, 0), (1, 2), ANCHORS, CLASSES, True, 0.0).shape == (0, 6)


@pytest.mark.parametrize(
    ("shape", "origin", "threshold", "message"),
    [
        ((2, 2, CHANNELS + 1), (0, 0), 0.5, r"expected \(h, w, 16\)"),
        ((2, 2, CHANNELS), (3, 0), 0.5, "inside the 4x4 grid"),
        ((2, 2, CHANNELS), (0, -1), 0.5, "inside the 4x4 grid"),
        ((2, 2, CHANNELS), (0, 0), 1.5, "threshold"),
    ],
)
def test_bad_input_is_named(shape, origin, threshold, message):
    with pytest.raises(InputError, match=message):
        decode_region(np.zeros(shape), origin, (4, 4), ANCHORS, CLASSES, True, threshold)


def test_iou_by_hand():
    a = np.array([0.5, 0.5, 1.0, 1.0])
    others = np.array(
        [
            [0.5, 0.5, 1.0, 1.0],
            [0.75, 0.5, 0.5, 1.0],
            [1.0, 1.0, 1.0, 1.0],
            [1.5, 0.5, 1.0, 1.0],
            [2.5, 2.5, 1.0, 1.0],
            [0.5, 0.5, 0.0, 0.0],
        ]
    )
    np.testing.assert_allclose(box_iou(a, others), [1, 0.5, 1 / 7, 0, 0, 0])


def test_suppression_by_hand():
    rows = np.array(
        [
            [0.50, 0.5, 0.2, 0.2, 0, 0.8],  # kept: the best of its class but one
            [0.51, 0.5, 0.2, 0.2, 0, 0.9],  # kept: the best, removes the one above
            [0.51, 0.5, 0.2, 0.2, 1, 0.3],  # kept: another class
            [0.42, 0.5, 0.2, 0.2, 0, 0.7],  # kept: overlaps only the removed one too much
        ]
    )
    kept = suppress(rows, 0.4)
    np.testing.assert_array_equal(kept, rows[[1, 3, 2]])


def test_suppression_starts_above_the_threshold():
    rows = np.array([[0.5, 0.5, 1.0, 1.0, 0, 0.9], [0.75, 0.5, 0.5, 1.0, 0, 0.8]])
    assert len(suppress(rows, 0.5)) == 2
    assert len(suppress(rows, 0.4999)) == 1


def row_arrays():
    coordinate = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])
    row = st.tuples(
        coordinate,
        coordinate,
        coordinate,
        coordinate,
        st.integers(0, 2).map(float),
        st.sampled_from([0.2, 0.4, 0.6]),
    )
    return st.lists(row, max_size=15).map(lambda rows: np.array(rows).reshape(-1, 6))


@settings(deadline=None, max_examples=60)
@given(row_arrays(), st.randoms(use_true_random=False))
def test_suppression_keeps_a_maximal_set_in_any_order(rows, random):
    kept = suppress(rows, 0.3)
    order = list(range(len(rows)))
    random.shuffle(order)
    np.testing.assert_array_equal(suppress(rows[order], 0.3), kept)
    for k, row in enumerate(kept):
        same = kept[k + 1 :][kept[k + 1 :, 4] == row[4]]
        assert (box_iou(row[:4], same[:, :4]) <= 0.3).all()
    for row in rows:
        rivals = kept[(kept[:, 4] == row[4]) & (kept[:, 5] >= row[5])]
        is_kept = (kept == row).all(axis=1).any()
        assert is_kept or (box_iou(row[:4], rivals[:, :4]) > 0.3).any()


def test_a_score_at_the_threshold_is_left_out():
    outputs = np.zeros((1, 1, 6))
    counts = [
        len(decode_region(outputs, (0, 0), (1, 1), [(1.0, 1.0)], 1, False, threshold))
        for threshold in (0.25, 0.2499)
    ]
    assert counts == [0, 1]
