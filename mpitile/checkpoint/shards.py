"""Checkpoints: one HDF5 shard per rank, and a manifest that makes them valid.

Each shard holds this rank's slice of every flat array. The manifest is written last,
when all shards are on disk: a folder without it is no checkpoint. Nothing assumes a
shared file system, only that a rank finds its own files again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from mpitile.checkpoint.files import replace_file, replace_text
from mpitile.comm.agree import on_first, together
from mpitile.comm.communicator import Communicator
from mpitile.errors import InputError

FORMAT = 1
MANIFEST = "manifest.json"
_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, beside its arrays.

    Attributes
    ----------
    step : completed steps.
    position : running number of the next image, over all epochs.
    seed : from which order, augmentation and dropout are drawn, with `position`.
    best : best validation score so far, None before the first.
    fingerprint : of all that a resumed run must have in common with this one.
    """

    step: int
    position: int
    seed: int
    best: float | None
    fingerprint: str


_PROGRESS = tuple(field.name for field in fields(Progress))


def slice_ends(size: int, ranks: int) -> list[int]:
    """Where each rank's slice of a flat array ends."""
    return [size * (rank + 1) // ranks for rank in range(ranks)]


def save(
    folder: Path,
    world: Communicator,
    arrays: Mapping[str, np.ndarray],
    progress: Progress,
    keep: int,
) -> Path:
    """Write a checkpoint into ``folder/step-NNNNNN`` and remove all but `keep`. Collective.

    Parameters
    ----------
    arrays : flat arrays, equal on all ranks; each rank writes its slice.

    Raises
    ------
    InputError : on all ranks, where any of them cannot write.
    """
    target = folder / f"{_PREFIX}{progress.step:06d}"
    shard = target / _shard_name(world.rank)

    def write() -> str:
        try:
            # Files of an earlier, interrupted attempt must not look valid meanwhile.
            if world.rank == 0:
                (target / MANIFEST).unlink(missing_ok=True)
            replace_file(shard, lambda path: _write_shard(path, world, arrays, progress))
            return _digest(shard)
        except OSError as error:
            raise InputError(f"{shard}: cannot be written: {error}") from error

    digests = world.allgather(together(world, write))
    manifest = {
        "format": FORMAT,
        "ranks": world.size,
        **asdict(progress),
        "shards": {_shard_name(rank): digest for rank, digest in enumerate(digests)},
    }
    text = json.dumps(manifest, indent=1)
    on_first(world, lambda: replace_text(target / MANIFEST, text))
    together(world, lambda: _remove_older(folder, keep, progress.step, world.rank))
    return target


def latest(folder: Path, world: Communicator) -> Path | None:
    """The newest checkpoint with a manifest, as rank 0 sees it. Collective."""

    def newest() -> Path | None:
        complete = [path for path in _checkpoints(folder) if (path / MANIFEST).exists()]
        return complete[-1] if complete else None

    return on_first(world, newest)


def load(
    path: Path, world: Communicator, arrays: Mapping[str, np.ndarray], fingerprint: str
) -> Progress:
    """Fill `arrays` on every rank from a checkpoint of as many ranks. Collective.

    Raises
    ------
    InputError : on all ranks; the manifest or a shard is missing, damaged, or of
        another run. Arrays may have been written to by then.
    """
    manifest = on_first(world, lambda: _read_manifest(path / MANIFEST))
    if manifest["ranks"] != world.size:
        raise InputError(
            f"{path}: written by {manifest['ranks']} ranks, but {world.size} were started; "
            f"resume with {manifest['ranks']}"
        )
    if manifest["fingerprint"] != fingerprint:
        raise InputError(
            f"{path}: written by a run with other settings: expected {fingerprint}, "
            f"got {manifest['fingerprint']}"
        )
    shard = path / _shard_name(world.rank)
    together(world, lambda: _read_shard(shard, world, arrays, manifest["shards"][shard.name]))
    for array in arrays.values():
        world.share_slices(array, slice_ends(array.size, world.size))
    return Progress(**{key: manifest[key] for key in _PROGRESS})


def _shard_name(rank: int) -> str:
    return f"shard-{rank:05d}.h5"


def _slice(size: int, world: Communicator) -> slice:
    ends = [0, *slice_ends(size, world.size)]
    return slice(ends[world.rank], ends[world.rank + 1])


def _write_shard(
    path: Path, world: Communicator, arrays: Mapping[str, np.ndarray], progress: Progress
) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": FORMAT, "rank": world.rank, "ranks": world.size})
        file.attrs.update({k: v for k, v in asdict(progress).items() if v is not None})
        for name, array in arrays.items():
            part = _slice(array.size, world)
            dataset = file.create_dataset(name, data=array[part])
            dataset.attrs["start"] = part.start
            dataset.attrs["size"] = array.size


def _read_shard(
    path: Path, world: Communicator, arrays: Mapping[str, np.ndarray], digest: str
) -> None:
    try:
        found = _digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if found != digest:
        raise InputError(f"{path}: damaged: expected SHA-256 {digest}, got {found}")
    with h5py.File(path) as file:
        for name, array in arrays.items():
            part = _slice(array.size, world)
            if name not in file or file[name].shape != (part.stop - part.start,):
                raise InputError(f"{path}: expected {part.stop - part.start} values of {name!r}")
            if part.stop > part.start:
                file[name].read_direct(array, dest_sel=part)


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable manifest: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path}: expected checkpoint format {FORMAT}")
    missing = {"ranks", "shards", *_PROGRESS} - manifest.keys()
    if missing:
        raise InputError(f"{path}: expected a key {sorted(missing)[0]!r}, found none")
    return manifest


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders, oldest first."""
    names = [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]
    return sorted(names, key=_step)


def _step(path: Path) -> int:
    return int(path.name[len(_PREFIX) :])


def _remove_older(folder: Path, keep: int, step: int, rank: int) -> None:
    """Remove this rank's files of all but the newest `keep` checkpoints up to `step`.

    Later ones can only be the remains of an interrupted attempt, and count for nothing.
    """
    reached = [path for path in _checkpoints(folder) if _step(path) <= step]
    for path in reached[:-keep]:
        if rank == 0:
            (path / MANIFEST).unlink(missing_ok=True)
        (path / _shard_name(rank)).unlink(missing_ok=True)
        # Whoever removes the last file removes the folder, too.
        with suppress(OSError):
            path.rmdir()
