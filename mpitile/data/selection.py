"""Which image files of a folder a run asks for: all, those of a folder, those of a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mpitile.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def is_image(path: Path) -> bool:
    """Whether the name is that of an image; hidden files are none (some systems leave them)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def require_folder(path: Path, what: str) -> Path:
    """`path`, where it is a folder."""
    # Unlike Path's methods, those of os.path are also false for text that can be no path.
    if not os.path.isdir(path):
        found = "a file" if os.path.exists(path) else "none"
        raise InputError(f"{path}: expected {what}, found {found}")
    return path


def images_below(folder: Path) -> tuple[Path, ...]:
    """All image files in a folder and its subfolders, sorted by their path inside it."""
    found = [path for path in folder.rglob("*") if is_image(path) and path.is_file()]
    return tuple(sorted(found, key=lambda path: path.relative_to(folder).as_posix()))


def name_inside(path: Path, folder: Path) -> str:
    """The path inside `folder` without suffix; only the stem for a file elsewhere."""
    if path.is_relative_to(folder):
        return path.relative_to(folder).with_suffix("").as_posix()
    return path.stem


def find_selection(root: Path, selection: str | Path) -> Path:
    """The list file or folder that `selection` names: below `root`, else as given."""
    for path in (root / selection, Path(selection)):
        if os.path.exists(path):
            return path
    raise InputError(f"{root / selection}: expected a list file or a folder, found none")


def list_entries(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of every line of a list file that is not blank."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without byte-order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}"
            f" at offset {error.start}"
        ) from error


def select_images(root: Path, folder: Path, selection: str | Path | None) -> tuple[Path, ...]:
    """The image files of a detection data set, in order.

    Parameters
    ----------
    root : the data set's folder; paths in lists are relative to it.
    folder : where its images lie; stems in lists are relative to it.
    selection : None for all images below `folder`, sorted; else a list file or a folder.

    Raises
    ------
    InputError
        for a missing file (naming list and line), an ambiguous stem, or no image at all.
    """
    if selection is None:
        source, paths = folder, images_below(folder)
    else:
        source = find_selection(root, selection)
        paths = images_below(source) if source.is_dir() else _listed(root, folder, source)
    if not paths:
        raise InputError(
            f"{source}: expected at least one image ({', '.join(IMAGE_SUFFIXES)}), found none"
        )
    return paths


def find_listed(bases: tuple[Path, ...], text: str) -> Path | None:
    """The image file that a list's path means, relative to the first base that has it."""
    for path in (*(base / text for base in bases), Path(text)):
        if is_image(path) and os.path.isfile(path):
            return path
    return None


def _listed(root: Path, folder: Path, source: Path) -> tuple[Path, ...]:
    by_stem: dict[str, list[Path]] = {}
    for path in images_below(folder):
        by_stem.setdefault(name_inside(path, folder), []).append(path)
    found = []
    for number, text in list_entries(source):
        path = find_listed((root, folder, source.parent), text)
        if path is None:
            stems = by_stem.get(text, [])
            if not stems:
                raise InputError(f"{source}:{number}: no image '{text}' below {root} or {folder}")
            if len(stems) > 1:
                raise InputError(
                    f"{source}:{number}: '{text}' may be {stems[0].name} or "
                    f"{stems[1].name}; expected one image of that name"
                )
            path = stems[0]
        found.append(path)
    return tuple(found)
