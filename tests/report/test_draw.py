import numpy as np
import pytest
from PIL import Image

from mpitile.errors import InputError
from mpitile.report.draw import class_colour, detection_lines, draw_detections

NAMES = ["cell", "platelet"]
ROWS = np.array(
    [
        [0.25, 0.50, 0.30, 0.50, 0, 0.60],
        [0.75, 0.50, 0.30, 0.50, 1, 0.87],
    ]
)


def test_lines_are_in_pixels_and_ordered_by_score():
    assert detection_lines(ROWS, NAMES, 200, 100) == [
        "platelet 87% 120 25 180 75",
        "cell 60% 20 25 80 75",
    ]
    assert detection_lines(ROWS[::-1], NAMES, 200, 100) == detection_lines(ROWS, NAMES, 200, 100)


def test_corners_are_clipped_to_the_image():
    rows = np.array([[0.0, 1.0, 0.5, np.inf, 0, 0.5]])
    assert detection_lines(rows, NAMES, 40, 20) == ["cell 50% 0 0 10 19"]


def test_a_class_without_name_is_an_error():
    rows = ROWS + np.array([0, 0, 0, 0, 1, 0])
    with pytest.raises(InputError, match="a name for class 2, got 2 names"):
        detection_lines(rows, NAMES, 200, 100)


@pytest.mark.parametrize("as_array", [True, False])
def test_boxes_and_labels_in_the_class_colour(tmp_path, as_array):
    grey = np.full((200, 400, 3), 128, dtype=np.uint8)
    image = grey if as_array else Image.fromarray(grey)
    path = tmp_path / "out.picture"
    draw_detections(image, ROWS, NAMES, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        drawn = np.asarray(picture.convert("RGB"))
    assert drawn.shape == grey.shape
    assert (grey == 128).all()
    for row in ROWS:
        colour = class_colour(int(row[4]))
        left = round((row[0] - row[2] / 2) * 400)
        assert tuple(drawn[100, left]) == colour
        painted = (drawn == colour).all(axis=-1)
        # The label stands above the box, whose upper edge is row 50, and holds text.
        assert painted[40:50, left : left + 20].sum() > 50
        inside = drawn[41:49, left + 2 : left + 20].astype(int)
        assert np.abs(inside - colour).max() > 100
    # Nothing between the boxes, nothing inside them.
    assert (drawn[60:140, 190:210] == 128).all()
    assert (drawn[80:120, 80:120] == 128).all()


def test_labels_of_equal_boxes_do_not_cover_each_other(tmp_path):
    rows = np.array([[0.5, 0.5, 0.6, 0.6, 0, 0.9], [0.5, 0.5, 0.6, 0.6, 1, 0.8]])
    draw_detections(np.zeros((200, 200, 3), dtype=np.uint8), rows, NAMES, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    for label in (0, 1):
        assert (drawn == class_colour(label)).all(axis=-1).sum() > 300


def test_a_label_larger_than_the_image_is_no_problem(tmp_path):
    draw_detections(np.zeros((6, 9), dtype=np.uint8), ROWS, NAMES, tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as picture:
        assert picture.size == (9, 6)


def test_colours_are_distinct():
    colours = np.array([class_colour(k) for k in range(12)], dtype=int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=-1) + 999 * np.eye(12, dtype=int)
    assert apart.min() > 40


def test_bad_images_and_paths_are_named(tmp_path):
    with pytest.raises(InputError, match=r"got float64 of shape \(4, 4, 3\)"):
        draw_detections(np.zeros((4, 4, 3)), ROWS, NAMES, tmp_path / "a.png")
    with pytest.raises(InputError, match="absent"):
        draw_detections(np.zeros((4, 4), np.uint8), ROWS, NAMES, tmp_path / "absent" / "a.png")
