"""Darknet's ``[region]`` loss, loop by loop in float64, as an independent reference.

Semantics of ``src/region_layer.c`` at the end of pjreddie/darknet's master branch, for
four coordinates, no class tree and no background class. What follows from them:

- the deltas that the cost sums up are taken with respect to the *activated* x, y and
  objectness; the logistic function's derivative enters only in the backward step, as in
  ``backward_region_layer_gpu`` (the CPU version of that function is empty);
- w and h deltas are with respect to the raw outputs, class deltas are those of
  cross-entropy with respect to the logits, so neither gets a further factor;
- deltas are *assigned*, not added: a truth overwrites what the loop over all boxes has
  written for its box, and a later truth overwrites an earlier one of the same box;
- while ``seen < 12800`` the pull towards the anchors is written for every box, and
  stays where no truth overwrites it. Darknet has added the present batch to ``seen``
  before it comes here;
- a truth with x == 0 ends an image's list.
"""

import math

import numpy as np

PULL_SCALE = 0.01
PULL_SEEN = 12800


def logistic(value):
    return 1.0 / (1.0 + math.exp(-value))


def overlap(centre1, length1, centre2, length2):
    left = max(centre1 - length1 / 2, centre2 - length2 / 2)
    right = min(centre1 + length1 / 2, centre2 + length2 / 2)
    return right - left


def box_iou(a, b):
    across = overlap(a[0], a[2], b[0], b[2])
    down = overlap(a[1], a[3], b[1], b[3])
    if across < 0 or down < 0:
        return 0.0
    common = across * down
    union = a[2] * a[3] + b[2] * b[3] - common
    return common / union if union > 0 else 0.0


def activate(raw, classes, softmax):
    """One anchor's entries of one cell after Darknet's forward activations."""
    out = [logistic(raw[0]), logistic(raw[1]), raw[2], raw[3], logistic(raw[4])]
    logits = [float(value) for value in raw[5 : 5 + classes]]
    if softmax:
        largest = max(logits)
        powers = [math.exp(value - largest) for value in logits]
        return out + [power / sum(powers) for power in powers]
    return out + [logistic(value) for value in logits]


def region_box(out, anchor, i, j, width, height):
    return (
        (i + out[0]) / width,
        (j + out[1]) / height,
        math.exp(out[2]) * anchor[0] / width,
        math.exp(out[3]) * anchor[1] / height,
    )


def box_delta(truth, out, anchor, i, j, width, height, scale):
    """Deltas of x, y, w, h towards a truth, and the IoU of prediction and truth."""
    targets = (
        truth[0] * width - i,
        truth[1] * height - j,
        math.log(truth[2] * width / anchor[0]),
        math.log(truth[3] * height / anchor[1]),
    )
    deltas = [scale * (target - value) for target, value in zip(targets, out[:4], strict=True)]
    return deltas, box_iou(region_box(out, anchor, i, j, width, height), truth)


def listed(truths):
    """The truths of one image up to the first with x == 0."""
    result = []
    for truth in truths:
        if truth[0] == 0:
            break
        result.append([float(value) for value in truth])
    return result


def best_anchor(truth, cell, anchors, bias_match, width, height):
    """The anchor whose shape (or predicted shape) overlaps the truth's most; 0 if none does."""
    best, best_iou = 0, 0.0
    for n, anchor in enumerate(anchors):
        if bias_match:
            shape = (anchor[0] / width, anchor[1] / height)
        else:
            shape = (
                math.exp(cell[n][2]) * anchor[0] / width,
                math.exp(cell[n][3]) * anchor[1] / height,
            )
        iou = box_iou((0.0, 0.0, *shape), (0.0, 0.0, truth[2], truth[3]))
        if iou > best_iou:
            best, best_iou = n, iou
    return best


def region_oracle(
    outputs,
    truths,
    anchors,
    classes,
    softmax,
    bias_match,
    rescore,
    thresh,
    object_scale,
    noobject_scale,
    class_scale,
    coord_scale,
    seen,
):
    """Cost and gradient of the region layer in training.

    Parameters
    ----------
    outputs : (N, H, W, A * (5 + classes)) raw network outputs, channels last; channel
        ``a * (5 + classes) + entry`` with entries x, y, w, h, objectness, classes.
    truths : N arrays (n, 5) of x, y, w, h (relative, box centre and size) and class.
        Darknet's limit of boxes an image is the caller's matter.
    anchors : A pairs (width, height) in cells.
    softmax : softmax over classes, else a logistic function of each.
    bias_match : choose a truth's box by the anchors' shapes, else by the predicted ones.
    rescore : the objectness of a truth's box aims at its IoU, else at 1.
    thresh : boxes whose best IoU is above it have no "no object" delta.
    seen : images that training has seen, the present batch included.

    Returns
    -------
    cost : the sum of all squared deltas before the logistic derivatives.
    gradient : like `outputs`, float64; minus Darknet's delta, to be minimised.

    Raises
    ------
    ValueError
        For a truth outside the grid, where Darknet reads another cell's memory.
    """
    images, height, width, channels = outputs.shape
    entries = 5 + classes
    if channels != len(anchors) * entries:
        raise ValueError(f"expected {len(anchors) * entries} channels, got {channels}")
    shape = (images, height, width, len(anchors), entries)
    raw = np.asarray(outputs, dtype=np.float64).reshape(shape)
    out = np.zeros(shape)
    delta = np.zeros(shape)
    for b in range(images):
        image_truths = listed(truths[b])
        for j in range(height):
            for i in range(width):
                for n, anchor in enumerate(anchors):
                    values = activate(raw[b, j, i, n], classes, softmax)
                    out[b, j, i, n] = values
                    predicted = region_box(values, anchor, i, j, width, height)
                    best_iou = 0.0
                    for truth in image_truths:
                        best_iou = max(best_iou, box_iou(predicted, truth[:4]))
                    delta[b, j, i, n, 4] = noobject_scale * (0 - values[4])
                    if best_iou > thresh:
                        delta[b, j, i, n, 4] = 0
                    if seen < PULL_SEEN:
                        centred = (
                            (i + 0.5) / width,
                            (j + 0.5) / height,
                            anchor[0] / width,
                            anchor[1] / height,
                        )
                        delta[b, j, i, n, :4], _ = box_delta(
                            centred, values, anchor, i, j, width, height, PULL_SCALE
                        )
        for truth in image_truths:
            i = int(truth[0] * width)
            j = int(truth[1] * height)
            if not (0 <= i < width and 0 <= j < height):
                raise ValueError(f"truth {truth} lies outside the {height}x{width} grid")
            n = best_anchor(truth, out[b, j, i], anchors, bias_match, width, height)
            values = out[b, j, i, n]
            scale = coord_scale * (2 - truth[2] * truth[3])
            delta[b, j, i, n, :4], iou = box_delta(
                truth[:4], values, anchors[n], i, j, width, height, scale
            )
            delta[b, j, i, n, 4] = object_scale * ((iou if rescore else 1) - values[4])
            for c in range(classes):
                target = 1 if c == int(truth[4]) else 0
                delta[b, j, i, n, 5 + c] = class_scale * (target - values[5 + c])
    cost = float((delta**2).sum())
    for entry in (0, 1, 4):
        delta[..., entry] *= out[..., entry] * (1 - out[..., entry])
    return cost, -delta.reshape(outputs.shape)
