"""What the detection losses have in common."""

from __future__ import annotations

import numpy as np


def logistic(x: np.ndarray) -> np.ndarray:
    """The logistic function of any number."""
    # tanh does not overflow.
    return 0.5 * (1 + np.tanh(0.5 * x))


def overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) of x, y, width, height with one such box."""
    low = np.maximum(boxes[..., :2] - boxes[..., 2:4] / 2, box[:2] - box[2:4] / 2)
    high = np.minimum(boxes[..., :2] + boxes[..., 2:4] / 2, box[:2] + box[2:4] / 2)
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    union = boxes[..., 2] * boxes[..., 3] + box[2] * box[3] - shared
    return shared / np.where(union > 0, union, 1)
