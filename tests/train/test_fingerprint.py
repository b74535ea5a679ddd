"""What a resumed run must have in common with the one that wrote the checkpoint."""

import pytest
from small_jobs import box_images, detector, small_settings

from mpitile.train.setup import make_job


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return box_images(tmp_path_factory.mktemp("data"), 4)


def words(folder, data, cfg=None, /, **sections):
    settings = small_settings(folder, cfg or detector(), data, **sections)
    return dict(word.split("=") for word in make_job(settings, 1).fingerprint.split())


@pytest.mark.parametrize(
    ("section", "key", "value", "word"),
    [
        ("train", "batch", 8, "train.batch"),
        ("train", "subdivisions", 2, "train.subdivisions"),
        ("train", "seed", 3, "train.seed"),
        ("train", "optimizer", "adam", "train.optimizer"),
        ("train", "dtype", "float32", "train.dtype"),
        ("train", "kernels", "exact", "train.kernels"),
        ("train", "learning_rate", 0.5, "[net].learning_rate"),
        ("data", "shuffle", True, "data.shuffle"),
        ("data", "augment", True, "data.augment"),
    ],
)
def test_a_key_that_decides_numbers_is_named(tmp_path, data, section, key, value, word):
    before = words(tmp_path, data)
    after = words(tmp_path, data, **{section: {key: value}})
    assert {name for name in before if before[name] != after[name]} == {word}


def test_other_layers_differ(tmp_path, data):
    before, after = (words(tmp_path, data, detector(normalize=flag)) for flag in (0, 1))
    assert {name for name in before if before[name] != after[name]} == {"network.cfg"}


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"steps": 9}},
        {"train": {"overlap": False}},
        {"checkpoint": {"every": 3}},
        {"output": {"dir": "elsewhere"}},
    ],
)
def test_what_decides_no_number_does_not_count(tmp_path, data, sections):
    assert words(tmp_path, data, **sections) == words(tmp_path, data)


def test_neither_comments_nor_what_the_run_file_replaces_count(tmp_path, data):
    commented = "# A remark.\n" + detector().replace("batch=4", "batch=16")
    assert words(tmp_path, data, commented) == words(tmp_path, data)
