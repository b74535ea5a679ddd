"""Canvas cells by box, against a plain loop over Darknet's formulas and against each other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.data.augment import Augmentation, distort, draw
from mpitile.data.placement import (
    Placement,
    jittered,
    letterbox,
    place_truths,
    restore_boxes,
    sample_box,
)
from mpitile.geometry.box import EMPTY, Box, whole


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def looped(image, p):
    """The unflipped canvas by Darknet's loops (resize_image + embed_image, or place_image)."""
    pixels = image / 255
    source_h, source_w, _ = image.shape

    def pixel(y, x):
        return pixels[y, x] if 0 <= y < source_h and 0 <= x < source_w else np.zeros(3)

    def point(step, new, source):
        if not p.letterbox:
            return step / new * source
        return source - 1 if step == new - 1 else step * (source - 1) / (new - 1)

    canvas = np.full((p.canvas_height, p.canvas_width, 3), 0.5)
    for row in range(p.new_height):
        for column in range(p.new_width):
            y, x = row + p.dy, column + p.dx
            if not (0 <= y < p.canvas_height and 0 <= x < p.canvas_width):
                continue
            sy = point(row, p.new_height, source_h)
            sx = point(column, p.new_width, source_w)
            iy, ix = math.floor(sy), math.floor(sx)
            ty, tx = sy - iy, sx - ix
            canvas[y, x] = (1 - ty) * ((1 - tx) * pixel(iy, ix) + tx * pixel(iy, ix + 1)) + ty * (
                (1 - tx) * pixel(iy + 1, ix) + tx * pixel(iy + 1, ix + 1)
            )
    return canvas


sizes = st.integers(1, 40)
units = st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4)


@st.composite
def placements(draw_value):
    image_w, image_h, canvas_w, canvas_h = (draw_value(sizes) for _ in range(4))
    if draw_value(st.booleans()):
        return letterbox(image_w, image_h, canvas_w, canvas_h)
    jitter = draw_value(st.sampled_from([0.0, 0.3, 0.9]))
    return jittered(
        draw_value(units), image_w, image_h, canvas_w, canvas_h, jitter, draw_value(st.booleans())
    )


@st.composite
def boxes_in(draw_value, height, width):
    y0, x0 = draw_value(st.integers(0, height)), draw_value(st.integers(0, width))
    return Box(y0, draw_value(st.integers(y0, height)), x0, draw_value(st.integers(x0, width)))


@settings(deadline=None, max_examples=150)
@given(placements())
def test_the_canvas_equals_darknets_loops(placement):
    image = random_image(placement.image_height, placement.image_width)
    canvas = sample_box(
        image, placement, whole(placement.canvas_height, placement.canvas_width), np.float64
    )
    expected = looped(image, placement)
    np.testing.assert_allclose(
        canvas[:, ::-1] if placement.flip else canvas, expected, rtol=0, atol=1e-9
    )


@settings(deadline=None, max_examples=1000)
@given(st.data(), placements(), st.sampled_from([np.float32, np.float64]))
def test_any_box_has_the_bits_of_the_whole_canvas(data, placement, dtype):
    image = random_image(placement.image_height, placement.image_width)
    drawn = draw(Augmentation(hue=0.4), 3, data.draw(st.integers(0, 20)))
    canvas = sample_box(
        image, placement, whole(placement.canvas_height, placement.canvas_width), dtype
    )
    box = data.draw(boxes_in(placement.canvas_height, placement.canvas_width))
    cells = sample_box(image, placement, box, dtype)
    assert cells.shape == (box.height, box.width, 3)
    assert cells.dtype == dtype
    np.testing.assert_array_equal(cells, canvas[box.slices()])
    distort(canvas, drawn)
    distort(cells, drawn)
    np.testing.assert_array_equal(cells, canvas[box.slices()])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_image_of_the_canvas_size_is_taken_exactly(dtype):
    image = random_image(37, 53)
    canvas = sample_box(image, letterbox(53, 37, 53, 37), whole(37, 53), dtype)
    np.testing.assert_array_equal(canvas, image.astype(dtype) / 255)


def test_letterbox_keeps_the_aspect_and_centres():
    assert letterbox(640, 480, 416, 416) == Placement(
        640, 480, 416, 416, 416, 312, 0, 52, letterbox=True
    )
    assert letterbox(100, 333, 64, 32) == Placement(100, 333, 64, 32, 9, 32, 27, 0, letterbox=True)


def test_no_image_is_too_thin_to_place():
    image = random_image(1, 500)
    canvas = sample_box(image, letterbox(500, 1, 32, 32), whole(32, 32), np.float32)
    assert (canvas != 0.5).any(axis=2).sum() == 32


def test_an_empty_box_has_no_cells():
    assert sample_box(random_image(4, 4), letterbox(4, 4, 8, 8), EMPTY, "float32").size == 0


def test_out_is_written_in_every_cell():
    image, placement, box = random_image(20, 40), letterbox(40, 20, 32, 32), Box(3, 20, 5, 30)
    out = np.full((17, 25, 3), np.nan, dtype=np.float32)
    assert sample_box(image, placement, box, np.float32, out) is out
    np.testing.assert_array_equal(out, sample_box(image, placement, box, np.float32))


@settings(deadline=None, max_examples=150)
@given(units, st.booleans(), st.booleans(), st.integers(30, 90), st.integers(30, 90))
def test_a_moved_truth_lies_where_its_pixels_lie(unit, boxed, flip, image_w, image_h):
    image = np.zeros((image_h, image_w, 3), dtype=np.uint8)
    x0, x1, y0, y1 = image_w // 5, image_w * 3 // 5, image_h // 4, image_h * 3 // 4
    image[y0:y1, x0:x1] = 255
    canvas_w, canvas_h = 128, 96
    if boxed:
        placement = letterbox(image_w, image_h, canvas_w, canvas_h)
    else:
        placement = jittered(unit, image_w, image_h, canvas_w, canvas_h, 0.3, flip)
    truth = np.array(
        [
            [
                (x0 + x1) / 2 / image_w,
                (y0 + y1) / 2 / image_h,
                (x1 - x0) / image_w,
                (y1 - y0) / image_h,
                2.0,
            ]
        ]
    )
    moved = place_truths(truth, placement)
    assert moved.shape == (1, 5) and moved[0, 4] == 2
    white = sample_box(image, placement, whole(canvas_h, canvas_w), np.float64)[:, :, 0] > 0.75
    columns, rows = np.flatnonzero(white.any(axis=0)), np.flatnonzero(white.any(axis=1))
    found = (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1)
    x, y, w, h, _ = moved[0]
    told = (
        (x - w / 2) * canvas_w,
        (x + w / 2) * canvas_w,
        (y - h / 2) * canvas_h,
        (y + h / 2) * canvas_h,
    )
    # Enlarging blurs an edge over about two of the source's pixels.
    slack = 2 + max(placement.new_width / image_w, placement.new_height / image_h)
    np.testing.assert_allclose(found, told, rtol=0, atol=slack)


def test_a_flip_mirrors_truths_exactly():
    plain = jittered((0.5, 0.5, 0.3, 0.6), 40, 30, 64, 64, 0.2)
    mirrored = jittered((0.5, 0.5, 0.3, 0.6), 40, 30, 64, 64, 0.2, flip=True)
    truth = np.array([[0.3, 0.4, 0.2, 0.1, 1.0]])
    expected = place_truths(truth, plain)
    expected[:, 0] = 1 - expected[:, 0]
    np.testing.assert_allclose(place_truths(truth, mirrored), expected, atol=1e-15)


def test_truths_are_clipped_and_specks_dropped():
    placement = letterbox(10, 10, 20, 20)
    truths = np.array(
        [
            [0.0, 0.5, 0.4, 0.2, 0.0],
            [1.1, 0.5, 0.2002, 0.2, 1.0],
            [0.5, 0.5, 0.3, 0.0009, 2.0],
            [0.5, 0.5, 0.002, 0.002, 3.0],
        ]
    )
    moved = place_truths(truths, placement)
    np.testing.assert_allclose(moved[0], [0.1, 0.5, 0.2, 0.2, 0.0], atol=1e-15)
    assert moved[:, 4].tolist() == [0.0, 3.0]
    assert place_truths(np.zeros((0, 5)), placement).shape == (0, 5)


@settings(deadline=None, max_examples=100)
@given(placements(), st.integers(0, 2**31))
def test_restoring_undoes_placing(placement, seed):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate(
        [rng.uniform(0.2, 0.8, (4, 2)), rng.uniform(0.1, 0.2, (4, 2)), rng.integers(0, 5, (4, 1))],
        axis=1,
    )
    moved = place_truths(boxes, placement)
    restored = restore_boxes(moved, placement)
    inside = (moved[:, :2] - moved[:, 2:4] / 2 > 0) & (moved[:, :2] + moved[:, 2:4] / 2 < 1)
    for row, kept in zip(restored, inside.all(axis=1), strict=True):
        if kept:
            assert np.abs(boxes - row).max(axis=1).min() < 1e-9
