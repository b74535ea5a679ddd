"""A disk that is full, for what writes into a run's folder."""

from pathlib import Path

import pytest

_FULL = Path("/dev/full")
needs_full_disk = pytest.mark.skipif(not _FULL.exists(), reason=f"needs {_FULL}")


def fill_disk(folder, name):
    """From now on one of a `RunFolder`'s open files has no room; whatever it holds is gone."""
    path = folder.path / name
    path.unlink()
    path.symlink_to(_FULL)
    for key, file in vars(folder).items():
        if getattr(file, "name", None) == str(path):
            file.close()
            setattr(folder, key, path.open("a", encoding="utf-8"))
            return
    raise AssertionError(f"{name} is not open")
