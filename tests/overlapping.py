"""Training with and without overlap, for ranks of either kind."""

import numpy as np

from mpitile.comm.topology import make_topology
from mpitile.plan.sums import buckets
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer

STEPS = 3
# Small enough for several buckets in networks of tests, and some that are parts of layers.
BUCKET = 700

# Ranks, grid, replicas and ranks per device.
PLACES = [
    (1, "1x1", 1, "auto"),
    (2, "2x1", 1, "auto"),
    (2, "1x2", 1, 1),
    (3, "3x1", 1, 2),
    (3, "1x1", 3, 1),
    (4, "2x2", 1, 2),
    (4, "1x2", 2, 1),
    (6, "3x2", 1, 3),
    (6, "1x3", 2, 4),
]


# Filter-parallel layers; the first of these places' ranks sum nothing of them.
SLICED_PLACES = [(2, "1x2", 1, 1), (4, "1x2", 2, 1), (6, "1x3", 2, 4), (6, "1x3", 2, 3)]
FILTERS = [2, 4]


def tiling_of(place, groups=(0, 2), recompute="none", filters="none"):
    _, grid, replicas, per_device = place
    return {
        "grid": grid,
        "replicas": replicas,
        "ranks_per_device": per_device,
        "groups": list(groups),
        "recompute": recompute,
        "filters": filters,
    }


def small_buckets(monkeypatch):
    """Threads and processes alike cut their arrays finely from now on."""
    monkeypatch.setattr(buckets, "BUCKET_BYTES", BUCKET)


def trained(settings, comm, steps=STEPS, prepare=lambda trainer: None):
    """Losses, weights, running statistics and the optimiser's moments after some steps."""
    job = make_job(settings, comm.size)
    topology = make_topology(comm, job.plan)
    trainer = Trainer(job, topology)
    prepare(trainer)
    images = open_images(job, topology, settings.data.train)
    passes = range(steps * job.subdivisions)
    with training_feeder(job, topology, trainer.program, images, passes, print) as feeder:
        losses = [trainer.step(feeder)[0].loss for _ in range(steps)]
    moments = {
        name: np.concatenate([part.array for part in kept.parts])
        for name, kept in trainer.arrays.items()
    }
    trainer.close()
    return losses, moments


def assert_same_bits(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, array in one[1].items():
        np.testing.assert_array_equal(array, other[1][name], err_msg=name)
