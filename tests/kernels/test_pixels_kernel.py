"""Pixels to the last bit: those of the NumPy reference, wherever a part begins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.kernels import reference
from mpitile.kernels.pixels import Taps, change_colours, resample

dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.integers(0, 2**32 - 1)
# Around the lengths of vectors, and of the blocks that colours are changed in.
lengths = st.one_of(st.integers(0, 40), st.integers(120, 140), st.integers(250, 400))


def random_taps(rng, source, count, dtype):
    fraction = rng.choice([rng.random(count), np.zeros(count)])
    return Taps(
        rng.integers(0, source, (2, count)), np.stack([1 - fraction, fraction]).astype(dtype)
    )


def random_image(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_pixels(rng, count, dtype):
    """Some of them grey, black, or with two channels alike."""
    pixels = rng.random((count, 3)).astype(dtype)
    few = rng.integers(0, 3, (count, 3)).astype(dtype) / 2
    return np.where(rng.random((count, 1)) < 0.5, pixels, few)


def part_of(taps, part):
    return Taps(taps.cells[:, part].copy(), taps.weights[:, part].copy())


@settings(deadline=None, max_examples=200)
@given(
    seeds, dtypes, st.integers(1, 30), st.integers(1, 90), st.integers(0, 20), st.integers(0, 90)
)
def test_resampling_has_the_references_bits(seed, dtype, height, width, row_count, column_count):
    rng = np.random.default_rng(seed)
    image = random_image(rng, height, width)
    rows = random_taps(rng, height, row_count, dtype)
    columns = random_taps(rng, width, column_count, dtype)
    wider = np.full((row_count, column_count + 2, 3), 7, dtype)
    resample(image, rows, columns, wider[:, 1:-1])
    expected = reference.resample(image, rows.cells, rows.weights, columns.cells, columns.weights)
    assert expected.dtype == dtype
    np.testing.assert_array_equal(wider[:, 1:-1], expected)
    assert (wider[:, [0, -1]] == 7).all()


@settings(deadline=None, max_examples=100)
@given(seeds, dtypes, st.data())
def test_any_part_is_resampled_alike(seed, dtype, data):
    rng = np.random.default_rng(seed)
    image = random_image(rng, 17, 60)
    rows, columns = (random_taps(rng, *sizes, dtype) for sizes in ((17, 11), (60, 50)))
    whole = np.empty((11, 50, 3), dtype)
    resample(image, rows, columns, whole)
    y, x = (slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in (11, 50))
    part = np.empty_like(whole[y, x])
    resample(image, part_of(rows, y), part_of(columns, x), part)
    np.testing.assert_array_equal(part, whole[y, x])
    resample(image, part_of(rows, y), part_of(columns, x).mirrored(), part)
    np.testing.assert_array_equal(part[:, ::-1], whole[y, x])


@settings(deadline=None, max_examples=300)
@given(
    seeds,
    dtypes,
    lengths,
    st.one_of(st.floats(-1, 1), st.sampled_from([-1 / 3, 1 / 6, 0.5])),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_changed_colours_have_the_references_bits(seed, dtype, count, hue, saturation, exposure):
    pixels = random_pixels(np.random.default_rng(seed), count, dtype)
    expected = reference.change_colours(pixels, hue, saturation, exposure)
    assert expected.dtype == dtype
    change_colours(pixels, hue, saturation, exposure)
    np.testing.assert_array_equal(pixels, expected)


@settings(deadline=None, max_examples=100)
@given(seeds, dtypes, lengths, st.integers(0, 200), st.floats(-1, 1))
def test_a_colour_depends_on_its_pixel_alone(seed, dtype, count, before, hue):
    pixels = random_pixels(np.random.default_rng(seed), before + count, dtype)
    part = pixels[before:].copy()
    change_colours(pixels, hue, 1.3, 0.8)
    change_colours(part, hue, 1.3, 0.8)
    np.testing.assert_array_equal(part, pixels[before:])


def taps(cells, dtype=np.float32):
    return Taps(np.array([cells, cells]), np.ones((2, len(cells)), dtype))


IMAGE = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "rows", "columns", "shape", "named"),
    [
        (IMAGE[:, ::2], taps([0]), taps([0]), (1, 1, 3), "image: expected a C-contiguous"),
        (IMAGE[:, :, :2], taps([0]), taps([0]), (1, 1, 3), r"image: expected \(4, 5, 3\)"),
        (IMAGE.astype(int), taps([0]), taps([0]), (1, 1, 3), "image: expected .* uint8"),
        (IMAGE, taps([0, 4]), taps([0]), (2, 1, 3), r"cells of rows: expected them in \[0, 4\)"),
        (IMAGE, taps([0]), taps([-1, 0]), (1, 2, 3), r"cells of columns: .* got -1 to 0"),
        (IMAGE, taps([0], float), taps([0]), (1, 1, 3), "weights of rows: expected .* float32"),
        (IMAGE, taps([0]), taps([0]), (1, 2, 3), r"out: expected \(1, 1, 3\)"),
    ],
)
def test_what_cannot_be_resampled_is_named(image, rows, columns, shape, named):
    with pytest.raises(ValueError, match=named):
        resample(image, rows, columns, np.zeros(shape, np.float32))


def test_rows_that_are_not_contiguous_are_refused():
    with pytest.raises(ValueError, match="contiguous rows"):
        resample(IMAGE, taps([0]), taps([0, 1]), np.zeros((1, 4, 3), np.float32)[:, ::2])


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (np.zeros((4, 3), np.float16), "float32 or float64, got float16"),
        (np.zeros((4, 4)), r"expected \(4, 3\)"),
        (np.zeros((4, 6))[:, ::2], "C-contiguous"),
    ],
)
def test_pixels_whose_colours_cannot_be_changed_are_named(pixels, named):
    with pytest.raises(ValueError, match=named):
        change_colours(pixels, 0.1, 1, 1)
