"""Predicted memory of a rank is what its trainer and feeder hold."""

import numpy as np
import pytest
from small_jobs import box_images, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.plan.clusters.devices import Devices, expected_devices
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
@pytest.mark.parametrize(
    ("ranks", "replicas", "per_device", "filters"),
    [
        (1, 1, "auto", "none"),
        (3, 1, 2, "none"),
        (4, 2, "auto", "none"),
        (4, 2, 1, "none"),
        (3, 1, 2, [2, 3, 4]),
        (4, 2, "auto", [0, 4]),
        (6, 2, 4, [0, 1, 2]),
    ],
)
def test_every_rank_holds_what_was_predicted(
    tmp_path, images, ranks, replicas, per_device, filters, read, optimizer
):
    sections = {
        "train": {"optimizer": optimizer, "batch": 4},
        "tiling": {
            "replicas": replicas,
            "recompute": "all",
            "ranks_per_device": per_device,
            "filters": filters,
        },
        "data": {"read": read},
    }
    settings = small_settings(tmp_path, detector(), images, **sections)
    job = make_job(settings, ranks)
    assert job.plan.filters == (() if filters == "none" else tuple(filters))

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

    devices = expected_devices(ranks, per_device)
    assert list(job_bytes(job, devices)) == run_ranks(ranks, hold)


def test_a_device_holds_its_weights_once_and_the_moments_are_divided(tmp_path, images):
    settings = small_settings(tmp_path, detector(), images, train={"optimizer": "adam"})
    (alone,) = job_bytes(make_job(settings, 1))
    job = make_job(settings, 6)
    devices = Devices(((0, 2, 3, 4), (1, 5)))
    each = job_bytes(job, devices)
    running = each[2]["weights"]
    assert [rank["weights"] for rank in each] == [
        alone["weights"] if rank in (0, 1) else running for rank in range(6)
    ]
    assert running < alone["weights"] / 10
    assert sum(rank["optimizer"] for rank in each) == alone["optimizer"]
    assert {rank["gradients"] for rank in each} == {alone["gradients"]}
    assert alone["sums"] == 0
    # Of half of the array each of two devices receives a summand.
    for ranks in devices.ranks:
        received = sum(each[rank]["sums"] for rank in ranks)
        assert received == pytest.approx(alone["gradients"] / 2, rel=0.02)


def test_this_process_is_measured():
    assert 0 < resident_bytes() <= peak_bytes()


def test_bytes_are_described_largest_first():
    kinds = {"weights": 1_500_000, "halos": 0, "activations": 123_400_000}
    assert describe_bytes(kinds) == "125 MB (activations 123, weights 1.5)"
