"""Average precision of detections against truths, as in PASCAL VOC from 2010 on.

The area under the whole precision-recall curve after precision has been made
monotonous, no 11-point sampling. Detections of all images are taken together by
falling score. Each one is compared with the truth of its image and class that it
overlaps most; it is right if their IoU reaches the threshold and no detection before
it has claimed that truth.
Source: Everingham et al., "The PASCAL Visual Object Classes Challenge: A
Retrospective", IJCV 111 (2015), section 4, and the development kit of VOC2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpitile.errors import InputError
from mpitile.layers.boxes import box_iou

# Hundredths keep the thresholds free of the rounding of repeated addition.
IOU_THRESHOLDS = tuple(hundredths / 100 for hundredths in range(50, 100, 5))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Average precision of one set of images.

    Attributes
    ----------
    ap50 : per class, at IoU 0.5; nan for a class without truths.
    ap : per class, mean over IoU 0.50, 0.55, ... 0.95; nan likewise.
    mean_ap50, mean_ap : means over the classes with truths; nan where there is none.
    truths, detections : counts per class.
    images : number of images.
    """

    ap50: tuple[float, ...]
    ap: tuple[float, ...]
    mean_ap50: float
    mean_ap: float
    truths: tuple[int, ...]
    detections: tuple[int, ...]
    images: int


@dataclass(frozen=True, slots=True)
class _Ranking:
    """One class's detections by falling score, each with the truth it overlaps most.

    `truth` numbers the class's truths over all images and is -1 where the image has
    none; `overlap` is the IoU with it.
    """

    truth: np.ndarray
    overlap: np.ndarray
    truths: int


def _rank(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], class_index: int
) -> _Ranking:
    rows, images, best, overlaps = [], [], [], []
    count = 0
    for image, (found, true) in enumerate(zip(detections, truths, strict=True)):
        found = found[found[:, 4] == class_index]
        true = true[true[:, 4] == class_index]
        rows.append(found)
        images.append(np.full(len(found), image))
        if len(true):
            table = box_iou(found[:, None, :4], true[None, :, :4])
            best.append(count + table.argmax(axis=1))
            overlaps.append(table.max(axis=1))
        else:
            best.append(np.full(len(found), -1))
            overlaps.append(np.zeros(len(found)))
        count += len(true)
    if not rows:
        return _Ranking(np.empty(0, dtype=int), np.empty(0), 0)
    x, y, w, h, _, score = np.concatenate(rows).T
    order = np.lexsort((h, w, y, x, np.concatenate(images), -score))
    return _Ranking(np.concatenate(best)[order], np.concatenate(overlaps)[order], count)


def _area(ranking: _Ranking, iou: float) -> float:
    """Area under the monotonous precision-recall curve; nan without truths."""
    if not ranking.truths:
        return float("nan")
    claims = np.flatnonzero((ranking.truth >= 0) & (ranking.overlap >= iou))
    _, first = np.unique(ranking.truth[claims], return_index=True)
    right = np.zeros(len(ranking.truth), dtype=bool)
    right[claims[first]] = True
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / truths at each right detection and nowhere else.
    return float(envelope[right].sum() / ranking.truths)


def _check_images(detections: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> None:
    if len(detections) != len(truths):
        raise InputError(
            f"average precision: expected detections of {len(truths)} images, got {len(detections)}"
        )


def average_precision(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int, iou: float
) -> np.ndarray:
    """Average precision of each class at one IoU threshold.

    Parameters
    ----------
    detections : per image, rows (n, 6): x, y, w, h, class, score, in any order; equal
        scores are taken in the order of image, x, y, w, h.
    truths : per image, rows (n, 5): x, y, w, h, class.
    classes : number of classes.
    iou : the IoU at which a detection and a truth agree.

    Returns
    -------
    (classes,) float64 in [0, 1]; nan for a class without truths.
    """
    _check_images(detections, truths)
    return np.array([_area(_rank(detections, truths, c), iou) for c in range(classes)])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def evaluate(
    detections: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int
) -> Evaluation:
    """Average precision at IoU 0.5 and over 0.50:0.05:0.95; arguments as above."""
    _check_images(detections, truths)
    rankings = [_rank(detections, truths, c) for c in range(classes)]
    areas = [[_area(ranking, iou) for iou in IOU_THRESHOLDS] for ranking in rankings]
    ap50 = tuple(line[0] for line in areas)
    ap = tuple(float(np.mean(line)) for line in areas)
    return Evaluation(
        ap50=ap50,
        ap=ap,
        mean_ap50=_mean(ap50),
        mean_ap=_mean(ap),
        truths=tuple(ranking.truths for ranking in rankings),
        detections=tuple(len(ranking.truth) for ranking in rankings),
        images=len(truths),
    )
