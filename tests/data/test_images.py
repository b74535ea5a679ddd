import warnings

import numpy as np
import pytest
from PIL import Image

from mpitile.data.images import image_size, read_image
from mpitile.errors import InputError

RED, DARK = (200, 10, 30), (7, 7, 7)


def saved(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))


def test_rgb_is_read_as_it_is(tmp_path, picture):
    path = saved(tmp_path, picture)
    array = read_image(path)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, np.asarray(picture))
    assert image_size(path) == (64, 48)


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 7, "a.png", DARK),
        ("1", 1, "a.png", (255, 255, 255)),
        ("LA", (7, 0), "a.png", DARK),
        ("RGBA", (*RED, 0), "a.png", RED),
        ("I;16", 7 * 256 + 255, "a.png", DARK),
        ("CMYK", (0, 0, 0, 0), "a.jpg", (255, 255, 255)),
    ],
)
def test_other_modes_become_rgb(tmp_path, mode, colour, name, expected):
    array = read_image(saved(tmp_path, Image.new(mode, (9, 6), colour), name))
    assert array.shape == (6, 9, 3) and array.dtype == np.uint8
    assert (array == np.array(expected)).all()


def test_a_palette_with_transparency_is_read_without_warning(tmp_path):
    image = Image.new("P", (9, 6), 1)
    image.putpalette([0, 0, 0, *RED])
    path = saved(tmp_path, image, transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = read_image(path)
    assert (array == np.array(RED)).all()


def test_exif_orientation_is_ignored(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, picture, "a.jpg", exif=exif)
    assert read_image(path).shape == (48, 64, 3)


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 0x5A for byte in content[middle : middle + 40])
        + (content[middle + 40 :])
    )


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.png", truncated),
        ("a.png", flipped),
        ("a.jpg", truncated),
        ("a.png", lambda content: content[:20]),
        ("a.jpg", lambda content: b"no image at all"),
        ("a.jpg", lambda content: b""),
    ],
)
def test_damaged_files_are_named(tmp_path, picture, name, damage):
    path = saved(tmp_path, picture, name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=name):
        read_image(path)


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        for read in (read_image, image_size):
            with pytest.raises(InputError, match=path.name):
                read(path)


def test_a_decompression_bomb_is_an_input_error(tmp_path, picture, monkeypatch):
    path = saved(tmp_path, picture)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_random_damage_never_raises_anything_else(tmp_path, picture, name):
    path = saved(tmp_path, picture, name)
    content = path.read_bytes()
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            assert read_image(path).shape[2] == 3
        except InputError:
            refused += 1
    assert refused > 0


def test_a_broken_chunk_of_a_png_is_named(tmp_path, picture):
    path = saved(tmp_path, picture.resize((400, 300)))
    content = path.read_bytes()
    second = content.index(b"IDAT", content.index(b"IDAT") + 1)
    path.write_bytes(content[:second] + b"ID\x00T" + content[second + 4 :])
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(path)


def test_what_is_wrong_is_told_without_the_name_again(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for name, reason in (
        ("none.png", "No such file or directory"),
        ("text.png", "a file of no known format"),
    ):
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        said = f"{tmp_path / name}: expected a readable image, got: {reason}"
        assert str(caught.value) == said
