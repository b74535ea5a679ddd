"""Classification data sets: one folder of images a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpitile.data.samples import CLASSIFICATION, Dataset, Sample, class_names, truth_array
from mpitile.data.selection import (
    IMAGE_SUFFIXES,
    find_listed,
    find_selection,
    images_below,
    list_entries,
    name_inside,
    require_folder,
)
from mpitile.errors import InputError


def read_folders(
    root: Path, selection: str | Path | None, names: Sequence[str] | None
) -> tuple[Dataset, tuple[str, ...]]:
    """Reads which image belongs to which class.

    Without `names` the classes are the subfolders of the selected folder (of `root` for a
    list), sorted; a validation set should be read with the training set's names, so that
    its classes keep their numbers where one has no image. In a list, the folder that an
    image lies in is its class.

    Raises
    ------
    InputError
        for a missing folder, list or image, a class that `names` does not hold, or no
        image at all.
    """
    source = root if selection is None else find_selection(root, selection)
    if source.is_dir():
        known = class_names(names or _subfolders(source), "folders")
        labelled, remarks = _in_folders(source, known)
    else:
        known = class_names(names or _subfolders(root), "folders")
        labelled, remarks = _in_list(root, source, known), ()
    if not labelled:
        raise InputError(
            f"{source}: expected at least one image in a class folder "
            f"({', '.join(IMAGE_SUFFIXES)}), found none"
        )
    none, _ = truth_array("", ())
    samples = tuple(Sample(name_inside(path, root), path, none, label) for path, label in labelled)
    return Dataset(samples, known, CLASSIFICATION), remarks


def _subfolders(folder: Path) -> list[str]:
    found = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not found:
        raise InputError(f"{folder}: expected one subfolder a class, found none")
    return found


def _in_folders(
    folder: Path, names: tuple[str, ...]
) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Images with their classes, sorted by path, and remarks on folders of no use."""
    found, remarks = [], []
    for label, name in enumerate(names):
        images = images_below(require_folder(folder / name, f"the folder of class '{name}'"))
        found.extend((path, label) for path in images)
        if not images:
            remarks.append(f"{folder / name}: no image of class '{name}'")
    for name in _subfolders(folder):
        if name not in names:
            remarks.append(f"{folder / name}: not in data.names ({', '.join(names)}), skipped")
    found.sort(key=lambda pair: pair[0].relative_to(folder).as_posix())
    return found, tuple(remarks)


def _in_list(root: Path, source: Path, names: tuple[str, ...]) -> list[tuple[Path, int]]:
    found = []
    for number, text in list_entries(source):
        path = find_listed((root, source.parent), text)
        if path is None:
            raise InputError(f"{source}:{number}: no image '{text}' below {root}")
        if path.parent.name not in names:
            raise InputError(
                f"{source}:{number}: the folder of '{text}' is '{path.parent.name}', "
                f"expected one of data.names ({', '.join(names)})"
            )
        found.append((path, names.index(path.parent.name)))
    return found
