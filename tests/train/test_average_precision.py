import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.errors import InputError
from mpitile.layers.boxes import box_iou
from mpitile.train.average_precision import average_precision, evaluate

EMPTY = np.empty((0, 6))


def truth(x, label=0, width=0.2):
    return [x, 0.5, width, 0.2, label]


def found(x, score, label=0, width=0.2):
    return [x, 0.5, width, 0.2, label, score]


def test_by_hand():
    # Ranked: right, wrong, right, wrong (doubled), right; four truths.
    # Precision at the right ones 1, 2/3, 3/5: area (1 + 2/3 + 3/5) / 4.
    truths = [np.array([truth(0.2), truth(0.8)]), np.array([truth(0.2), truth(0.8)])]
    detections = [
        np.array([found(0.2, 0.9), found(0.21, 0.6), found(0.8, 0.7)]),
        np.array([found(0.5, 0.8), found(0.8, 0.5)]),
    ]
    ap = average_precision(detections, truths, 1, 0.5)
    assert ap == pytest.approx([(1 + 2 / 3 + 3 / 5) / 4])


def test_precision_is_made_monotonous():
    # Wrong, right, right: precisions 1/2 and 2/3, both counted as 2/3.
    truths = [np.array([truth(0.2), truth(0.8)])]
    detections = [np.array([found(0.5, 0.9), found(0.2, 0.8), found(0.8, 0.7)])]
    assert average_precision(detections, truths, 1, 0.5) == pytest.approx([2 / 3])


def test_an_iou_at_the_threshold_agrees():
    truths = [np.array([[0.5, 0.5, 1.0, 1.0, 0]])]
    detections = [np.array([[0.75, 0.5, 0.5, 1.0, 0, 0.9]])]
    assert average_precision(detections, truths, 1, 0.5) == [1.0]
    assert average_precision(detections, truths, 1, 0.51) == [0.0]


def test_classes_and_images_do_not_mix():
    truths = [np.array([truth(0.2, 0)]), np.array([truth(0.2, 1)])]
    swapped = [np.array([found(0.2, 0.9, 1)]), np.array([found(0.2, 0.9, 0)])]
    np.testing.assert_array_equal(average_precision(swapped, truths, 3, 0.5), [0, 0, np.nan])


def test_evaluation_leaves_out_classes_without_truths():
    # The first class is exact, the second overlaps with IoU 0.75, the third has no truth.
    truths = [np.array([truth(0.2, 0), [0.5, 0.5, 0.4, 0.4, 1]]), np.empty((0, 5))]
    detections = [
        np.array([found(0.2, 0.9, 0), [0.5, 0.5, 0.3, 0.4, 1, 0.8]]),
        np.array([found(0.2, 0.1, 2)]),
    ]
    result = evaluate(detections, truths, 3)
    assert result.ap50[:2] == (1.0, 1.0)
    assert math.isnan(result.ap50[2]) and math.isnan(result.ap[2])
    overlap = box_iou(detections[0][1, :4], truths[0][1, :4])
    steps = sum(overlap >= k / 100 for k in range(50, 100, 5))
    assert steps in (5, 6)
    assert result.ap[:2] == pytest.approx((1.0, steps / 10))
    assert (result.mean_ap50, result.mean_ap) == pytest.approx((1.0, (1 + steps / 10) / 2))
    assert (result.truths, result.detections, result.images) == ((1, 1, 0), (1, 1, 1), 2)


def test_nothing_at_all():
    assert math.isnan(evaluate([], [], 2).mean_ap)
    assert evaluate([EMPTY], [np.array([truth(0.2)])], 1).mean_ap == 0.0


def test_image_counts_must_agree():
    with pytest.raises(InputError, match="2 images, got 1"):
        evaluate([EMPTY], [np.empty((0, 5))] * 2, 1)


def brute_force(detections, truths, class_index, iou):
    ranked = sorted(
        (-row[5], image, tuple(row[:4]))
        for image, rows in enumerate(detections)
        for row in rows
        if row[4] == class_index
    )
    targets = {
        (image, k): row[:4]
        for image, rows in enumerate(truths)
        for k, row in enumerate(rows)
        if row[4] == class_index
    }
    if not targets:
        return math.nan
    claimed, right, points = set(), 0, []
    for rank, (_, image, box) in enumerate(ranked, start=1):
        best, best_key = 0.0, None
        for key, target in targets.items():
            overlap = float(box_iou(np.array(box), target))
            if key[0] == image and overlap > best:
                best, best_key = overlap, key
        if best >= iou and best_key not in claimed:
            claimed.add(best_key)
            right += 1
        points.append((right / len(targets), right / rank))
    area, before = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[k:])
        before = recall
    return area


def boxes(score):
    place = st.sampled_from([0.2, 0.25, 0.3, 0.35, 0.7])
    size = st.sampled_from([0.2, 0.25])
    fields = [place, place, size, size, st.sampled_from([0.0, 1.0])]
    fields += [st.sampled_from([0.3, 0.5, 0.9])] if score else []
    return st.lists(st.tuples(*fields), max_size=6).map(
        lambda rows: np.array(rows).reshape(-1, len(fields))
    )


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(boxes(True), boxes(False)), max_size=3), st.sampled_from([0.3, 0.5, 0.7]))
def test_equals_brute_force_in_any_order(images, iou):
    detections = [pair[0] for pair in images]
    truths = [pair[1] for pair in images]
    result = average_precision(detections, truths, 2, iou)
    expected = [brute_force(detections, truths, c, iou) for c in range(2)]
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    turned = average_precision([rows[::-1] for rows in detections], truths, 2, iou)
    np.testing.assert_array_equal(turned, result)
