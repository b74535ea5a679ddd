"""What the detection losses have in common, with each other and with the decoding of boxes."""

from __future__ import annotations

import numpy as np


def logistic(x: np.ndarray) -> np.ndarray:
    """The logistic function of any number."""
    # tanh does not overflow.
    return 0.5 * (1 + np.tanh(0.5 * x))


def likelihoods(logits: np.ndarray) -> np.ndarray:
    """The softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(axis=-1, keepdims=True)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) of centre and size, with broadcasting.

    Boxes without a common area have 0, also where both are empty.
    """
    # Boxes of a diverged network may be infinite; such pairs come out as nan, and agree with
    # nothing.
    with np.errstate(over="ignore", invalid="ignore"):
        low = np.maximum(a[..., :2] - a[..., 2:4] / 2, b[..., :2] - b[..., 2:4] / 2)
        high = np.minimum(a[..., :2] + a[..., 2:4] / 2, b[..., :2] + b[..., 2:4] / 2)
        overlap = np.clip(high - low, 0.0, None)
        common = overlap[..., 0] * overlap[..., 1]
        union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - common
        return np.divide(common, union, out=np.zeros_like(common), where=common > 0)
