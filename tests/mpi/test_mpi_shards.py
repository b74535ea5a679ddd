"""Checkpoints of several ranks: what is saved comes back, and what is broken is refused by all."""

import errno
import fcntl
import json
import resource

import numpy as np
import pytest

from mpitile.checkpoint import shards
from mpitile.checkpoint.pieces import Field
from mpitile.checkpoint.shards import Part, Progress, Sliced, replicated
from mpitile.errors import InputError

RANKS = [1, 2, 3, 6]
ODD = [-0.0, np.inf, -np.inf, 5e-324, np.nan]


def arrays():
    """Flat arrays with all kinds of numbers, the same on every rank."""
    random = np.random.default_rng(7)
    values = random.standard_normal(1001)
    values[: len(ODD)] = ODD
    values[-len(ODD) :] = ODD
    # NaNs that differ in their payload, also in single precision.
    values[500:502] = np.array([0x7FF8000000000123, 0xFFF0DEAD00000001], np.uint64).view(float)
    single = np.array([0x7FC12345, 0xFFA00001, 0x80000000, 1], np.uint32).view(np.float32)
    return {"values": values, "running": single, "one": np.ones(1), "none": np.zeros(0)}


def kept(comm, held=None):
    """Those arrays, or others of the same sizes, as each rank has a whole copy of them."""
    return {name: copies(comm, array) for name, array in (held or arrays()).items()}


def copies(comm, array):
    return Sliced(array.size, [replicated(comm, array, [Field(0, 1, (0, array.size))])])


def progress(step, best=None):
    return Progress(step, 4 * step, 3, best, "net=5 batch=4 seed=3")


def broken(comm, work):
    """The text of the InputError that `work` raises, which must be the same on all ranks."""
    with pytest.raises(InputError) as caught:
        work()
    texts = comm.allgather(str(caught.value))
    assert len(set(texts)) == 1, texts
    return texts[0]


@pytest.mark.mpi(ranks=RANKS)
@pytest.mark.parametrize("best", [None, 0.125])
def test_round_trip_is_exact(comm, shared_folder, best):
    saved = progress(12, best)
    path = shards.save(shared_folder, comm, kept(comm), saved, keep=2)
    assert path == shared_folder / "step-000012" == shards.latest(shared_folder, comm)
    names = [f"shard-{rank:05d}.h5" for rank in range(comm.size)]
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", *names]
    loaded = {name: np.full_like(array, 77) for name, array in arrays().items()}
    assert shards.load(path, comm, kept(comm, loaded), saved.fingerprint) == saved
    for name, array in arrays().items():
        assert loaded[name].tobytes() == array.tobytes(), name


@pytest.mark.mpi(ranks=RANKS)
def test_each_rank_writes_its_own_slice_alone(comm, shared_folder):
    path = shards.save(shared_folder, comm, kept(comm), progress(1), keep=1)
    sizes = comm.allgather((path / f"shard-{comm.rank:05d}.h5").stat().st_size)
    import h5py

    whole = arrays()["values"]
    with h5py.File(path / f"shard-{comm.rank:05d}.h5") as file:
        own = file["values"]
        ((_, _, _, start, stop),) = file["pieces/values"][:].tolist()
        assert own[:].tobytes() == whole[start:stop].tobytes()
        assert sum(comm.allgather(len(own))) == len(whole) == own.attrs["size"]
    assert all(sizes)


def damage(path, comm, rank):
    """Turn one bit of a rank's shard."""
    if comm.rank == 0:
        shard = path / f"shard-{rank:05d}.h5"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    comm.broadcast(None)


@pytest.mark.mpi(ranks=RANKS)
def test_what_is_broken_is_refused_by_all(comm, shared_folder):
    last = comm.size - 1
    name = f"shard-{last:05d}.h5"
    fingerprint = progress(0).fingerprint

    def saved(step):
        return shards.save(shared_folder, comm, kept(comm), progress(step), keep=9)

    def load(path, fingerprint=fingerprint):
        return broken(comm, lambda: shards.load(path, comm, kept(comm), fingerprint))

    path = saved(1)
    damage(path, comm, last)
    assert f"{path / name}: damaged" in load(path)

    path = saved(2)
    if comm.rank == 0:
        (path / name).unlink()
    comm.broadcast(None)
    assert f"{path / name}: cannot be read" in load(path)

    path = saved(3)
    text = load(path, "net=5 batch=8 seed=3 fast=true")
    assert text.endswith("other settings: expected batch=8 fast=true, got batch=4")
    if comm.rank == 0:
        manifest = path / "manifest.json"
        manifest.write_text(manifest.read_text()[:-20])
    comm.broadcast(None)
    assert f"{path / 'manifest.json'}: no readable manifest" in load(path)

    path = saved(4)
    if comm.rank == 0:
        (path / "manifest.json").write_text(json.dumps({"format": 1}))
    comm.broadcast(None)
    assert f"{path / 'manifest.json'}: expected checkpoint format 3" in load(path)

    path = saved(5)
    whole = (path / "manifest.json").read_text()
    comm.allgather(None)
    if comm.rank == 0:
        changed = json.loads(whole) | {"ranks": str(comm.size)}
        (path / "manifest.json").write_text(json.dumps(changed))
    assert f"{path / 'manifest.json'}: ranks: expected int, found str" in load(path)
    if comm.rank == 0:
        (path / "manifest.json").write_text(whole)

    fewer = kept(comm) | {"values": copies(comm, np.zeros(1000))}
    text = broken(comm, lambda: shards.load(path, comm, fewer, fingerprint))
    assert "expected 1000 values of 'values', found 1001" in text
    more = kept(comm) | {"others": copies(comm, np.zeros(5))}
    text = broken(comm, lambda: shards.load(path, comm, more, fingerprint))
    assert "expected 5 values of 'others', found None" in text


@pytest.mark.mpi(ranks=[2])
def test_a_shard_that_another_program_has_locked_is_refused_by_all(comm, shared_folder):
    path = shards.save(shared_folder, comm, kept(comm), progress(1), keep=1)
    name = "shard-00001.h5"
    with open(path / name, "rb") as file:
        if comm.rank == 0:
            fcntl.flock(file, fcntl.LOCK_EX)
        comm.broadcast(None)
        load = lambda: shards.load(path, comm, kept(comm), progress(1).fingerprint)  # noqa: E731
        assert f"{name}: cannot be read: Resource temporarily unavailable" in broken(comm, load)


@pytest.mark.mpi(ranks=RANKS)
def test_a_folder_without_manifest_is_no_checkpoint(comm, shared_folder):
    assert shards.latest(shared_folder / "none", comm) is None
    older = shards.save(shared_folder, comm, kept(comm), progress(5), keep=3)
    newer = shards.save(shared_folder, comm, kept(comm), progress(10), keep=3)
    assert shards.latest(shared_folder, comm) == newer
    comm.broadcast(None)
    if comm.rank == 0:
        (newer / "manifest.json").unlink()
    assert shards.latest(shared_folder, comm) == older


@pytest.mark.mpi(ranks=RANKS)
def test_keep_removes_older_ones(comm, shared_folder):
    for step in (2, 9, 10, 100, 1_000_000):
        shards.save(shared_folder, comm, kept(comm), progress(step), keep=2)
    comm.broadcast(None)
    names = sorted(path.name for path in shared_folder.iterdir())
    assert names == ["step-000100", "step-1000000"]
    assert shards.latest(shared_folder, comm).name == "step-1000000"


@pytest.mark.mpi(ranks=[1, 2])
def test_remains_of_a_later_attempt_do_not_push_out_what_is_whole(comm, shared_folder):
    """A run was killed while it saved step 30, and goes on from an earlier checkpoint."""
    path = shards.save(shared_folder, comm, kept(comm), progress(30), keep=1)
    if comm.rank == 0:
        (path / "manifest.json").unlink()
    comm.broadcast(None)
    saved = shards.save(shared_folder, comm, kept(comm), progress(25), keep=1)
    assert shards.latest(shared_folder, comm) == saved


@pytest.mark.mpi(ranks=[1, 3])
def test_saving_where_one_rank_cannot_write_is_an_error_of_all(comm, shared_folder):
    """A folder stands where the last rank's shard should go."""
    target = shared_folder / "step-000003"
    if comm.rank == 0:
        (target / f"shard-{comm.size - 1:05d}.h5").mkdir(parents=True)
    comm.broadcast(None)
    save = lambda: shards.save(shared_folder, comm, kept(comm), progress(3), keep=1)  # noqa: E731
    assert "cannot be written" in broken(comm, save)
    assert shards.latest(shared_folder, comm) is None


@pytest.mark.mpi(ranks=[1, 3])
def test_a_full_disk_is_an_error_of_all_and_costs_no_checkpoint(comm, shared_folder):
    """The last rank finds less room than its shard takes."""
    earlier = shards.save(shared_folder, comm, kept(comm), progress(2), keep=1)
    size = (earlier / f"shard-{comm.rank:05d}.h5").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if comm.rank == comm.size - 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        save = lambda: shards.save(shared_folder, comm, kept(comm), progress(3), keep=1)  # noqa: E731
        text = broken(comm, save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"step-000003/shard-{comm.size - 1:05d}.h5: cannot be written: File too large" in text
    assert shards.latest(shared_folder, comm) == earlier
    loaded = {name: np.zeros_like(array) for name, array in arrays().items()}
    shards.load(earlier, comm, kept(comm, loaded), progress(0).fingerprint)
    assert loaded["values"].tobytes() == arrays()["values"].tobytes()


@pytest.mark.mpi(ranks=[2])
def test_what_hdf5_says_of_a_file_that_it_cannot_close_is_an_error_of_all(
    comm, shared_folder, monkeypatch
):
    def write(*arguments):
        raise RuntimeError("Can't decrement id ref count\n, filename = 'shard'")

    monkeypatch.setattr(shards, "_write_shard", write)
    save = lambda: shards.save(shared_folder, comm, kept(comm), progress(3), keep=1)  # noqa: E731
    assert broken(comm, save).endswith("cannot be written: Can't decrement id ref count")


@pytest.mark.mpi(ranks=[1, 2])
def test_a_manifest_that_cannot_be_written_is_an_error_of_all(comm, shared_folder, monkeypatch):
    earlier = shards.save(shared_folder, comm, kept(comm), progress(2), keep=1)

    def replace(path, text):
        raise OSError(errno.ENOSPC, "any words")

    monkeypatch.setattr(shards, "replace_text", replace)
    save = lambda: shards.save(shared_folder, comm, kept(comm), progress(3), keep=1)  # noqa: E731
    assert broken(comm, save).endswith("manifest.json: cannot be written: No space left on device")
    assert shards.latest(shared_folder, comm) == earlier


@pytest.mark.mpi(ranks=[1, 2])
def test_an_interrupted_attempt_is_not_counted_as_kept(comm, shared_folder):
    whole = shards.save(shared_folder, comm, kept(comm), progress(10), keep=2)
    interrupted = shards.save(shared_folder, comm, kept(comm), progress(13), keep=2)
    if comm.rank == 0:
        (interrupted / "manifest.json").unlink()
        (interrupted / ".shard-00000.h5.77.tmp").write_text("half a shard")
        (interrupted / "shard-00009.h5").write_text("of a run on more ranks")
    comm.broadcast(None)
    last = shards.save(shared_folder, comm, kept(comm), progress(15), keep=2)
    comm.broadcast(None)
    assert sorted(shared_folder.iterdir()) == [whole, last]
    assert (whole / "manifest.json").exists()


def slices_of(rank, ranks, size, period):
    """Every `ranks`-th piece of so many elements."""
    pieces = [(start, min(size, start + period)) for start in range(0, size, period)]
    return pieces[rank::ranks]


class Alone:
    """One rank's view of a checkpoint, without the others."""

    rank, size = 0, 1

    def allgather(self, value):
        return [value]

    def broadcast(self, value):
        return value

    def share_slices(self, array, ends):
        pass


@pytest.mark.mpi(ranks=[3, 4])
def test_any_ranks_read_what_others_wrote(comm, shared_folder):
    """Slices of some period are written, those of another are read, by all ranks and by one."""
    whole = np.random.default_rng(3).standard_normal(997)
    fields = [Field(0, 1, (0, 97)), Field(1, 90, (0, 10))]

    def sliced(rank, ranks, period):
        spans = slices_of(rank, ranks, len(whole), period)
        return Part(np.concatenate([whole[a:b] for a, b in spans]), fields, spans)

    written = {"moment": Sliced(len(whole), [sliced(comm.rank, comm.size, 10)])}
    path = shards.save(shared_folder, comm, written, progress(1), keep=1)
    for world in (comm, Alone()):
        for period in (10, 7, 400, 997):
            expected = sliced(world.rank, world.size, period) if period < 400 else None
            if expected is None:
                spans = slices_of(world.rank, world.size, len(whole), period)
                expected = Part(whole.copy(), fields, spans, whole=True)
            held = np.zeros_like(expected.array)
            target = Part(held, fields, expected.spans, expected.whole)
            moments = {"moment": Sliced(len(whole), [target])}
            shards.load(path, world, moments, progress(1).fingerprint)
            for (start, stop), place in zip(target.spans, target.segments(), strict=True):
                np.testing.assert_array_equal(held[place], whole[start:stop])
    comm.broadcast(None)


@pytest.mark.mpi(ranks=[2])
def test_other_ranks_need_all_shards_and_the_same_ones_only_their_own(comm, shared_folder):
    path = shards.save(shared_folder, comm, kept(comm), progress(1), keep=1)
    if comm.rank == 0:
        shards.load(path, Alone(), kept(Alone()), progress(1).fingerprint)
        (path / "shard-00001.h5").rename(path / "away")
        with pytest.raises(InputError, match=r"shard-00001\.h5: cannot be read"):
            shards.load(path, Alone(), kept(Alone()), progress(1).fingerprint)
        (path / "away").rename(path / "shard-00001.h5")
    comm.broadcast(None)
