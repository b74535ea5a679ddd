"""Drawn numbers and the colour change, against colorsys."""

import colorsys

import numpy as np
import pytest

from mpitile.data.augment import Augmentation, Drawn, distort, draw
from mpitile.errors import InputError


def drawn(hue=0.0, saturation=1.0, exposure=1.0):
    return Drawn((0, 0, 0, 0), 0.0, False, hue, saturation, exposure)


def reference(pixel, hue, saturation, exposure):
    h, s, v = colorsys.rgb_to_hsv(*pixel)
    h, s, v = (h + hue) % 1.0, s * saturation, v * exposure
    return np.clip(colorsys.hsv_to_rgb(h, s, v), 0, 1)


@pytest.mark.parametrize("hue", [-1.0, -0.37, 0.0, 0.08, 0.5, 1.0])
@pytest.mark.parametrize(("saturation", "exposure"), [(1.0, 1.4), (0.6, 1.0), (1.8, 0.7)])
def test_distort_equals_the_way_through_hsv(hue, saturation, exposure):
    pixels = np.random.default_rng(5).integers(0, 5, (23, 9, 3)) / 4
    expected = np.array(
        [[reference(pixel, hue, saturation, exposure) for pixel in row] for row in pixels]
    )
    distort(pixels, drawn(hue, saturation, exposure))
    np.testing.assert_allclose(pixels, expected, atol=1e-12)


def test_distort_works_in_float32():
    pixels = np.random.default_rng(1).random((40, 30, 3))
    single = pixels.astype(np.float32)
    distort(pixels, drawn(0.2, 1.3, 0.8))
    distort(single, drawn(0.2, 1.3, 0.8))
    np.testing.assert_allclose(single, pixels, atol=1e-5)


def test_no_change_leaves_every_bit():
    pixels = np.random.default_rng(2).random((5, 5, 3))
    before = pixels.copy()
    distort(pixels, drawn())
    np.testing.assert_array_equal(pixels, before)


def test_draws_depend_on_seed_and_position_alone():
    augmentation = Augmentation()
    first = draw(augmentation, 7, 100)
    draw(augmentation, 7, 101)
    assert draw(augmentation, 7, 100) == first
    assert draw(augmentation, 7, 101) != first
    assert draw(augmentation, 8, 100) != first


def test_draws_stay_in_their_ranges_and_fill_them():
    augmentation = Augmentation(jitter=0.2, hue=0.1, saturation=1.5, exposure=2.0)
    draws = [draw(augmentation, 0, position) for position in range(400)]
    for values, low, high in (
        ([d.hue for d in draws], -0.1, 0.1),
        ([d.saturation for d in draws], 1 / 1.5, 1.5),
        ([d.exposure for d in draws], 0.5, 2.0),
        ([d.placement(100, 100, 64, 64).new_width for d in draws], 64 * 0.8 / 1.2 - 1, 64),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert 0.4 < np.mean([d.flip for d in draws]) < 0.6
    assert 0.4 < np.mean([d.exposure < 1 for d in draws]) < 0.6
    assert not any(draw(Augmentation(flip=False), 0, p).flip for p in range(20))


@pytest.mark.parametrize(
    "values", [{"jitter": 1.0}, {"jitter": -0.1}, {"hue": 2}, {"saturation": 0}, {"exposure": -1}]
)
def test_bad_ranges_are_named(values):
    with pytest.raises(InputError, match=next(iter(values))):
        Augmentation(**values)
