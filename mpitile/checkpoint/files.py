"""Files that are either the old one or the new one, whole, whatever happens."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK_BYTES = 4096


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


def file_digest(path: Path) -> str:
    """SHA-256 of what is in a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reserve(path: Path, size: int) -> None:
    """Take the room that a file will need, while there is next to nothing in it.

    A file that HDF5 cannot close, because the disk is full, stays open and crashes the process
    at its end.
    """
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                # Some file systems cannot reserve; writing will show whether there is room.
                return
            # What HDF5 still has to write, an empty file, fits into the first block.
            file.truncate(_BLOCK_BYTES)
            raise


def reason(error: BaseException | None) -> str:
    """What the system says was wrong, in one line: HDF5 adds some of its own."""
    first = str(error).partition("\n")[0]
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)
        error = error.__context__
    return first


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
