"""Checkpoints: one HDF5 shard per rank, and a manifest that makes them valid.

Each shard holds this rank's pieces of every array, in coordinates of the whole network. The
manifest is written last, when all shards are on disk: a folder without it is no checkpoint.
Where the same ranks go on with the same plan, nothing assumes a shared file system, only that a
rank finds its own files again, or another rank a copy of them (`mpitile.checkpoint.copies`);
other ranks, devices and slices need to see all shards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from mpitile.checkpoint.copies import copy_shards, restore_shards
from mpitile.checkpoint.files import file_digest, reason, replace_file, replace_text, reserve
from mpitile.checkpoint.pieces import Field, Piece, Span, StoredPieces, as_rows, cut_pieces
from mpitile.comm.agree import on_first, together
from mpitile.comm.communicator import Communicator
from mpitile.errors import InputError

FORMAT = 3
MANIFEST = "manifest.json"
_PREFIX = "step-"

# More than what HDF5 writes of its own beside the arrays.
_HEADERS_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands, beside its arrays.

    Attributes
    ----------
    step : completed steps.
    position : running number of the next image, over all epochs.
    seed : from which order, augmentation and dropout are drawn, with `position`.
    best : best validation score so far, None before the first.
    fingerprint : words for all that a resumed run must have in common with this one.
    plan : of all else that decides the last bits of a step's numbers.
    """

    step: int
    position: int
    seed: int
    best: float | None
    fingerprint: str
    plan: str = ""


_PROGRESS = tuple(field.name for field in fields(Progress))


@dataclass(frozen=True)
class Part:
    """What a rank holds and keeps of an array's tables.

    Attributes
    ----------
    array : flat.
    fields : what stands in the flat array that `spans` count in, one after the other.
    spans : from where up to where this rank keeps it, in ascending order.
    whole : whether `array` is all of that flat array, not only the spans one after the other.
    spread : called on all ranks when each has its spans again. Collective.
    """

    array: np.ndarray
    fields: Sequence[Field]
    spans: Sequence[Span]
    whole: bool = False
    spread: Callable[[], None] = lambda: None

    def segments(self) -> Iterator[slice]:
        """Where each span stands in `array`."""
        place = 0
        for start, stop in self.spans:
            first = start if self.whole else place
            yield slice(first, first + stop - start)
            place += stop - start

    @property
    def kept_bytes(self) -> int:
        return self.array.itemsize * sum(stop - start for start, stop in self.spans)

    def pieces(self) -> Iterator[tuple[Piece, np.ndarray]]:
        """Each piece that this rank keeps, and its flat array."""
        for span, segment in zip(self.spans, self.segments(), strict=True):
            place = segment.start
            for piece in cut_pieces(self.fields, [span]):
                yield piece, self.array[place : place + piece.size]
                place += piece.size


@dataclass(frozen=True)
class Sliced:
    """An array of some tables that the ranks keep together, each of them its parts.

    Attributes
    ----------
    size : elements of all tables.
    parts : what this rank has.
    """

    size: int
    parts: Sequence[Part]

    def all_pieces(self) -> list[Piece]:
        """What this rank keeps, in the order of its parts."""
        return [piece for part in self.parts for piece, _ in part.pieces()]


def replicated(world: Communicator, array: np.ndarray, fields: Sequence[Field]) -> Part:
    """A flat array of which every rank has its own copy; each keeps an equal part."""
    ends = [array.size * (rank + 1) // world.size for rank in range(world.size)]
    span = ([0, *ends][world.rank], ends[world.rank])
    return Part(array, fields, [span], whole=True, spread=lambda: world.share_slices(array, ends))


def save(
    folder: Path,
    world: Communicator,
    arrays: Mapping[str, Sliced],
    progress: Progress,
    keep: int,
    keepers: Sequence[int] = (),
) -> Path:
    """Write a checkpoint into ``folder/step-NNNNNN`` and remove all but `keep`. Collective.

    Parameters
    ----------
    keepers : for each rank the one that keeps a copy of its shard, and of the manifest where
        rank 0 has written that; nobody does where left out.

    Raises
    ------
    InputError : on all ranks, where any of them cannot write.
    """
    target = _folder_of(folder, progress.step)
    shard = target / _shard_name(world.rank)

    def write() -> str:
        try:
            # Files of an earlier, interrupted attempt must not look valid meanwhile.
            (target / MANIFEST).unlink(missing_ok=True)
            replace_file(shard, lambda path: _write_shard(path, world, arrays, progress))
            return file_digest(shard)
        # HDF5 may notice only as it closes a file that the disk is full: a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise InputError(f"{shard}: cannot be written: {reason(error)}") from error

    found = world.allgather(together(world, write))
    digests = {_shard_name(rank): digest for rank, digest in enumerate(found)}
    if keepers:
        copy_shards(target, world, keepers, digests)
    manifest = {
        "format": FORMAT,
        "ranks": world.size,
        **asdict(progress),
        "shards": digests,
        "keepers": list(keepers),
    }
    # One after the other: they may write the same file.
    for writer in (0, *keepers[:1]):
        together(world, lambda writer=writer: _write_manifest(world, writer, target, manifest))
    kept = on_first(world, lambda: _complete(folder, progress.step)[-keep:])
    together(world, lambda: _remove_others(folder, progress.step, kept))
    return target


def latest(folder: Path, world: Communicator) -> Path | None:
    """The newest checkpoint with a manifest, as the first rank that sees any sees it. Collective.

    Others may see what is left of another run on other devices.
    """
    steps = [_step(path) for path in _checkpoints(folder) if (path / MANIFEST).exists()]
    seen = next((found for found in world.allgather(steps) if found), None)
    return _folder_of(folder, max(seen)) if seen else None


def restore(path: Path, world: Communicator) -> list[str]:
    """Write what is missing or damaged of a checkpoint anew, from copies. Collective.

    Returns
    -------
    The names of the files that were, the same on all ranks. What has no copy stays as it is.

    Raises
    ------
    InputError : on all ranks, where any of them cannot read or write.
    """
    seen = world.allgather((path / MANIFEST).exists())
    if not any(seen):
        return []
    first = seen.index(True)

    def read() -> dict | None:
        return _read_manifest(path / MANIFEST) if world.rank == first else None

    manifest = world.allgather(together(world, read))[first]
    if not manifest.get("keepers"):
        return []
    restored = restore_shards(path, world, manifest["shards"])
    if first:
        together(world, lambda: _write_manifest(world, 0, path, manifest))
        restored.append(MANIFEST)
    return restored


def load(
    path: Path, world: Communicator, arrays: Mapping[str, Sliced], fingerprint: str
) -> Progress:
    """Fill `arrays` on every rank from a checkpoint of any number of ranks. Collective.

    Raises
    ------
    InputError : on all ranks; the manifest or a shard is missing, damaged, or of
        another run. Arrays may have been written to by then.
    """
    manifest = on_first(world, lambda: _read_manifest(path / MANIFEST))
    if manifest["fingerprint"] != fingerprint:
        wanted, found = fingerprint.split(), str(manifest["fingerprint"]).split()
        raise InputError(
            f"{path}: written by a run with other settings: "
            f"expected {_others(wanted, found)}, got {_others(found, wanted)}"
        )
    together(world, lambda: _read_shards(path, world.rank, arrays, manifest))
    for sliced in arrays.values():
        for part in sliced.parts:
            part.spread()
    return Progress(**{key: manifest[key] for key in _PROGRESS})


def _others(words: Sequence[str], others: Sequence[str]) -> str:
    return " ".join(word for word in words if word not in others) or "nothing more"


def _shard_name(rank: int) -> str:
    return f"shard-{rank:05d}.h5"


def _write_shard(
    path: Path, world: Communicator, arrays: Mapping[str, Sliced], progress: Progress
) -> None:
    rows = {name: as_rows(sliced.all_pieces()) for name, sliced in arrays.items()}
    kept = sum(part.kept_bytes for sliced in arrays.values() for part in sliced.parts)
    with h5py.File(path, "w") as file:
        reserve(path, kept + sum(table.nbytes for table in rows.values()) + _HEADERS_BYTES)
        file.attrs.update({"format": FORMAT, "rank": world.rank, "ranks": world.size})
        file.attrs.update({k: v for k, v in asdict(progress).items() if v is not None})
        for name, sliced in arrays.items():
            file.create_dataset(f"pieces/{name}", data=rows[name])
            _write_parts(file, name, sliced)
        file.flush()
        size = file.id.get_filesize()
    os.truncate(path, size)


def _write_parts(file: h5py.File, name: str, sliced: Sliced) -> None:
    parts = sliced.parts
    elements = sum(stop - start for part in parts for start, stop in part.spans)
    dataset = file.create_dataset(name, (elements,), parts[0].array.dtype)
    dataset.attrs["size"] = sliced.size
    place = 0
    for part in parts:
        for segment in part.segments():
            stop = place + segment.stop - segment.start
            if place < stop:
                dataset.write_direct(part.array, segment, slice(place, stop))
            place = stop


def _read_shards(path: Path, rank: int, arrays: Mapping[str, Sliced], manifest: dict) -> None:
    """Fill this rank's pieces, from its own shard first and then from others as needed."""
    missing = {
        name: sum(stop - start for part in sliced.parts for start, stop in part.spans)
        for name, sliced in arrays.items()
    }
    ranks = manifest["ranks"]
    for number in [(rank + step) % ranks for step in range(ranks)]:
        name = _shard_name(number)
        for key, elements in _read_shard(path / name, arrays, manifest["shards"].get(name)).items():
            missing[key] -= elements
        if not any(missing.values()):
            return
    lacking = next(name for name, elements in missing.items() if elements)
    raise InputError(f"{path}: its shards lack {missing[lacking]} values of {lacking!r}")


def _read_shard(path: Path, arrays: Mapping[str, Sliced], digest: str | None) -> dict[str, int]:
    """Fill what a shard has of this rank's pieces; how many elements of each array that is."""
    try:
        found = file_digest(path)
        if found != digest:
            raise InputError(f"{path}: damaged: expected SHA-256 {digest}, got {found}")
        with h5py.File(path) as file:
            return {name: _fill(path, file, name, sliced) for name, sliced in arrays.items()}
    # HDF5 has reasons of its own, such as a file that another program has locked.
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def _fill(path: Path, file: h5py.File, name: str, sliced: Sliced) -> int:
    size = file[name].attrs.get("size") if name in file else None
    if size != sliced.size:
        raise InputError(f"{path}: expected {sliced.size} values of {name!r}, found {size}")
    stored = StoredPieces(file[name], file[f"pieces/{name}"][:])
    return sum(
        stored.fill(piece, target) for part in sliced.parts for piece, target in part.pieces()
    )


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
    for key, kind in (("ranks", int), ("step", int), ("shards", dict)):
        if type(manifest[key]) is not kind:
            raise InputError(
                f"{path}: {key}: expected {kind.__name__}, found {type(manifest[key]).__name__}"
            )
    return manifest


def _write_manifest(world: Communicator, writer: int, folder: Path, manifest: dict) -> None:
    if world.rank != writer:
        return
    path = folder / MANIFEST
    try:
        replace_text(path, json.dumps(manifest, indent=1))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}") from error


def _checkpoints(folder: Path) -> list[Path]:
    """All checkpoint folders, oldest first."""
    names = [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]
    return sorted(names, key=_step)


def _folder_of(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step:06d}"


def _step(path: Path) -> int:
    return int(path.name[len(_PREFIX) :])


def _complete(folder: Path, step: int) -> list[str]:
    """The names of checkpoints up to `step` that have a manifest, oldest first."""
    reached = [path for path in _checkpoints(folder) if _step(path) <= step]
    return [path.name for path in reached if (path / MANIFEST).exists()]


def _remove_others(folder: Path, step: int, kept: Sequence[str]) -> None:
    """Remove the checkpoints up to `step` but for those `kept`, and what interrupted ones left.

    Later ones can only be the remains of an interrupted attempt, and are written again.
    """
    for path in _checkpoints(folder):
        if _step(path) <= step and path.name not in kept:
            try:
                _remove(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be removed: {reason(error)}") from error


def _remove(checkpoint: Path) -> None:
    """Remove what is there of all ranks' files, also where there were more ranks once."""
    # Other ranks may see the same files, and remove them meanwhile.
    with suppress(FileNotFoundError):
        for pattern in (MANIFEST, "shard-*.h5", "copy-*.h5", ".*.tmp"):
            for file in checkpoint.glob(pattern):
                file.unlink(missing_ok=True)
    with suppress(OSError):
        checkpoint.rmdir()
