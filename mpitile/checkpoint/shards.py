"""Checkpoints: one HDF5 shard per rank, and a manifest that makes them valid.

Each shard holds this rank's spans of every flat array. The manifest is written last,
when all shards are on disk: a folder without it is no checkpoint. Where the same ranks go on,
nothing assumes a shared file system, only that a rank finds its own files again; other
numbers of ranks, and other devices, need to see all shards.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from mpitile.checkpoint.files import replace_file, replace_text
from mpitile.comm.agree import on_first, together
from mpitile.comm.communicator import Communicator
from mpitile.errors import InputError

FORMAT = 2
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
    plan : of all else that decides the last bits of a step's numbers.
    """

    step: int
    position: int
    seed: int
    best: float | None
    fingerprint: str
    plan: str = ""


_PROGRESS = tuple(field.name for field in fields(Progress))
Span = tuple[int, int]


@dataclass(frozen=True)
class Sliced:
    """A flat array of which each rank keeps some spans; together they are all of it.

    Attributes
    ----------
    array : what this rank holds.
    size : elements of the array as all ranks together have it.
    spans : from where up to where this rank keeps it, in ascending order.
    whole : whether `array` holds all elements, not only those of the spans one after the other.
    spread : called on all ranks when each has its spans again. Collective.
    """

    array: np.ndarray
    size: int
    spans: Sequence[Span]
    whole: bool = False
    spread: Callable[[], None] = lambda: None

    def pieces(self) -> Iterator[tuple[Span, slice]]:
        """Each span, and where it stands in `array`."""
        place = 0
        for start, stop in self.spans:
            first = start if self.whole else place
            yield (start, stop), slice(first, first + stop - start)
            place += stop - start


def replicated(world: Communicator, array: np.ndarray) -> Sliced:
    """A flat array of which every rank has its own copy; each keeps an equal part."""
    ends = [array.size * (rank + 1) // world.size for rank in range(world.size)]
    span = ([0, *ends][world.rank], ends[world.rank])
    return Sliced(
        array, array.size, [span], whole=True, spread=lambda: world.share_slices(array, ends)
    )


def save(
    folder: Path,
    world: Communicator,
    arrays: Mapping[str, Sliced],
    progress: Progress,
    keep: int,
) -> Path:
    """Write a checkpoint into ``folder/step-NNNNNN`` and remove all but `keep`. Collective.

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
        raise InputError(
            f"{path}: written by a run with other settings: expected {fingerprint}, "
            f"got {manifest['fingerprint']}"
        )
    together(world, lambda: _read_shards(path, world.rank, arrays, manifest))
    for sliced in arrays.values():
        sliced.spread()
    return Progress(**{key: manifest[key] for key in _PROGRESS})


def _shard_name(rank: int) -> str:
    return f"shard-{rank:05d}.h5"


def _write_shard(
    path: Path, world: Communicator, arrays: Mapping[str, Sliced], progress: Progress
) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": FORMAT, "rank": world.rank, "ranks": world.size})
        file.attrs.update({k: v for k, v in asdict(progress).items() if v is not None})
        for name, sliced in arrays.items():
            pieces = list(sliced.pieces())
            elements = sum(stop - start for (start, stop), _ in pieces)
            dataset = file.create_dataset(name, (elements,), sliced.array.dtype)
            dataset.attrs["size"] = sliced.size
            spans = np.array([span for span, _ in pieces], np.int64).reshape(-1, 2)
            file.create_dataset(f"spans/{name}", data=spans)
            place = 0
            for (start, stop), source in pieces:
                if start < stop:
                    target = slice(place, place + stop - start)
                    dataset.write_direct(sliced.array, source, target)
                    place = target.stop


def _read_shards(path: Path, rank: int, arrays: Mapping[str, Sliced], manifest: dict) -> None:
    """Fill this rank's spans, from its own shard first and then from others as needed."""
    missing = {
        name: sum(stop - start for start, stop in sliced.spans) for name, sliced in arrays.items()
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
    """Fill what a shard has of this rank's spans; how many elements of each array that is."""
    try:
        found = _digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if found != digest:
        raise InputError(f"{path}: damaged: expected SHA-256 {digest}, got {found}")
    with h5py.File(path) as file:
        return {name: _fill(path, file, name, sliced) for name, sliced in arrays.items()}


def _fill(path: Path, file: h5py.File, name: str, sliced: Sliced) -> int:
    size = file[name].attrs.get("size") if name in file else None
    if size != sliced.size:
        raise InputError(f"{path}: expected {sliced.size} values of {name!r}, found {size}")
    stored, filled = Sliced(sliced.array, size, file[f"spans/{name}"][:].tolist()), 0
    for source, target in _common(stored, sliced):
        file[name].read_direct(sliced.array, source, target)
        filled += target.stop - target.start
    return filled


def _common(stored: Sliced, wanted: Sliced) -> Iterator[tuple[slice, slice]]:
    """Where the elements of both stand in each."""
    ours = wanted.pieces()
    (start, stop), target = next(ours, ((0, 0), slice(0, 0)))
    for (first, last), source in stored.pieces():
        while True:
            low, high = max(start, first), min(stop, last)
            if low < high:
                yield (
                    slice(source.start + low - first, source.start + high - first),
                    slice(target.start + low - start, target.start + high - start),
                )
            if stop > last:
                break
            following = next(ours, None)
            if following is None:
                return
            (start, stop), target = following


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
