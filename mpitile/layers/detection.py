"""YOLOv2's ``[region]`` loss with Darknet's semantics, by the owner of each cell."""

from __future__ import annotations

import numpy as np

from mpitile.layers.base import Site
from mpitile.layers.boxes import box_iou, likelihoods, logistic
from mpitile.layers.cell_loss import CellLoss

EARLY_IMAGES = 12800
EARLY_SCALE = 0.01


class RegionLoss(CellLoss):
    """Loss and gradient of the cells that this tile owns.

    As Darknet's region layer trains: the loss is the sum of squares of all deltas;
    deltas of x, y and objectness are then multiplied by the logistic function's
    derivative. Every step of it is local to a cell once the truths are known, so
    that tiles need no communication. The output is a copy of the raw input.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        region = site.layer.operation
        shape = site.layer.output_shape
        self._region = region
        self._size = shape.height, shape.width
        self._anchors = np.array(region.anchors, np.float64)
        # Anchor shapes relative to the image.
        self._priors = self._anchors / (shape.width, shape.height)
        self._entries = 5 + region.classes

    def _image(
        self, values: np.ndarray, truths: np.ndarray, gradient: np.ndarray, seen: int
    ) -> float:
        shape = (*values.shape[:2], len(self._anchors), self._entries)
        raw = values.reshape(shape).astype(np.float64)
        probabilities = self._activate(raw)
        boxes = self._boxes(raw, probabilities)
        delta = np.zeros_like(raw)
        truths = self._limited(truths)
        self._background(delta, raw, probabilities, boxes, truths, seen < EARLY_IMAGES)
        for truth in truths:
            self._object(delta, raw, probabilities, boxes, truth)
        loss = float(np.square(delta).sum())
        slope = probabilities[..., [0, 1, 4]]
        delta[..., [0, 1, 4]] *= slope * (1 - slope)
        gradient[...] = -delta.reshape(values.shape)
        return loss

    def _limited(self, truths: np.ndarray) -> np.ndarray:
        limit = self._region.max_boxes
        return truths[:limit] if limit else truths

    def _activate(self, raw: np.ndarray) -> np.ndarray:
        """Logistic x, y, objectness; class probabilities; width and height stay raw."""
        result = raw.copy()
        result[..., [0, 1, 4]] = logistic(raw[..., [0, 1, 4]])
        classes = raw[..., 5:]
        result[..., 5:] = likelihoods(classes) if self._region.softmax else logistic(classes)
        return result

    def _boxes(self, raw: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Predicted x, y, width, height relative to the image, of the owned cells."""
        height, width = self._size
        owned = self.site.owned
        columns = np.arange(owned.x0, owned.x0 + owned.width)[None, :, None]
        rows = np.arange(owned.y0, owned.y0 + owned.height)[:, None, None]
        boxes = np.empty((*raw.shape[:-1], 4))
        boxes[..., 0] = (columns + probabilities[..., 0]) / width
        boxes[..., 1] = (rows + probabilities[..., 1]) / height
        boxes[..., 2:] = np.exp(raw[..., 2:4]) * self._priors
        return boxes

    def _background(
        self,
        delta: np.ndarray,
        raw: np.ndarray,
        probabilities: np.ndarray,
        boxes: np.ndarray,
        truths: np.ndarray,
        early: bool,
    ) -> None:
        """No object anywhere, but where a prediction overlaps a truth well; early, priors."""
        delta[..., 4] = self._region.noobject_scale * (0 - probabilities[..., 4])
        best = np.zeros(boxes.shape[:-1])
        for truth in truths:
            np.maximum(best, box_iou(boxes, truth[:4]), out=best)
        delta[..., 4][best > self._region.thresh] = 0
        if early:
            delta[..., :2] = EARLY_SCALE * (0.5 - probabilities[..., :2])
            delta[..., 2:4] = EARLY_SCALE * (0 - raw[..., 2:4])

    def _object(
        self,
        delta: np.ndarray,
        raw: np.ndarray,
        probabilities: np.ndarray,
        boxes: np.ndarray,
        truth: np.ndarray,
    ) -> None:
        """The truth's cell, if owned: its best anchor learns box, objectness and class."""
        region, owned = self._region, self.site.owned
        height, width = self._size
        row, column = int(truth[1] * height), int(truth[0] * width)
        y, x = row - owned.y0, column - owned.x0
        if not (0 <= y < owned.height and 0 <= x < owned.width):
            return
        shapes = self._priors if region.bias_match else boxes[y, x, :, 2:]
        centred = np.concatenate([np.zeros_like(shapes), shapes], axis=1)
        best = int(np.argmax(box_iou(centred, np.array([0, 0, truth[2], truth[3]]))))

        cell, own = delta[y, x, best], probabilities[y, x, best]
        scale = region.coord_scale * (2 - truth[2] * truth[3])
        cell[0] = scale * (truth[0] * width - column - own[0])
        cell[1] = scale * (truth[1] * height - row - own[1])
        cell[2:4] = scale * (np.log(truth[2:4] / self._priors[best]) - raw[y, x, best, 2:4])
        iou = float(box_iou(boxes[y, x, best], truth[:4]))
        cell[4] = region.object_scale * ((iou if region.rescore else 1.0) - own[4])
        cell[5:] = region.class_scale * (0 - own[5:])
        cell[5 + int(truth[4])] += region.class_scale
