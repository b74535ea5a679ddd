"""Predicted memory of a rank is what its trainer and feeder hold."""

import numpy as np
import pytest
from small_jobs import box_images, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.comm.reduce import BUCKET_BYTES, IN_FLIGHT, BucketSum, bytes_in_flight
from mpitile.comm.topology import make_topology
from mpitile.train.forecast import job_bytes
from mpitile.train.memory import describe_bytes, peak_bytes, resident_bytes
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return box_images(tmp_path_factory.mktemp("images"), 7)


def feeder_arrays(feeder):
    """The bytes of whatever images a feeder holds."""
    prefetcher = feeder._prefetcher
    buffers = prefetcher._load.__closure__ if prefetcher else ()
    held = [cell.cell_contents for cell in buffers if isinstance(cell.cell_contents, np.ndarray)]
    return sum(array.nbytes for array in [*held, *getattr(feeder, "_images_out", [])])


@pytest.mark.parametrize("read", ["all", "root"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("ranks", "replicas"), [(1, 1), (3, 1), (4, 2)])
def test_every_rank_holds_what_was_predicted(tmp_path, images, ranks, replicas, read, optimizer):
    sections = {
        "train": {"optimizer": optimizer, "batch": 4},
        "tiling": {"replicas": replicas, "recompute": "all"},
        "data": {"read": read},
    }
    settings = small_settings(tmp_path, detector(), images, **sections)
    job = make_job(settings, ranks)

    def hold(comm):
        topology = make_topology(comm, job.plan)
        trainer = Trainer(job, topology)
        opened = open_images(job, topology, settings.data.train)
        feed = training_feeder(job, topology, trainer.program, opened, range(1), print)
        with feed as feeder:
            staging = feeder_arrays(feeder)
            trainer.step(feeder)
        held = trainer.allocated
        held["images"] += staging
        return held

    assert list(job_bytes(job)) == run_ranks(ranks, hold)


def test_few_buckets_are_under_way():
    """Never more than `IN_FLIGHT`, and all of them arrive."""
    size = 5 * BUCKET_BYTES // 8 + 3

    class Counting:
        rank, size, under_way, most = 0, 2, 0, 0

        def begin_sum(self, array):
            array += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            return self

        def end(self):
            self.under_way -= 1

    comm, array = Counting(), np.zeros(size)
    total = BucketSum(comm, array)
    total.begin()
    total.end()
    assert comm.most == IN_FLIGHT
    assert comm.under_way == 0
    assert (array == 1).all()
    assert total.bytes == bytes_in_flight(2, array.nbytes) == IN_FLIGHT * BUCKET_BYTES
    assert bytes_in_flight(1, array.nbytes) == 0
    assert bytes_in_flight(2, 1000) == 1000


def test_this_process_is_measured():
    assert 0 < resident_bytes() <= peak_bytes()


def test_bytes_are_described_largest_first():
    kinds = {"weights": 1_500_000, "halos": 0, "activations": 123_400_000}
    assert describe_bytes(kinds) == "125 MB (activations 123, weights 1.5)"
