"""Devices of real ranks: memory that they share, sums over it, and nothing left behind."""

from pathlib import Path

import numpy as np
import pytest
import runs
from device_cases import summand, total

from mpitile.comm.device_sums import DeviceSums
from mpitile.comm.devices import make_devices, own_arrays
from mpitile.comm.reduce import SlicedGather, SlicedSum
from mpitile.comm.topology import make_topology
from mpitile.plan.sums.slices import equal_buckets
from mpitile.train.settings import read_settings
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer

RANKS = [1, 2, 3, 4, 6]


def mapped():
    """Windows of shared memory that this process has mapped."""
    return Path("/proc/self/maps").read_text().count("osc_sm")


@pytest.mark.mpi(ranks=RANKS)
def test_ranks_of_this_host_share_memory(comm):
    assert comm.hosts() == [list(range(comm.size))]
    assert comm.room() > 0
    before = mapped()
    for size in (0, 3, 4096, 100_001):
        memory = comm.share(size * comm.rank)
        assert [len(segment) for segment in memory.segments] == [
            size * rank for rank in range(comm.size)
        ]
        assert not any(segment.any() for segment in memory.segments)
        for number in range(4):
            memory.fence()
            # Each writes its own, and once the next rank's.
            target = memory.segments[(comm.rank + number % 2) % comm.size]
            target[:] = 10 * number + comm.rank
            memory.fence()
            for rank, segment in enumerate(memory.segments):
                writer = (rank - number % 2) % comm.size
                assert (segment == 10 * number + writer).all()
        memory.fence()
        memory.close()
    assert mapped() == before


@pytest.mark.mpi(ranks=RANKS)
@pytest.mark.parametrize("per_device", ["auto", 1, 2])
def test_small_sums_follow_each_other_without_a_fence(comm, per_device):
    group = make_devices(comm, per_device)
    sums = DeviceSums(group, 64)
    wanted = {size: total(group.devices, size, np.float64) for size in (1, 5, 64)}
    for size in [5, 64, 1] * 30:
        own = summand(comm.rank, size, np.float64)
        sums.sum(own)
        np.testing.assert_array_equal(own, wanted[size])
    sums.close()


@pytest.mark.mpi(ranks=[2, 3])
def test_ranks_that_do_not_see_the_same_place_do_not_share(comm, monkeypatch):
    import mpitile.comm.mpi as module

    monkeypatch.setattr(module, "memory_name", lambda: "here" if comm.rank else "elsewhere")
    assert comm.hosts() == [[0], list(range(1, comm.size))]
    monkeypatch.undo()
    comm.broadcast(None)


@pytest.mark.mpi(ranks=[3])
def test_without_room_every_rank_is_a_device(comm, monkeypatch):
    monkeypatch.setattr(comm, "room", lambda: 99 if comm.rank == 1 else 1 << 30)
    assert make_devices(comm, each=30, once=9).devices.ranks == ((0, 1, 2),)
    group = make_devices(comm, each=30, once=10)
    assert group.devices.ranks == ((0,), (1,), (2,))
    memory, (array,) = own_arrays(group, 5, np.dtype(np.float64))
    reduction = SlicedSum(group, memory, [array])
    array[:] = summand(comm.rank, 5, np.float64)
    reduction.begin()
    reduction.end()
    for start, stop in reduction.own:
        np.testing.assert_array_equal(
            array[start:stop], total(group.devices, 5, np.float64)[start:stop]
        )


@pytest.mark.mpi(ranks=RANKS)
@pytest.mark.parametrize(
    ("per_device", "wait"),
    [("auto", "spin"), ("auto", "sleep"), (1, "sleep"), (2, "spin"), (2, "sleep"), (4, "sleep")],
)
def test_sums_have_the_promised_bits(comm, per_device, wait):
    from mpi4py import MPI

    from mpitile.comm.mpi import MpiCommunicator

    world = MpiCommunicator(MPI.COMM_WORLD, wait)
    before = mapped()
    group = make_devices(world, per_device)
    split = group.devices
    for dtype in map(np.dtype, (np.float32, np.float64)):
        for size in (0, 1, 5, 50_003):
            memory, arrays = own_arrays(group, size, dtype)
            buckets = equal_buckets(size, dtype.itemsize, 1 << 14)
            reduction = SlicedSum(group, memory, arrays, buckets)
            gather = SlicedGather(group, memory, reduction.total, buckets)
            sent = group.sent()[0]
            for _ in range(2):
                arrays[group.inside.rank][:] = summand(comm.rank, size, dtype)
                reduction.begin()
                reduction.end()
                gather.begin()
                gather.end()
                np.testing.assert_array_equal(reduction.total, total(split, size, dtype))
                memory.fence()
            outside = sum(
                amount
                for amount, number in comm.allgather((group.sent()[0] - sent, group.number))
                if number == group.number
            )
            if size > 1000:
                count = len(split)
                expected = 2 * 2 * (count - 1) / count * size * dtype.itemsize
                assert outside == pytest.approx(expected, rel=0.01)
            reduction.close()
            gather.close()
            memory.close()
    assert mapped() == before


@pytest.mark.mpi(ranks=[2, 3, 4, 6])
@pytest.mark.parametrize("per_device", ["auto", 1, 4])
def test_two_runs_give_the_same_bits_and_leave_nothing(comm, shared_folder, per_device):
    """Weights, moments and losses of a network with batch norm, in float32."""
    if comm.rank == 0:
        data = runs.draw_data(shared_folder / "data")
        sections = {
            "train": {"optimizer": "adam"},
            "tiling": {"ranks_per_device": per_device},
        }
        runs.write_run(shared_folder, runs.settings_of(data, shared_folder / "out", **sections))
    comm.broadcast(None)
    settings = read_settings(shared_folder / "run.toml")
    job = make_job(settings, comm.size)
    before = mapped()

    def train():
        topology = make_topology(comm, job.plan)
        trainer = Trainer(job, topology)
        images = open_images(job, topology, settings.data.train)
        feed = training_feeder(job, topology, trainer.program, images, range(4), lambda text: None)
        with feed as feeder:
            losses = [trainer.step(feeder)[0].loss for _ in range(4)]
        kept = [part.array.tobytes() for sliced in trainer.arrays.values() for part in sliced.parts]
        assert len({bytes_ for bytes_ in comm.allgather(kept[0])}) == 1
        trainer.close()
        return losses, kept

    first, second = train(), train()
    assert first == second
    assert mapped() == before
