"""YOLOv3's ``[yolo]`` loss with Darknet's semantics, by the owner of each cell."""

from __future__ import annotations

import numpy as np

from mpitile.layers.base import Site
from mpitile.layers.boxes import box_iou, logistic
from mpitile.layers.cell_loss import CellLoss
from mpitile.network.spec import Shape


class YoloLoss(CellLoss):
    """Loss and gradient of the cells that this tile owns.

    As Darknet's yolo layer trains: the loss is the sum of squares of all deltas, and the
    deltas themselves, taken with respect to the activated outputs, go back unchanged: x, y,
    objectness and classes are those of cross-entropy. Every truth belongs to the anchor, of all
    losses' anchors, whose shape is nearest; where that is another loss's, this one learns
    nothing of it. The output is a copy of the raw input.

    Parameters
    ----------
    image : size of the network's input, in whose cells anchors are given.
    """

    def __init__(self, site: Site, image: Shape) -> None:
        super().__init__(site)
        yolo = site.layer.operation
        shape = site.layer.output_shape
        self._yolo = yolo
        self._size = shape.height, shape.width
        # Anchor shapes relative to the image.
        self._priors = np.array(yolo.anchors, np.float64) / (image.width, image.height)
        self._own = self._priors[list(yolo.mask)]

    def _image(
        self, values: np.ndarray, truths: np.ndarray, gradient: np.ndarray, seen: int
    ) -> float:
        entries = 5 + self._yolo.classes
        shape = (*values.shape[:2], len(self._own), entries)
        found = values.reshape(shape).astype(np.float64)
        for entry in (slice(0, 2), slice(4, entries)):
            found[..., entry] = logistic(found[..., entry])
        stretch = self._yolo.scale_x_y
        found[..., :2] = stretch * found[..., :2] - 0.5 * (stretch - 1)
        delta = np.zeros_like(found)
        limit = self._yolo.max_boxes
        truths = np.asarray(truths, np.float64)[: limit or None]
        self._background(delta, found, truths)
        for truth in truths:
            self._object(delta, found, truth)
        gradient[...] = -delta.reshape(values.shape)
        return float(np.square(delta).sum())

    def _boxes(self, found: np.ndarray) -> np.ndarray:
        """Predicted x, y, width, height relative to the image, of the owned cells."""
        height, width = self._size
        owned = self.site.owned
        columns = np.arange(owned.x0, owned.x0 + owned.width)[None, :, None]
        rows = np.arange(owned.y0, owned.y0 + owned.height)[:, None, None]
        boxes = np.empty((*found.shape[:-1], 4))
        boxes[..., 0] = (columns + found[..., 0]) / width
        boxes[..., 1] = (rows + found[..., 1]) / height
        boxes[..., 2:] = np.exp(found[..., 2:4]) * self._own
        return boxes

    def _background(self, delta: np.ndarray, found: np.ndarray, truths: np.ndarray) -> None:
        """No object anywhere, but where a prediction overlaps a truth; very well, that truth."""
        yolo = self._yolo
        boxes = self._boxes(found)
        best, which = np.zeros(boxes.shape[:-1]), np.zeros(boxes.shape[:-1], np.intp)
        for number, truth in enumerate(truths):
            overlaps = box_iou(boxes, truth[:4])
            which[overlaps > best] = number
            np.maximum(best, overlaps, out=best)
        delta[..., 4] = 0 - found[..., 4]
        delta[..., 4][best > yolo.ignore_thresh] = 0
        for row, column, anchor in np.argwhere(best > yolo.truth_thresh):
            self._learn(delta, found, truths[which[row, column, anchor]], row, column, anchor)

    def _object(self, delta: np.ndarray, found: np.ndarray, truth: np.ndarray) -> None:
        """The truth's cell, if owned, learns it at the nearest anchor, if that is this loss's."""
        centred = np.concatenate([np.zeros_like(self._priors), self._priors], axis=1)
        best = int(np.argmax(box_iou(centred, np.array([0, 0, truth[2], truth[3]]))))
        if best not in self._yolo.mask:
            return
        height, width = self._size
        owned = self.site.owned
        row, column = int(truth[1] * height) - owned.y0, int(truth[0] * width) - owned.x0
        if 0 <= row < owned.height and 0 <= column < owned.width:
            self._learn(delta, found, truth, row, column, self._yolo.mask.index(best))

    def _learn(
        self,
        delta: np.ndarray,
        found: np.ndarray,
        truth: np.ndarray,
        row: int,
        column: int,
        anchor: int,
    ) -> None:
        height, width = self._size
        owned = self.site.owned
        learnt, own = delta[row, column, anchor], found[row, column, anchor]
        scale = 2 - truth[2] * truth[3]
        learnt[0] = scale * (truth[0] * width - (owned.x0 + column) - own[0])
        learnt[1] = scale * (truth[1] * height - (owned.y0 + row) - own[1])
        learnt[2:4] = scale * (np.log(truth[2:4] / self._own[anchor]) - own[2:4])
        learnt[4] = 1 - own[4]
        classes, number = learnt[5:], int(truth[4])
        if not classes[0]:
            classes[:] = 0 - own[5:]
        # A box that has learnt a class already keeps it beside the new one.
        classes[number] = 1 - own[5 + number]
