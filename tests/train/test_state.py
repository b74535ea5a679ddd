"""Training state in slices: the same numbers as whole, and the same when it is resumed."""

import functools

import numpy as np
import pytest
from small_jobs import box_images, class_images, classifier, detector, small_settings

from mpitile.checkpoint import shards
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.memory.state_bytes import flat_parts, state_bytes
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.train.optimizer import make_optimizer
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.state import TrainState
from mpitile.train.trainer import Trainer

CFG = """
[net]
height=6
width=6
momentum=0.8
decay=0.03
[convolutional]
batch_normalize=1
filters=30
size=3
[connected]
output=40
"""
STEPS, RATE = 3, 0.1


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return box_images(tmp_path_factory.mktemp("boxes"), 7)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return class_images(tmp_path_factory.mktemp("labels"), 3, 3)


def gradient(parameters, rank, step):
    random = np.random.default_rng([rank, step])
    return random.normal(size=parameters.values.size).astype(parameters.values.dtype)


def sliced(comm, network, dtype, kind, per_device):
    """Values after some steps, and this rank's moments put together over ranks."""
    plan = Plan(Grid(1, comm.size), (0,))
    state = TrainState(network, plan, dtype, kind, make_topology(comm, plan), per_device)
    state.draw(1)
    for step in range(1, STEPS + 1):
        state.parameters.gradients[:] = gradient(state.parameters, comm.rank, step)
        state.begin_sum()
        state.end_sum()
        state.update(RATE, 5, step)
        state.begin_share()
        state.end_share()
    moments = {}
    for name, kept in state.arrays.items():
        (part,) = kept.parts
        whole = np.zeros(kept.size, dtype)
        for (start, stop), segment in zip(part.spans, part.segments(), strict=True):
            whole[start:stop] = part.array[segment]
        comm.sum(whole)
        moments[name] = whole
    arrays = len(moments) - 2
    itemsize = np.dtype(dtype).itemsize
    parts = flat_parts(network, plan, itemsize)[comm.rank % plan.grid.tiles]
    predicted = state_bytes(plan, state.group.devices, comm.rank, parts, itemsize, arrays)
    assert state.bytes == predicted
    values = state.parameters.values.copy()
    np.testing.assert_array_equal(moments.pop("values"), values)
    np.testing.assert_array_equal(moments.pop("running"), state.parameters.running)
    state.close()
    return values, moments


def plain(comm, network, dtype, kind):
    """The same with everything whole on every rank."""
    parameters = Parameters(network, dtype)
    parameters.draw(1)
    optimizer = make_optimizer(kind, parameters, network.options)
    for step in range(1, STEPS + 1):
        parameters.gradients[:] = gradient(parameters, comm.rank, step)
        comm.sum(parameters.gradients)
        optimizer.update(RATE, 5, step)
    return parameters.values, optimizer.state


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize(("ranks", "per_device"), [(1, "auto"), (4, "auto"), (5, 1), (5, 2)])
def test_slices_take_the_steps_of_the_whole(ranks, per_device, kind, dtype):
    network = parse_network(CFG, "small")
    found = run_ranks(ranks, lambda comm: sliced(comm, network, dtype, kind, per_device))
    expected, state = run_ranks(ranks, lambda comm: plain(comm, network, dtype, kind))[0]
    # Sums over one device, and over devices of one rank, go in the order of ranks.
    exact = per_device != 2
    tolerance = 0 if exact else 50 * np.finfo(dtype).eps
    for values, moments in found:
        assert values.dtype == dtype
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance * abs(expected).max())
        assert moments.keys() == state.keys()
        for name, moment in moments.items():
            scale = abs(state[name]).max()
            np.testing.assert_allclose(moment, state[name], rtol=0, atol=tolerance * scale)


def make_trainer(settings, comm):
    job = make_job(settings, comm.size)
    topology = make_topology(comm, job.plan)
    return Trainer(job, topology), open_images(job, topology, settings.data.train)


def go_on(trainer, images, steps):
    """Train up to a step; the metrics."""
    passes = range(trainer.done, steps)
    feed = training_feeder(trainer.job, trainer.topology, trainer.program, images, passes, print)
    with feed as feeder:
        return [trainer.step(feeder)[0] for _ in passes]


def arrays_of(trainer):
    found = (trainer.parameters.values, trainer.parameters.running)
    return [array.copy() for array in found]


PLACES = [
    (1, "1x1", 1, "auto"),
    (2, "1x2", 1, 1),
    (3, "3x1", 1, 2),
    (4, "2x2", 1, 2),
    (6, "1x3", 2, 4),
]


def settings_of(folder, data, place, **train):
    _, grid, replicas, per_device = place
    return small_settings(
        folder,
        detector(normalize=1),
        data,
        train={"steps": 4, "optimizer": "adam", **train},
        tiling={"grid": grid, "replicas": replicas, "ranks_per_device": per_device},
    )


@pytest.mark.parametrize("place", PLACES[1:])
def test_any_devices_train_like_one_rank(tmp_path, boxes, place):
    def work(comm, settings):
        trainer, images = make_trainer(settings, comm)
        losses = [metrics.loss for metrics in go_on(trainer, images, 4)]
        return losses, arrays_of(trainer)

    alone = settings_of(tmp_path, boxes, PLACES[0])
    losses, arrays = run_ranks(1, lambda comm: work(comm, alone))[0]
    settings = settings_of(tmp_path, boxes, place)
    for found in run_ranks(place[0], lambda comm: work(comm, settings)):
        np.testing.assert_allclose(found[0], losses, rtol=1e-11)
        for one, other in zip(found[1], arrays, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11 * abs(other).max())


@pytest.mark.parametrize("first", PLACES)
def test_any_ranks_resume_what_others_saved(tmp_path, boxes, first):
    written = settings_of(tmp_path, boxes, first)

    def until_saved(comm):
        trainer, images = make_trainer(written, comm)
        go_on(trainer, images, 2)
        shards.save(tmp_path / "saved", comm, trainer.arrays, trainer.progress(None), keep=1)
        go_on(trainer, images, 4)
        return arrays_of(trainer), trainer.progress(None)

    expected, saved = run_ranks(first[0], until_saved)[0]

    def resumed(comm, place, settings):
        trainer, images = make_trainer(settings, comm)
        path = shards.latest(tmp_path / "saved", comm)
        progress = shards.load(path, comm, trainer.arrays, trainer.job.fingerprint)
        assert (progress.plan == trainer.progress(None).plan) == (place == first)
        trainer.done = progress.step
        go_on(trainer, images, 4)
        assert trainer.progress(None).position == saved.position
        return arrays_of(trainer)

    for place in PLACES:
        settings = settings_of(tmp_path, boxes, place)
        # The same plan on the same devices goes on bit for bit.
        tolerance = 0 if place == first else 1e-11
        work = functools.partial(resumed, place=place, settings=settings)
        for found in run_ranks(place[0], work):
            for one, other in zip(found, expected, strict=True):
                scale = abs(other).max()
                np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("per_device", [1, 2, 3, "auto"])
def test_metrics_tell_what_a_device_has_sent(tmp_path, labels, per_device):
    """Replicas of one tile each have no halos: only gradients and weights travel."""
    settings = small_settings(
        tmp_path,
        classifier(3),
        labels,
        train={"batch": 12},
        tiling={"replicas": 6, "grid": "1x1", "ranks_per_device": per_device},
    )

    def work(comm):
        trainer, images = make_trainer(settings, comm)
        return go_on(trainer, images, 3), trainer.parameters.values.nbytes

    metrics, size = run_ranks(6, work)[0]
    count = {1: 6, 2: 3, 3: 2, "auto": 1}[per_device]
    # New values travel in the step after theirs: the first has none.
    for times, step in zip((1, 2, 2), metrics, strict=True):
        assert step.sent_mb * 1e6 == pytest.approx(times * (count - 1) / count * size, rel=0.02)
