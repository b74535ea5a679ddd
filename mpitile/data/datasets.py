"""One door to the data set formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpitile.data.folders import read_folders
from mpitile.data.samples import Dataset
from mpitile.data.selection import require_folder
from mpitile.data.voc import read_voc
from mpitile.data.yolo import read_yolo
from mpitile.errors import InputError

READERS = {"voc": read_voc, "yolo": read_yolo, "folders": read_folders}


def read_dataset(
    format: str,
    root: str | Path,
    selection: str | Path | None,
    names: Sequence[str] | None,
) -> tuple[Dataset, tuple[str, ...]]:
    """Reads what is true of every selected image; the images stay closed.

    Parameters
    ----------
    format : "voc", "yolo" or "folders".
    root : the data set's folder.
    selection : a list file or a folder, relative to `root` or as given; None for all
        images, sorted.
    names : class names, in the order of their indices; "folders" can do without.

    Returns
    -------
    The data set, and remarks for the user: one a truth box (or class folder) left out.

    Raises
    ------
    InputError
        naming the file, line or key.
    """
    if format not in READERS:
        raise InputError(f"data.format: expected one of {', '.join(READERS)}, got '{format}'")
    folder = require_folder(Path(root), "the data set's folder (data.root)")
    return READERS[format](folder, selection, names)
