"""Ranks that read for themselves must find the same data set."""

import shutil

import pytest
from small_jobs import box_images, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.errors import InputError
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images

RANKS = 3


def opened(folder, data, change):
    """What each rank's `open_images` says; the last one reads a changed copy of the data."""
    other = shutil.copytree(data, folder / "other")
    change(other)
    places = [data] * (RANKS - 1) + [other]
    settings = [
        small_settings(folder / str(rank), detector(), place) for rank, place in enumerate(places)
    ]

    def read(comm):
        job = make_job(settings[comm.rank], comm.size)
        topology = make_topology(comm, job.plan)
        try:
            return open_images(job, topology, None).count
        except InputError as error:
            return str(error)

    return run_ranks(RANKS, read)


@pytest.fixture
def data(tmp_path):
    return box_images(tmp_path / "data", 4)


def test_the_same_files_elsewhere_are_the_same_data_set(tmp_path, data):
    assert opened(tmp_path, data, lambda other: None) == [4] * RANKS


def change_box(other):
    label = other / "labels" / "03.txt"
    label.write_text(label.read_text().replace("0.", "0.1", 1))


def rename(other):
    for folder, suffix in (("images", "png"), ("labels", "txt")):
        (other / folder / f"01.{suffix}").rename(other / folder / f"11.{suffix}")


@pytest.mark.parametrize("change", [change_box, rename])
def test_other_labels_or_names_on_one_rank_are_refused_by_all(tmp_path, data, change):
    found = opened(tmp_path, data, change)
    assert set(found) == {found[0]}
    assert "rank 2 finds another data set than rank 0: as many images, but other names" in found[0]


def test_fewer_images_on_one_rank_are_refused_by_all(tmp_path, data):
    found = opened(tmp_path, data, lambda other: (other / "images" / "03.png").unlink())
    assert set(found) == {found[0]}
    assert "rank 0: 3 images of 2 classes, not 4 of 2" in found[0]
