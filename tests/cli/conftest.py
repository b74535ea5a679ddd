"""Data sets that the command-line tests share."""

import pytest
import runs


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A small YOLO data set. Nobody may change it."""
    return runs.draw_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def shape_folders(tmp_path_factory):
    """A small class-folder data set. Nobody may change it."""
    return runs.draw_data(tmp_path_factory.mktemp("data") / "folders", "folders")
