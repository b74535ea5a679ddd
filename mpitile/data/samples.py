"""What a data set is: named images with their truth boxes or class labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpitile.errors import InputError

DETECTION = "detection"
CLASSIFICATION = "classification"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image file and what is true of it.

    Attributes
    ----------
    name : what messages call it.
    image : the file; it is not opened before the sample is needed.
    truths : float64 array (n, 5), read-only: x, y (centre), w, h relative to the whole
        image, and class index. Boxes may stick out of the image. No rows in
        classification.
    label : class index in classification, None in detection.
    """

    name: str
    image: Path
    truths: np.ndarray
    label: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Samples in the order of the list (or sorted), and the names of their classes."""

    samples: tuple[Sample, ...]
    names: tuple[str, ...]
    kind: str

    def __len__(self) -> int:
        return len(self.samples)

    def digest(self) -> str:
        """Of all samples' names and what is true of them, but not of their pixels."""
        found = hashlib.sha256()
        for sample in self.samples:
            found.update(repr((sample.name, sample.label, len(sample.truths))).encode())
            found.update(sample.truths.tobytes())
        return found.hexdigest()


@dataclass(frozen=True, slots=True)
class MarkedBox:
    """A truth box as a file gives it: `mark` says which one it is, for messages."""

    mark: str
    x: float
    y: float
    width: float
    height: float
    index: int

    def fault(self) -> str:
        """Why the box cannot be learned from; empty where it can."""
        if self.width <= 0 or self.height <= 0:
            return "is empty"
        inside_x = self.x - self.width / 2 < 1 and self.x + self.width / 2 > 0
        inside_y = self.y - self.height / 2 < 1 and self.y + self.height / 2 > 0
        return "" if inside_x and inside_y else "lies outside the image"


def truth_array(name: str, boxes: Iterable[MarkedBox]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The boxes worth keeping as a read-only (n, 5) array, and a remark on each other one."""
    rows, remarks = [], []
    for box in boxes:
        fault = box.fault()
        if fault:
            remarks.append(f"{name}: {box.mark} {fault}, skipped")
        else:
            rows.append((box.x, box.y, box.width, box.height, box.index))
    truths = np.array(rows, dtype=np.float64).reshape(-1, 5)
    truths.setflags(write=False)
    return truths, tuple(remarks)


def class_names(names: Sequence[str] | None, format_name: str) -> tuple[str, ...]:
    """The class names that the run file gives.

    Raises
    ------
    InputError
        where there are none (boxes cannot be numbered without them) or one comes twice.
    """
    if not names:
        raise InputError(f"data.names: format '{format_name}' needs the class names, got none")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise InputError(f"data.names: each class once, got '{twice[0]}' more than once")
    return tuple(names)
