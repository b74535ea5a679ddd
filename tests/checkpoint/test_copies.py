"""Copies of shards on neighbouring devices: what one has lost comes back from the next."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mpitile.checkpoint import copies, shards
from mpitile.checkpoint.copies import copy_name, keepers
from mpitile.checkpoint.pieces import Field
from mpitile.checkpoint.shards import Progress, Sliced, replicated
from mpitile.comm.local import run_ranks
from mpitile.errors import InputError
from mpitile.plan.clusters.devices import Devices

PROGRESS = Progress(7, 28, 3, 0.5, "settings")
VALUES = np.random.default_rng(5).standard_normal(1003)

DEVICES = [
    Devices(((0,), (1,))),
    Devices(((0, 1), (2, 3))),
    Devices(((0, 1, 2), (3,))),
    Devices(((0, 3), (1, 4, 5), (2,))),
]


def sliced(world, array):
    return {"values": Sliced(len(array), [replicated(world, array, [Field(0, 1, (0, 1003))])])}


class Cluster:
    """Devices with folders of their own."""

    def __init__(self, folder, devices):
        self.devices = devices
        self.folders = [folder / f"device-{number}" for number in range(len(devices))]

    def folder_of(self, rank):
        return self.folders[self.devices.place(rank)[0]]

    def run(self, work):
        """``work(world, folder)`` on each rank; their results."""
        return run_ranks(
            self.devices.rank_count, lambda world: work(world, self.folder_of(world.rank))
        )

    def save(self, progress=PROGRESS, keep=1):
        kept_by = keepers(self.devices)
        self.run(
            lambda world, at: shards.save(at, world, sliced(world, VALUES), progress, keep, kept_by)
        )

    def resume(self):
        """The names that were restored, and each rank's progress and values."""

        def work(world, folder):
            path = shards.latest(folder, world)
            restored = shards.restore(path, world)
            values = np.zeros_like(VALUES)
            progress = shards.load(path, world, sliced(world, values), PROGRESS.fingerprint)
            return restored, progress, values

        return self.run(work)


def test_a_keeper_is_on_the_next_device():
    assert keepers(Devices(((0, 1, 2, 3),))) == ()
    assert keepers(Devices(((0,), (1,), (2,)))) == (1, 2, 0)
    assert keepers(Devices(((0, 1), (2, 3)))) == (2, 3, 0, 1)
    assert keepers(Devices(((0, 1, 2), (3,)))) == (3, 3, 3, 0)
    assert keepers(Devices(((0, 3), (1, 4, 5), (2,)))) == (1, 2, 0, 4, 2, 2)


@pytest.mark.parametrize("devices", DEVICES)
def test_any_device_can_be_lost(tmp_path, devices):
    for lost in range(len(devices)):
        cluster = Cluster(tmp_path / str(lost), devices)
        cluster.save()
        shutil.rmtree(cluster.folders[lost])
        expected = [f"shard-{rank:05d}.h5" for rank in devices.ranks[lost]]
        if lost == 0:
            expected.append("manifest.json")
        for restored, progress, values in cluster.resume():
            assert restored == expected
            assert progress == PROGRESS
            np.testing.assert_array_equal(values, VALUES)
        # All is there again: nothing is restored twice.
        assert {tuple(restored) for restored, _, _ in cluster.resume()} == {()}


def test_what_is_damaged_comes_back_where_all_see_one_folder(tmp_path):
    devices = Devices(((0, 1), (2, 3)))
    cluster = Cluster(tmp_path, devices)
    cluster.folders = [tmp_path / "shared"] * 2
    cluster.save()
    (path,) = cluster.folders[0].iterdir()
    whole = (path / "shard-00003.h5").read_bytes()
    (path / "shard-00003.h5").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (path / "shard-00001.h5").unlink()
    for restored, _, values in cluster.resume():
        assert restored == ["shard-00001.h5", "shard-00003.h5"]
        np.testing.assert_array_equal(values, VALUES)
    assert (path / "shard-00003.h5").read_bytes() == whole


@pytest.mark.parametrize("ranks", [1, 3, 5])
def test_other_ranks_than_wrote_them_find_the_copies(tmp_path, ranks):
    cluster = Cluster(tmp_path, Devices(((0, 1), (2, 3))))
    cluster.folders = [tmp_path / "shared"] * 2
    cluster.save()
    (path,) = cluster.folders[0].iterdir()
    for number in (0, 2, 3):
        (path / f"shard-{number:05d}.h5").unlink()
    cluster.devices = Devices((tuple(range(ranks)),))
    for restored, _, values in cluster.resume():
        assert sorted(restored) == [f"shard-{number:05d}.h5" for number in (0, 2, 3)]
        np.testing.assert_array_equal(values, VALUES)


def test_what_has_no_whole_copy_is_said_to_be_missing(tmp_path):
    cluster = Cluster(tmp_path, Devices(((0,), (1,), (2,))))
    cluster.save()
    name = "shard-00001.h5"
    (copy,) = cluster.folders[2].glob(f"*/{copy_name(name)}")
    copy.write_bytes(b"half")
    (shard,) = cluster.folders[1].glob(f"*/{name}")
    shard.unlink()
    with pytest.raises(InputError, match=rf"rank 1: .*{name}: cannot be read"):
        cluster.resume()


def test_what_another_run_has_left_on_a_device_is_not_taken_up(tmp_path):
    cluster = Cluster(tmp_path, Devices(((0, 1), (2, 3))))
    cluster.save()
    for folder in cluster.folders[1:]:
        (folder / "step-000099").mkdir()
        (folder / "step-000099" / "manifest.json").write_text("{}")
    assert {progress.step for _, progress, _ in cluster.resume()} == {PROGRESS.step}


def test_copies_go_with_their_checkpoint(tmp_path):
    cluster = Cluster(tmp_path, Devices(((0, 1), (2, 3))))
    for step in (7, 14):
        cluster.save(Progress(step, 0, 1, None, "settings"))
    for folder, own, other in zip(cluster.folders, [(0, 1), (2, 3)], [(2, 3), (0, 1)], strict=True):
        (path,) = folder.iterdir()
        assert path.name == "step-000014"
        names = [f"shard-{rank:05d}.h5" for rank in own]
        names += [f"copy-{rank:05d}.h5" for rank in other]
        assert sorted(file.name for file in path.iterdir()) == sorted([*names, "manifest.json"])
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["keepers"] == [2, 3, 0, 1]


def test_files_travel_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_BLOCK", 1000)
    cluster = Cluster(tmp_path, Devices(((0, 1, 2), (3,))))
    cluster.save()
    for rank in range(3):
        (shard,) = cluster.folders[0].glob(f"*/shard-{rank:05d}.h5")
        (copy,) = cluster.folders[1].glob(f"*/copy-{rank:05d}.h5")
        assert shard.read_bytes() == copy.read_bytes()
        assert shard.stat().st_size > 3000


def test_a_keeper_without_room_is_an_error_of_all_and_costs_no_checkpoint(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path, Devices(((0,), (1,), (2,))))
    cluster.save()
    monkeypatch.setattr(copies, "_BLOCK", 1000)
    write = copies._write

    def full(path, blocks):
        if path.name.startswith(".copy-00001"):
            next(blocks)
            raise OSError(errno.ENOSPC, "any words")
        write(path, blocks)

    monkeypatch.setattr(copies, "_write", full)
    later = Progress(14, 0, 1, None, "settings")

    def work(world, folder):
        arrays = sliced(world, VALUES)
        with pytest.raises(InputError) as caught:
            shards.save(folder, world, arrays, later, 1, keepers(cluster.devices))
        return str(caught.value), shards.latest(folder, world).name

    found = cluster.run(work)
    assert len(set(found)) == 1
    text, latest = found[0]
    assert text.startswith("rank 2: ")
    assert text.endswith("step-000014/copy-00001.h5: cannot be written: No space left on device")
    assert latest == "step-000007"
    assert not [path for folder in cluster.folders for path in folder.glob("*/.*")]


def test_a_shard_that_cannot_be_read_to_the_end_is_an_error_of_all(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path, Devices(((0,), (1,))))

    class Torn:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def read(self, size):
            if self.file.tell():
                raise OSError(errno.EIO, "any words")
            return self.file.read(size)

    opened = Path.open

    def open_torn(path, mode="r", **options):
        file = opened(path, mode, **options)
        return Torn(file) if path.name == "shard-00001.h5" and mode == "rb" else file

    monkeypatch.setattr(copies, "_BLOCK", 1000)
    monkeypatch.setattr(Path, "open", open_torn)

    def work(world, folder):
        arrays = sliced(world, VALUES)
        with pytest.raises(InputError) as caught:
            shards.save(folder, world, arrays, PROGRESS, 1, keepers(cluster.devices))
        return str(caught.value)

    first, second = cluster.run(work)
    assert first == second
    assert first.startswith("rank 1: ")
    assert first.endswith("shard-00001.h5: cannot be read: Input/output error")


def test_a_copy_that_differs_from_its_shard_is_an_error_of_all(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path, Devices(((0,), (1,))))
    monkeypatch.setattr(copies, "_write", lambda path, blocks: path.write_bytes(b"other"))
    with pytest.raises(InputError, match=r"copy-0000.\.h5: other than what rank . sent"):
        cluster.save()
