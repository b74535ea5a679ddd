"""Files that are either the old one or the new one, whole, whatever happens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk and rename it."""
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _force(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _force(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace a file by this text."""
    replace_file(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _make_folder(folder: Path) -> None:
    """Make a folder where it is missing, and force its name to disk: else a file in it is lost."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _force(folder.parent)


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
