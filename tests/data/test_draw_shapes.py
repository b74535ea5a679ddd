"""The drawn data set can be read in all three formats, and its boxes fit its shapes."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from mpitile.data.datasets import read_dataset
from mpitile.data.images import read_image

SCRIPT = Path(__file__).parents[2] / "jobs" / "draw_shapes.py"
NAMES = ["disc", "square", "triangle"]


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(SCRIPT))["main"]


def run(main, out, *options):
    main([str(out), "--images", "12", "--size", "64", "--seed", "3", *options])
    return out


def test_yolo_and_voc_agree_and_boxes_fit(main, tmp_path):
    yolo_root = run(main, tmp_path / "yolo")
    voc_root = run(main, tmp_path / "voc", "--format", "voc")
    yolo, _ = read_dataset("yolo", yolo_root, "train.txt", NAMES)
    voc, _ = read_dataset("voc", voc_root, "ImageSets/Main/train.txt", NAMES)
    assert len(yolo) == len(voc) == 9
    assert {int(row[4]) for sample in yolo.samples for row in sample.truths} == {0, 1, 2}
    for ours, theirs in zip(yolo.samples, voc.samples, strict=True):
        assert len(ours.truths) > 0
        # Darknet's reading of VOC loses the last pixel of each side.
        np.testing.assert_allclose(ours.truths, theirs.truths, atol=1.01 / 64)
        strong = np.ptp(read_image(ours.image).astype(int), axis=2) > 100
        outside = np.ones((64, 64), bool)
        for x, y, w, h, _ in ours.truths * 64:
            left, top = round(x - w / 2), round(y - h / 2)
            box = (slice(top, top + round(h)), slice(left, left + round(w)))
            outside[box] = False
            assert strong[box].any(axis=0).mean() > 0.8 and strong[box].any(axis=1).mean() > 0.8
        assert not (strong & outside).any()


def test_folders_hold_one_class_each(main, tmp_path):
    root = run(main, tmp_path, "--format", "folders")
    assert (root / "shapes.names").read_text().split() == NAMES
    train, _ = read_dataset("folders", root, "train.txt", NAMES)
    valid, _ = read_dataset("folders", root, "valid.txt", NAMES)
    assert sorted(sample.label for sample in valid.samples) == [0, 1, 2]
    assert len(train) == 9


def test_the_same_seed_draws_the_same_files(main, tmp_path):
    first, second = run(main, tmp_path / "a"), run(main, tmp_path / "b")
    other = run(main, tmp_path / "c", "--seed", "4")
    path = "images/shapes_00007.png"
    assert (first / path).read_bytes() == (second / path).read_bytes()
    assert (first / path).read_bytes() != (other / path).read_bytes()


@pytest.mark.parametrize("bad", [["--images", "1"], ["--size", "x"], ["--format", "coco"]])
def test_bad_usage_exits_with_2(main, tmp_path, bad):
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "out"), *bad])
    assert caught.value.code == 2
