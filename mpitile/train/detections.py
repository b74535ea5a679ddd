"""Boxes out of the raw outputs of detection layers, and non-maximum suppression.

Detections are rows of a float64 array (n, 6): x, y, w, h (box centre and size
relative to the network's input image), class index, score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpitile.errors import InputError
from mpitile.geometry.box import Box
from mpitile.layers.boxes import box_iou, likelihoods
from mpitile.network.spec import Layer, Shape, Yolo

ROW = 6
_BOX_ENTRIES = 5


def _logistic(values: np.ndarray) -> np.ndarray:
    # Unlike the losses' own it keeps the digits of scores near 0.
    return 1.0 / (1.0 + np.exp(-values))


def _stretched(values: np.ndarray, stretch: float) -> np.ndarray:
    return stretch * _logistic(values) - 0.5 * (stretch - 1)


def decode_region(
    outputs: np.ndarray,
    box_origin: tuple[int, int],
    grid: tuple[int, int],
    anchors: Sequence[tuple[float, float]],
    classes: int,
    softmax: bool,
    threshold: float,
    stretch: float = 1.0,
) -> np.ndarray:
    """Decode a box of cells of one image as Darknet's ``[region]`` layer does.

    Each cell is decoded by itself, so the rows of all tiles together are the rows
    of the whole tensor; `sort_rows` brings both into the same order.

    Parameters
    ----------
    outputs : (h, w, A * (5 + classes)), the layer's input before any activation;
        channel ``a * (5 + classes) + entry`` with entries tx, ty, tw, th,
        objectness, classes.
    box_origin : (y0, x0), the first cell's place in the whole tensor.
    grid : (H, W), rows and columns of the whole tensor.
    anchors : A pairs (width, height) in cells.
    classes : number of classes.
    softmax : softmax over the classes, else a logistic function of each.
    threshold : only scores above it are kept; in [0, 1].
    stretch : how far x and y reach, about the cell's middle.

    Returns
    -------
    (n, 6) float64 rows, one for each (cell, anchor, class) whose score is above the
    threshold, in the order of rows, columns, anchors, classes.

    Raises
    ------
    InputError
        Where the channels do not fit anchors and classes, the cells lie outside the
        grid, or the threshold is not in [0, 1].
    """
    entries = _BOX_ENTRIES + classes
    channels = len(anchors) * entries
    if outputs.ndim != 3 or outputs.shape[2] != channels:
        raise InputError(
            f"region outputs: expected (h, w, {channels}) for {len(anchors)} anchors and "
            f"{classes} classes, got {outputs.shape}"
        )
    rows, columns = outputs.shape[:2]
    (y0, x0), (height, width) = box_origin, grid
    if y0 < 0 or x0 < 0 or y0 + rows > height or x0 + columns > width:
        raise InputError(
            f"region outputs: expected cells inside the {height}x{width} grid, "
            f"got {rows}x{columns} cells from row {y0}, column {x0}"
        )
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"detection threshold: expected a number in [0, 1], got {threshold}")

    cells = np.asarray(outputs, dtype=np.float64).reshape(rows, columns, len(anchors), entries)
    # A diverged network's outputs saturate to 0, 1 or inf, which are decoded as such.
    with np.errstate(over="ignore", invalid="ignore"):
        objectness = _logistic(cells[..., 4])
        # Class probabilities never exceed 1: other cells cannot come above the threshold.
        i, j, a = np.nonzero(objectness > threshold)
        chosen = cells[i, j, a]
        sizes = np.asarray(anchors, dtype=np.float64)[a]
        boxes = np.stack(
            [
                (x0 + j + _stretched(chosen[:, 0], stretch)) / width,
                (y0 + i + _stretched(chosen[:, 1], stretch)) / height,
                np.exp(chosen[:, 2]) * sizes[:, 0] / width,
                np.exp(chosen[:, 3]) * sizes[:, 1] / height,
            ],
            axis=1,
        )
        classes = chosen[:, _BOX_ENTRIES:]
        probabilities = likelihoods(classes) if softmax else _logistic(classes)
        scores = objectness[i, j, a][:, None] * probabilities
    found, class_index = np.nonzero(scores > threshold)
    result = np.empty((len(found), ROW))
    result[:, :4] = boxes[found]
    result[:, 4] = class_index
    result[:, 5] = scores[found, class_index]
    return result


def decode_head(
    layer: Layer, image: Shape, outputs: np.ndarray, owned: Box, threshold: float
) -> np.ndarray:
    """Decode the cells `owned` of a ``[region]`` or ``[yolo]`` layer; see `decode_region`.

    Parameters
    ----------
    image : size of the network's input, in whose cells a ``[yolo]`` has its anchors.
    """
    operation, shape = layer.operation, layer.output_shape
    anchors, softmax, stretch = operation.anchors, False, 1.0
    if isinstance(operation, Yolo):
        stretch = operation.scale_x_y
        cell_width, cell_height = image.width / shape.width, image.height / shape.height
        anchors = tuple(
            (anchors[number][0] / cell_width, anchors[number][1] / cell_height)
            for number in operation.mask
        )
    else:
        softmax = operation.softmax
    return decode_region(
        outputs,
        (owned.y0, owned.x0),
        (shape.height, shape.width),
        anchors,
        operation.classes,
        softmax,
        threshold,
        stretch,
    )


def sort_rows(rows: np.ndarray) -> np.ndarray:
    """Rows in canonical order: score descending, then x, y, w, h and class ascending."""
    x, y, w, h, class_index, score = rows.T
    return rows[np.lexsort((class_index, h, w, y, x, -score))]


def suppress(rows: np.ndarray, threshold: float = 0.45) -> np.ndarray:
    """Greedy non-maximum suppression of one image's rows, each class by itself.

    From the highest score down, a row that is kept removes the later rows of its class
    whose IoU with it is above `threshold`, as Darknet's ``do_nms_sort`` does. Returns
    the kept rows in the order of `sort_rows`, whatever the order that they came in.
    """
    rows = sort_rows(rows)
    kept = np.ones(len(rows), dtype=bool)
    for class_index in np.unique(rows[:, 4]):
        members = np.flatnonzero(rows[:, 4] == class_index)
        boxes = rows[members, :4]
        for place, member in enumerate(members):
            if kept[member]:
                overlaps = box_iou(boxes[place], boxes[place + 1 :])
                kept[members[place + 1 :][overlaps > threshold]] = False
    return rows[kept]
