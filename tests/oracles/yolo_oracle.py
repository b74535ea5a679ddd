"""Darknet's ``[yolo]`` loss, loop by loop in float64, as an independent reference.

Semantics of ``src/yolo_layer.c`` of pjreddie/darknet (YOLOv3), with ``scale_x_y`` as later
versions have it. What follows from them:

- the deltas that the cost sums up are taken with respect to the activated outputs and go back
  as they are: no derivative of the logistic function enters;
- a prediction whose best IoU is above `ignore_thresh` has no "no object" delta; one above
  `truth_thresh` learns that truth, the first of equally good ones;
- then every truth, in order, is taught to one box: that of its cell and of the anchor, among
  all of the network's, whose shape overlaps its own most; not at all, where that anchor is not
  in this layer's mask. Deltas are *assigned*: a later truth overwrites an earlier one's box;
- but classes add up: where a box has a delta for its first class already, the later truth
  sets its own class's delta alone;
- anchors are in cells of the network's input; a truth with x == 0 ends an image's list.
"""

import math

import numpy as np
from region_oracle import box_iou, listed, logistic


def activate(raw, stretch):
    """One anchor's entries of one cell after Darknet's forward activations."""
    out = [float(value) for value in raw]
    for entry in range(len(out)):
        if entry not in (2, 3):
            out[entry] = logistic(out[entry])
    for entry in (0, 1):
        out[entry] = out[entry] * stretch - 0.5 * (stretch - 1)
    return out


def yolo_box(out, anchor, i, j, grid, image):
    return (
        (i + out[0]) / grid[1],
        (j + out[1]) / grid[0],
        math.exp(out[2]) * anchor[0] / image[1],
        math.exp(out[3]) * anchor[1] / image[0],
    )


def teach(delta, out, truth, anchor, i, j, grid, image):
    """Assign the deltas of one box towards a truth."""
    targets = (
        truth[0] * grid[1] - i,
        truth[1] * grid[0] - j,
        math.log(truth[2] * image[1] / anchor[0]),
        math.log(truth[3] * image[0] / anchor[1]),
    )
    scale = 2 - truth[2] * truth[3]
    for entry in range(4):
        delta[entry] = scale * (targets[entry] - out[entry])
    delta[4] = 1 - out[4]
    number = int(truth[4])
    if delta[5] != 0:
        delta[5 + number] = 1 - out[5 + number]
        return
    for entry in range(5, len(out)):
        delta[entry] = (1 if entry == 5 + number else 0) - out[entry]


def nearest_anchor(truth, anchors, image):
    best, best_iou = 0, 0.0
    for n, anchor in enumerate(anchors):
        shape = (anchor[0] / image[1], anchor[1] / image[0])
        iou = box_iou((0.0, 0.0, *shape), (0.0, 0.0, truth[2], truth[3]))
        if iou > best_iou:
            best, best_iou = n, iou
    return best


def yolo_oracle(
    outputs, truths, image, anchors, mask, classes, ignore_thresh, truth_thresh, scale_x_y
):
    """Cost and gradient of one yolo layer in training.

    Parameters
    ----------
    outputs : (N, H, W, len(mask) * (5 + classes)) raw outputs, channels last; channel
        ``m * (5 + classes) + entry`` with entries x, y, w, h, objectness, classes.
    truths : N arrays (n, 5) of x, y, w, h (relative, box centre and size) and class.
    image : height and width of the network's input.
    anchors : pairs (width, height) in cells of the input; `mask` has this layer's numbers.

    Returns
    -------
    cost : the sum of all squared deltas.
    gradient : like `outputs`, float64; minus Darknet's delta, to be minimised.
    """
    count, height, width, _ = outputs.shape
    grid = (height, width)
    shape = (count, height, width, len(mask), 5 + classes)
    raw = np.asarray(outputs, np.float64).reshape(shape)
    out, delta = np.zeros(shape), np.zeros(shape)
    for b in range(count):
        known = listed(truths[b])
        for j in range(height):
            for i in range(width):
                for m, number in enumerate(mask):
                    values = activate(raw[b, j, i, m], scale_x_y)
                    out[b, j, i, m] = values
                    predicted = yolo_box(values, anchors[number], i, j, grid, image)
                    best_iou, best = 0.0, None
                    for truth in known:
                        iou = box_iou(predicted, truth[:4])
                        if iou > best_iou:
                            best_iou, best = iou, truth
                    cell = delta[b, j, i, m]
                    cell[4] = 0 if best_iou > ignore_thresh else 0 - values[4]
                    if best_iou > truth_thresh:
                        teach(cell, values, best, anchors[number], i, j, grid, image)
        for truth in known:
            i, j = int(truth[0] * width), int(truth[1] * height)
            n = nearest_anchor(truth, anchors, image)
            if n in mask:
                m = mask.index(n)
                teach(delta[b, j, i, m], out[b, j, i, m], truth, anchors[n], i, j, grid, image)
    return float((delta**2).sum()), -delta.reshape(outputs.shape)
