"""YOLOv2's detection loss in PyTorch, all truths of a batch at once, for benchmarks."""

import numpy as np
import torch
import torch.nn.functional as F


class RegionLoss:
    """A scalar whose gradient is that of Darknet's ``[region]``, past its first 12,800 images.

    `truths` are arrays (n, 5) of x, y, width, height and class, one for each image.
    """

    def __init__(self, region, rows, columns, truths):
        self.region, self.rows, self.columns = region, rows, columns
        self.size = torch.tensor([columns, rows], dtype=torch.float32)
        self.priors = torch.tensor(region.anchors) / self.size
        self.x = torch.arange(columns)[None, None, None, :]
        self.y = torch.arange(rows)[None, None, :, None]
        images = [np.full(len(of_image), image) for image, of_image in enumerate(truths)]
        self.images = torch.from_numpy(np.concatenate(images))
        self.truths = torch.from_numpy(np.concatenate(truths)).float()

    def __call__(self, raw):
        region, count = self.region, len(self.priors)
        raw = raw.view(len(raw), count, 5 + region.classes, self.rows, self.columns)
        place, objectness = raw[:, :, :2].sigmoid(), raw[:, :, 4].sigmoid()
        with torch.no_grad():
            boxes = self._boxes(place, raw[:, :, 2:4])
            weights, targets = self._background(boxes, objectness)
            column, row = (self.truths[:, :2] * self.size).long().T
            best = self._best(boxes, row, column)
            own = (self.images, best, row, column)
            # A pair of truths in one cell and anchor: only the later one counts.
            number = torch.full(objectness.shape, -1)
            number[own] = torch.arange(len(best))
            kept = number[own] == torch.arange(len(best))
            found = overlap(boxes[own], self.truths)
            weights[own] = region.object_scale
            targets[own] = found if region.rescore else 1.0
            wanted = self.truths[:, :2] * self.size - torch.stack([column, row], 1)
            shape = (self.truths[:, 2:4] / self.priors[best]).log()
            scale = region.coord_scale * (2 - self.truths[:, 2] * self.truths[:, 3]) * kept
        of_places = place.permute(0, 1, 3, 4, 2)[own]
        of_shapes = raw[:, :, 2:4].permute(0, 1, 3, 4, 2)[own]
        classes = raw[:, :, 5:].permute(0, 1, 3, 4, 2)[own]
        squares = (of_places - wanted) ** 2 + (of_shapes - shape) ** 2
        crossed = F.cross_entropy(classes, self.truths[:, 4].long(), reduction="none")
        return (
            0.5 * (weights * (objectness - targets) ** 2).sum()
            + 0.5 * (scale[:, None] * squares).sum()
            + region.class_scale * (crossed * kept).sum()
        )

    def _boxes(self, place, shape):
        """(N, anchors, rows, columns, 4), relative to the image."""
        width, height = self.priors.T[:, None, :, None, None]
        sides = (
            (self.x + place[:, :, 0]) / self.columns,
            (self.y + place[:, :, 1]) / self.rows,
            shape[:, :, 0].exp() * width,
            shape[:, :, 1].exp() * height,
        )
        return torch.stack(sides, -1)

    def _background(self, boxes, objectness):
        """Weights and targets of the objectness where no truth is."""
        weights = torch.full_like(objectness, self.region.noobject_scale)
        overlaps = overlap(boxes[self.images], self.truths[:, None, None, None])
        best = torch.zeros_like(objectness)
        index = self.images[:, None, None, None].expand_as(overlaps)
        best.scatter_reduce_(0, index, overlaps, "amax")
        weights[best > self.region.thresh] = 0
        return weights, torch.zeros_like(objectness)

    def _best(self, boxes, row, column):
        """Each truth's anchor."""
        shapes = self.priors.expand(len(row), -1, -1)
        if not self.region.bias_match:
            shapes = boxes[self.images, :, row, column, 2:]
        sides = torch.minimum(shapes, self.truths[:, None, 2:4]).prod(-1)
        areas = shapes.prod(-1) + self.truths[:, None, 2:4].prod(-1)
        return (sides / (areas - sides)).argmax(1)


def overlap(boxes, truths):
    """Intersection over union of boxes (..., 4) and truths (..., 5)."""
    low = torch.maximum(boxes[..., :2] - boxes[..., 2:] / 2, truths[..., :2] - truths[..., 2:4] / 2)
    high = torch.minimum(
        boxes[..., :2] + boxes[..., 2:] / 2, truths[..., :2] + truths[..., 2:4] / 2
    )
    common = (high - low).clamp(min=0).prod(-1)
    return common / (boxes[..., 2:].prod(-1) + truths[..., 2:4].prod(-1) - common)
