"""Filter-parallel layers on real ranks: the weights of one rank, saved and resumed by others."""

import numpy as np
import pytest
from small_jobs import box_images, detector, small_settings

from mpitile.checkpoint import shards
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer

EXACT = 1e-12
STEPS = 3
# By number of ranks: grids, replicas, filter-parallel layers; fewer filters than ranks with 6.
PLACES = {
    1: [("1x1", 1, "none")],
    2: [("1x2", 1, [2, 3, 4]), ("1x1", 2, [0, 4])],
    3: [("1x3", 1, [0, 1, 2])],
    4: [("2x2", 1, [2, 4]), ("1x2", 2, [0, 1, 4])],
    6: [("2x3", 1, [0, 1, 2, 3, 4]), ("1x3", 2, [0, 2])],
}


def make(comm, folder, place, optimizer, per_device="auto"):
    """A trainer, and its images; the run file is the same on all ranks."""
    grid, replicas, filters = place
    own = folder / f"rank-{comm.rank}"
    own.mkdir(exist_ok=True)
    settings = small_settings(
        own,
        detector(normalize=1),
        folder / "data",
        train={"steps": STEPS, "optimizer": optimizer},
        tiling={
            "grid": grid,
            "replicas": replicas,
            "filters": filters,
            "ranks_per_device": per_device,
        },
    )
    job = make_job(settings, comm.size)
    topology = make_topology(comm, job.plan)
    return Trainer(job, topology), open_images(job, topology, settings.data.train)


def go_on(trainer, images, steps):
    passes = range(trainer.done, steps)
    feed = training_feeder(trainer.job, trainer.topology, trainer.program, images, passes, print)
    with feed as feeder:
        return [trainer.step(feeder)[0].loss for _ in passes]


def save(trainer, folder):
    world = trainer.topology.world
    shards.save(folder, world, trainer.arrays, trainer.progress(None), keep=1)
    world.broadcast(None)


def load(trainer, folder):
    world = trainer.topology.world
    path = shards.latest(folder, world)
    progress = shards.load(path, world, trainer.arrays, trainer.job.fingerprint)
    trainer.done = progress.step


def alone(folder, optimizer, work):
    """What one rank makes of a trainer."""

    def run(comm):
        return work(*make(comm, folder, PLACES[1][0], optimizer))

    return run_ranks(1, run)[0]


def arrays_of(trainer, *_):
    """Everything that one rank keeps."""
    return {name: sliced.parts[0].array.copy() for name, sliced in trainer.arrays.items()}


def assert_same(found, expected, tolerance=EXACT):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        scale = abs(array).max()
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * scale)


def saved_arrays(folder, saved, optimizer):
    def read(trainer, images):
        load(trainer, saved)
        return arrays_of(trainer)

    return alone(folder, optimizer, read)


@pytest.mark.mpi(ranks=[2, 3, 4, 6])
@pytest.mark.parametrize(("optimizer", "per_device"), [("sgd", 2), ("adam", "auto")])
def test_state_equals_one_ranks(comm, shared_folder, optimizer, per_device):
    if comm.rank == 0:
        box_images(shared_folder / "data", 7)
    comm.broadcast(None)
    for number, place in enumerate(PLACES[comm.size]):
        saved = shared_folder / f"saved-{number}"
        trainer, images = make(comm, shared_folder, place, optimizer, per_device)
        losses = go_on(trainer, images, STEPS)
        save(trainer, saved)
        trainer.write_weights(shared_folder / f"{number}.weights")
        trainer.close()
        if comm.rank == 0:

            def train(trainer, images, number=number):
                expected = go_on(trainer, images, STEPS)
                trainer.write_weights(shared_folder / "one.weights")
                return expected, arrays_of(trainer)

            expected, arrays = alone(shared_folder, optimizer, train)
            np.testing.assert_allclose(losses, expected, rtol=EXACT)
            assert_same(saved_arrays(shared_folder, saved, optimizer), arrays)
            one, other = (
                np.fromfile(shared_folder / name, np.float32, offset=20)
                for name in ("one.weights", f"{number}.weights")
            )
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7)
        comm.broadcast(None)


@pytest.mark.mpi(ranks=[3, 4])
def test_what_some_ranks_saved_others_resume(comm, shared_folder):
    """From slices to one rank without, back to slices of another kind, and on."""
    if comm.rank == 0:
        box_images(shared_folder / "data", 7)
        expected = alone(
            shared_folder, "adam", lambda *made: (go_on(*made, STEPS), arrays_of(made[0]))[1]
        )
    comm.broadcast(None)
    first, *others = PLACES[comm.size] * 2
    trainer, images = make(comm, shared_folder, first, "adam")
    go_on(trainer, images, 1)
    save(trainer, shared_folder / "first")
    trainer.close()
    if comm.rank == 0:

        def middle(trainer, images):
            load(trainer, shared_folder / "first")
            go_on(trainer, images, 2)
            save(trainer, shared_folder / "second")

        alone(shared_folder, "adam", middle)
    comm.broadcast(None)
    trainer, images = make(comm, shared_folder, others[0], "adam", 2)
    load(trainer, shared_folder / "second")
    go_on(trainer, images, STEPS)
    save(trainer, shared_folder / "third")
    trainer.close()
    if comm.rank == 0:
        assert_same(saved_arrays(shared_folder, shared_folder / "third", "adam"), expected)
