"""The part of a batch's images that lies in one box, loaded ahead of its use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from mpitile.data.augment import Augmentation, distort, draw
from mpitile.data.images import read_image
from mpitile.data.order import sample_index
from mpitile.data.placement import letterbox, place_truths, sample_box
from mpitile.data.samples import CLASSIFICATION, Dataset
from mpitile.errors import InputError
from mpitile.geometry.box import Box

T = TypeVar("T")


def load_image(
    dataset: Dataset,
    index: int,
    canvas: tuple[int, int],
    box: Box,
    augmentation: Augmentation | None,
    seed: int,
    position: int,
    dtype: DTypeLike,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample `index`: the cells of `box`, and the truths of the whole canvas.

    Parameters
    ----------
    canvas : height and width of the network's input.
    augmentation : None places the image by letterbox and changes nothing else.
    position : of the image in the run; with `seed` it decides what is drawn.
    out : written to, where given: (box.height, box.width, 3) of `dtype`.

    Returns
    -------
    Pixels (box.height, box.width, 3) in [0, 1], and truths (k, 5) relative to the canvas.

    Raises
    ------
    InputError
        where the image cannot be read; `out` is then as it was.
    """
    height, width = canvas
    drawn = None if augmentation is None else draw(augmentation, seed, position)
    sample = dataset.samples[index]
    image = read_image(sample.image)
    place = letterbox if drawn is None else drawn.placement
    placement = place(image.shape[1], image.shape[0], width, height)
    pixels = sample_box(image, placement, box, dtype, out)
    if drawn is not None:
        distort(pixels, drawn)
    return pixels, place_truths(sample.truths, placement)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One image of a batch; `unreadable` says why its pixels are zero, else it is empty."""

    image: np.ndarray
    truths: np.ndarray
    label: int | None
    unreadable: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images of consecutive positions.

    Attributes
    ----------
    images : (n, box.height, box.width, 3) in [0, 1].
    truths : for each image float64 (k, 5), relative to the canvas; (0, 5) in classification.
    labels : int64 (n,) class indices in classification, else None.
    unreadable : for each image why it could not be read, else an empty string.
    names : of the samples.
    """

    images: np.ndarray
    truths: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    unreadable: tuple[str, ...]
    names: tuple[str, ...]

    def with_item(self, slot: int, item: Item) -> Batch:
        """The batch with another image in `slot`; pixels and label are written in place."""
        self.images[slot] = item.image
        if self.labels is not None:
            self.labels[slot] = item.label
        return replace(
            self,
            truths=_replaced(self.truths, slot, item.truths),
            unreadable=_replaced(self.unreadable, slot, item.unreadable),
            names=_replaced(self.names, slot, item.name),
        )


@dataclass(frozen=True, slots=True, eq=False)
class BatchSource:
    """Loads batches by position; what it gives depends on nothing that it did before.

    An image that cannot be read does not raise, as other ranks may have read it: its
    pixels are zero and the batch says so. Ranks that have agreed on it take the
    substitute, ``load_one(position, 1)``, then 2 and so on: attempt k is sample
    ``(index + k) mod count`` with the position's own augmentation, so that every rank, and
    a run that is taken up again, takes the same one. Where the attempts reach
    the number of samples, none can be read.

    Attributes
    ----------
    canvas : height and width of the network's input.
    box : the cells to load, in the canvas's coordinates.
    augmentation : None for none (validation).
    channels : of the network's input; must be 3.
    """

    dataset: Dataset
    canvas: tuple[int, int]
    box: Box
    dtype: DTypeLike
    seed: int = 0
    shuffle: bool = False
    augmentation: Augmentation | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels != 3:
            raise InputError(f"[net] channels: expected 3 (images are RGB), got {self.channels}")
        if self.seed < 0:
            raise InputError(f"train.seed: expected at least 0, got {self.seed}")

    def load(self, positions: range, out: np.ndarray | None = None) -> Batch:
        """Loads the images at `positions`, into `out` where given (shape of `Batch.images`)."""
        if out is None:
            out = np.empty((len(positions), self.box.height, self.box.width, 3), self.dtype)
        items = [
            self.load_one(position, 0, image)
            for position, image in zip(positions, out, strict=True)
        ]
        labels = None
        if self.dataset.kind == CLASSIFICATION:
            labels = np.array([item.label for item in items], dtype=np.int64)
        return Batch(
            out,
            tuple(item.truths for item in items),
            labels,
            tuple(item.unreadable for item in items),
            tuple(item.name for item in items),
        )

    def load_one(self, position: int, attempt: int, out: np.ndarray | None = None) -> Item:
        """Loads the image at `position`, or its substitute number `attempt`."""
        count = len(self.dataset)
        index = (sample_index(position, count, self.seed, self.shuffle) + attempt) % count
        if out is None:
            out = np.empty((self.box.height, self.box.width, 3), self.dtype)
        unreadable = ""
        try:
            _, truths = load_image(
                self.dataset,
                index,
                self.canvas,
                self.box,
                self.augmentation,
                self.seed,
                position,
                self.dtype,
                out,
            )
        except InputError as error:
            unreadable, truths = str(error), np.zeros((0, 5))
            out[...] = 0
        sample = self.dataset.samples[index]
        return Item(out, truths, sample.label, unreadable, sample.name)


class Prefetcher(Generic[T]):
    """Computes the next item in a background thread while the present one is in use.

    Item ``step + 1`` begins when item `step` is handed out and no earlier, so that two
    buffers in turn are enough for what `load` writes to. An exception in `load` comes out
    of `get`. Close it, or use it in a ``with`` statement.

    Parameters
    ----------
    load : computes an item from its step; runs in one thread at a time.
    first, last : steps run over ``range(first, last)``, in order.
    """

    def __init__(self, load: Callable[[int], T], first: int, last: int) -> None:
        self._load = load
        self._last = last
        self._step = first
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mpitile-prefetch")
        self._future: Future[T] | None = self._begin(first)

    def get(self, step: int) -> T:
        """The item of `step`, which must be the next one; begins the one after it."""
        if step != self._step or self._future is None:
            ahead = "none" if self._future is None else str(self._step)
            raise ValueError(f"expected the next step, {ahead}, got {step}")
        item = self._future.result()
        self._step = step + 1
        self._future = self._begin(step + 1)
        return item

    def close(self) -> None:
        """Waits for the item in work and ends the thread; nothing can be got afterwards."""
        self._future = None
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, step: int) -> Future[T] | None:
        return self._executor.submit(self._load, step) if step < self._last else None


def _replaced(values: tuple[T, ...], slot: int, value: T) -> tuple[T, ...]:
    return (*values[:slot], value, *values[slot + 1 :])
