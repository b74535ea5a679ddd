"""Batches by box, substitutes for unreadable images, and loading ahead."""

import threading

import numpy as np
import pytest
from PIL import Image

from mpitile.data.augment import Augmentation
from mpitile.data.batches import BatchSource, Prefetcher, load_image
from mpitile.data.datasets import read_dataset
from mpitile.errors import InputError
from mpitile.geometry.box import Box, whole

CANVAS = (32, 48)


@pytest.fixture
def yolo(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(5):
        pixels = rng.integers(0, 256, (20 + number, 40 - number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "labels" / f"{number}.txt").write_text(f"{number % 2} .5 .5 .3 .{number + 1}")
    return read_dataset("yolo", tmp_path, None, ["disc", "square"])[0]


def test_tiles_put_together_are_the_whole_batch(yolo):
    options = {"seed": 4, "shuffle": True, "augmentation": Augmentation()}
    positions = range(3, 9)
    batch = BatchSource(yolo, CANVAS, whole(*CANVAS), np.float32, **options).load(positions)
    assert batch.images.shape == (6, 32, 48, 3) and batch.images.dtype == np.float32
    assert batch.labels is None and batch.unreadable == ("",) * 6
    assert len({image.tobytes() for image in batch.images}) == 6
    for box in (Box(0, 13, 0, 48), Box(13, 32, 0, 20), Box(13, 32, 20, 48), Box(5, 5, 0, 9)):
        part = BatchSource(yolo, CANVAS, box, np.float32, **options).load(positions)
        np.testing.assert_array_equal(part.images, batch.images[:, *box.slices()])
        assert part.names == batch.names
        for ours, theirs in zip(part.truths, batch.truths, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_plain_batches_follow_the_list(yolo):
    source = BatchSource(yolo, CANVAS, whole(*CANVAS), np.float64)
    batch = source.load(range(3, 7))
    assert batch.names == ("3", "4", "0", "1")
    pixels, truths = load_image(yolo, 4, CANVAS, whole(*CANVAS), None, 0, 4, np.float64)
    np.testing.assert_array_equal(batch.images[1], pixels)
    np.testing.assert_array_equal(batch.truths[1], truths)


def test_loads_into_a_given_buffer(yolo):
    source = BatchSource(yolo, CANVAS, Box(0, 10, 4, 20), np.float32, augmentation=Augmentation())
    out = np.full((2, 10, 16, 3), np.nan, np.float32)
    assert source.load(range(2), out).images is out
    np.testing.assert_array_equal(out, source.load(range(2)).images)


def test_classification_has_labels(tmp_path):
    for stem in ("cat/0", "dog/0", "dog/1"):
        path = tmp_path / f"{stem}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    dataset, _ = read_dataset("folders", tmp_path, None, None)
    batch = BatchSource(dataset, (8, 8), whole(8, 8), np.float32).load(range(3))
    assert batch.labels.tolist() == [0, 1, 1]
    assert [len(truths) for truths in batch.truths] == [0, 0, 0]


def test_an_unreadable_image_is_told_and_substituted(yolo):
    yolo.samples[1].image.write_bytes(b"broken")
    yolo.samples[2].image.unlink()
    augmentation = Augmentation()
    source = BatchSource(
        yolo, CANVAS, Box(2, 20, 3, 40), np.float32, seed=9, augmentation=augmentation
    )
    batch = source.load(range(3))
    assert batch.unreadable[0] == ""
    assert "1.png" in batch.unreadable[1] and "2.png" in batch.unreadable[2]
    assert batch.images[0].any() and not batch.images[1:].any()
    assert batch.truths[1].shape == (0, 5)

    assert "2.png" in source.load_one(1, 1).unreadable
    item = source.load_one(1, 2)
    assert item.unreadable == "" and item.name == "3"
    expected, truths = load_image(
        yolo, 3, CANVAS, Box(2, 20, 3, 40), augmentation, 9, 1, np.float32
    )
    np.testing.assert_array_equal(item.image, expected)
    mended = batch.with_item(1, item)
    np.testing.assert_array_equal(mended.images[1], expected)
    np.testing.assert_array_equal(mended.truths[1], truths)
    assert mended.names == ("0", "3", "2")
    assert [bool(text) for text in mended.unreadable] == [False, False, True]


def test_substitutes_go_round_the_data_set(yolo):
    source = BatchSource(yolo, CANVAS, whole(*CANVAS), np.float32)
    assert [source.load_one(4, attempt).name for attempt in range(3)] == ["4", "0", "1"]


@pytest.mark.parametrize(("key", "value"), [("channels", 1), ("seed", -1)])
def test_bad_options_are_named(yolo, key, value):
    with pytest.raises(InputError, match=key):
        BatchSource(yolo, CANVAS, whole(*CANVAS), np.float32, **{key: value})


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name.startswith("mpitile-prefetch")]


def test_the_next_item_and_no_later_one_is_loaded_ahead():
    begun = []
    done = [threading.Event() for _ in range(6)]

    def load(step):
        begun.append(step)
        done[step].set()
        return step * 10

    with Prefetcher(load, 2, 6) as prefetcher:
        for step in range(2, 6):
            assert done[step].wait(10)
            # Item `step` is complete, and the one after it has not been asked for.
            assert begun == list(range(2, step + 1))
            assert prefetcher.get(step) == step * 10
        with pytest.raises(ValueError, match="none"):
            prefetcher.get(6)
    assert begun == [2, 3, 4, 5]
    assert not prefetch_threads()


def test_steps_come_in_order_only():
    with Prefetcher(str, 0, 5) as prefetcher:
        with pytest.raises(ValueError, match="expected the next step, 0, got 1"):
            prefetcher.get(1)
        assert prefetcher.get(0) == "0"


def test_an_exception_of_the_thread_comes_out_of_get():
    def load(step):
        if step == 1:
            raise InputError("image 1 is broken")
        return step

    with Prefetcher(load, 0, 5) as prefetcher:
        assert prefetcher.get(0) == 0
        for _ in range(2):
            with pytest.raises(InputError, match="image 1"):
                prefetcher.get(1)
    assert not prefetch_threads()


def test_closing_early_ends_the_thread_and_may_be_repeated():
    started = threading.Event()
    prefetcher = Prefetcher(lambda step: started.set(), 0, 3)
    assert started.wait(10) and prefetch_threads()
    prefetcher.close()
    prefetcher.close()
    assert not prefetch_threads()
    with pytest.raises(ValueError, match="got 0"):
        prefetcher.get(0)
