"""Single steps: passes of a step, dropout, divergence, and what all ranks agree on."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from small_jobs import DROPOUT, box_images, class_images, classifier, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.errors import InputError, MpitileError
from mpitile.layers import detection
from mpitile.train.schedule import learning_rate
from mpitile.train.setup import make_job, open_dataset
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return box_images(tmp_path_factory.mktemp("boxes"), 7)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return class_images(tmp_path_factory.mktemp("labels"), 3, 3)


class Steps:
    """What some training steps of a run come to on one rank."""

    def __init__(self, settings, comm, steps, prepare, stop_wanted):
        job = make_job(settings, comm.size)
        topology = make_topology(comm, job.plan)
        images = open_images(job, topology, settings.data.train)
        trainer = Trainer(job, topology)
        self.start = trainer.parameters.values.copy()
        self.metrics, self.stops = [], []
        passes = range(steps * job.subdivisions)
        with training_feeder(job, topology, trainer.program, images, passes, print) as feeder:
            feeder = prepare(comm, trainer, feeder) or feeder
            for _ in range(steps):
                metrics, stop = trainer.step(feeder, lambda: stop_wanted(comm, trainer.done))
                self.metrics.append(metrics)
                self.stops.append(stop)
        self.gradients = trainer.parameters.gradients.copy()
        self.values = trainer.parameters.values.copy()
        self.done, self.progress = trainer.done, trainer.progress(None)
        self.options, self.seed = job.network.options, settings.train.seed
        self.allocated = trainer.allocated

    @property
    def losses(self):
        return [metrics.loss for metrics in self.metrics]


def train(settings, ranks=1, steps=1, prepare=lambda *_: None, stop_wanted=lambda *_: False):
    """The `Steps` of rank 0, which are those of all ranks."""
    every = run_ranks(ranks, lambda comm: Steps(settings, comm, steps, prepare, stop_wanted))
    for other in every[1:]:
        assert other.losses == every[0].losses and other.stops == every[0].stops
        assert other.metrics == every[0].metrics
        np.testing.assert_array_equal(other.values, every[0].values)
    return every[0]


def assert_close(actual, expected, tolerance=1e-12):
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("subdivisions", [2, 4])
def test_passes_of_a_step_add_up(boxes, tmp_path, subdivisions):
    cfg = detector()
    whole = train(small_settings(tmp_path, cfg, boxes, train={"batch": 4}), steps=3)
    parts = train(
        small_settings(tmp_path, cfg, boxes, train={"batch": 4, "subdivisions": subdivisions}),
        steps=3,
    )
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-12)
    assert_close(parts.gradients, whole.gradients)
    assert_close(parts.values - parts.start, whole.values - whole.start)


def test_a_steps_gradient_is_the_sum_of_its_images(boxes, tmp_path):
    cfg = detector()
    together = train(small_settings(tmp_path, cfg, boxes, train={"batch": 3}))

    def only(number):
        def prepare(comm, trainer, feeder):
            # The gradient of one image: steps with batch 1 and no learning.
            trainer.job = replace(trainer.job, batch=1)

        settings = small_settings(tmp_path, cfg, boxes, train={"batch": 1, "learning_rate": 0.0})
        return train(settings, steps=number + 1, prepare=prepare)

    singles = [only(number) for number in range(3)]
    assert_close(together.gradients, sum(single.gradients for single in singles))
    mean = sum(single.losses[-1] for single in singles) / 3
    assert together.losses[0] == pytest.approx(mean, rel=1e-12)


GRIDS = [("2x2", 1), ("1x3", 1), ("1x1", 2), ("2x1", 2)]


@pytest.mark.parametrize(("grid", "replicas"), GRIDS)
@pytest.mark.parametrize("kind", ["boxes", "labels"])
def test_dropout_draws_the_same_on_any_grid(request, tmp_path, kind, grid, replicas):
    data = request.getfixturevalue(kind)
    make = {"boxes": detector, "labels": lambda **options: classifier(3, **options)}[kind]
    rows, columns = map(int, grid.split("x"))

    def losses(cfg, ranks=1, **tiling):
        # Two subdivisions of two images: every pass draws anew.
        settings = small_settings(
            tmp_path, cfg, data, train={"batch": 4, "subdivisions": 2}, tiling=tiling
        )
        return train(settings, ranks, steps=3).losses

    alone = losses(make(dropout=DROPOUT))
    tiled = losses(make(dropout=DROPOUT), rows * columns * replicas, grid=grid, replicas=replicas)
    np.testing.assert_allclose(tiled, alone, rtol=1e-11)
    assert abs(losses(make())[0] / alone[0] - 1) > 1e-6


def test_dropout_is_drawn_anew_for_each_pass_and_from_the_seed(boxes, tmp_path):
    cfg = detector(dropout=DROPOUT)

    def losses(seed):
        # The same weights and images in every step: dropout alone differs.
        def prepare(comm, trainer, feeder):
            trainer.parameters.draw(1)

        options = {"batch": 7, "learning_rate": 0.0, "seed": seed}
        return train(
            small_settings(tmp_path, cfg, boxes, train=options), steps=4, prepare=prepare
        ).losses

    first = losses(1)
    assert len({round(loss, 9) for loss in first}) == 4
    assert losses(1) == first
    assert not set(losses(2)) & set(first)


def raises_on_all(settings, ranks, prepare, steps=1):
    def work(comm):
        with pytest.raises(MpitileError) as caught:
            Steps(settings, comm, steps, prepare, lambda *_: False)
        return str(caught.value)

    return run_ranks(ranks, work)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_infinite_loss_ends_all_ranks(boxes, tmp_path, value):
    class Poisoned:
        """One rank's part of the images becomes unusable in step 2."""

        def __init__(self, comm, trainer, feeder):
            self.comm, self.trainer, self.feeder = comm, trainer, feeder

        def next(self, number):
            truths = self.feeder.next(number)
            if number == 1 and self.comm.rank == 3:
                self.trainer.program.values[0].array[...] = value
            return truths

    settings = small_settings(tmp_path, detector(), boxes, tiling={"grid": "2x2"})
    texts = raises_on_all(settings, 4, Poisoned, steps=3)
    assert len(set(texts)) == 1
    assert texts[0].startswith("the loss of step 2 is ") and "diverged" in texts[0]


def test_one_ranks_wish_to_stop_is_everyones(boxes, tmp_path):
    settings = small_settings(tmp_path, detector(), boxes, tiling={"grid": "1x3"})
    steps = train(settings, 3, steps=3, stop_wanted=lambda comm, done: comm.rank == 2 and done == 2)
    assert steps.stops == [False, True, False]


def test_rates_follow_the_cfg_from_step_one(boxes, tmp_path):
    cfg = detector().replace("learning_rate=0.01\n", "learning_rate=0.01\nburn_in=3\n")
    steps = train(small_settings(tmp_path, cfg, boxes), steps=4)
    rates = [metrics.learning_rate for metrics in steps.metrics]
    assert rates == [learning_rate(steps.options, step) for step in (1, 2, 3, 4)]
    assert rates[0] < rates[1] < rates[2] == rates[3] == 0.01
    assert [metrics.step for metrics in steps.metrics] == [1, 2, 3, 4]


def test_progress_counts_images(boxes, tmp_path):
    steps = train(small_settings(tmp_path, detector(), boxes, train={"batch": 6}), steps=2)
    assert (steps.progress.step, steps.progress.position, steps.progress.seed) == (2, 12, 2)


def test_the_optimizer_is_in_the_memory_count(boxes, tmp_path):
    for kind, arrays in (("sgd", 1), ("adam", 2)):
        settings = small_settings(tmp_path, detector(), boxes, train={"optimizer": kind})
        steps = train(settings)
        assert steps.allocated["optimizer"] == arrays * steps.values.nbytes
        assert steps.allocated["gradients"] == steps.values.nbytes


def test_float32_losses_are_near_those_of_float64(boxes, tmp_path):
    losses = [
        train(
            small_settings(
                tmp_path,
                detector(normalize=1),
                boxes,
                train={"dtype": dtype},
                tiling={"grid": grid},
            ),
            ranks,
            steps=3,
        ).losses
        for dtype, grid, ranks in (("float64", "1x1", 1), ("float32", "2x2", 4))
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("early", "subdivisions", "changes"),
    [(7, 1, [False, False]), (8, 1, [True, False]), (15, 1, [False, True]), (10, 2, [True, False])],
)
def test_images_seen_count_the_present_pass(
    boxes, tmp_path, monkeypatch, early, subdivisions, changes
):
    # Without learning, the same images have another loss only where its first phase ends.
    monkeypatch.setattr(detection, "EARLY_IMAGES", early)
    batch = 7 * subdivisions
    train_options = {"batch": batch, "subdivisions": subdivisions, "learning_rate": 0.0}
    settings = small_settings(tmp_path, detector(), boxes, train=train_options)
    losses = train(settings, steps=3).losses
    found = [abs(after / before - 1) > 1e-9 for before, after in itertools.pairwise(losses)]
    assert found == changes


@pytest.mark.parametrize("kind", ["values", "velocity", "running"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_on_one_rank_is_not_kept_by_any(tmp_path, boxes, kind, number):
    settings = small_settings(tmp_path, detector(normalize=1), boxes)

    def refused(comm):
        trainer = Trainer(job := make_job(settings, comm.size), make_topology(comm, job.plan))
        trainer.require_finite()
        _, kept = next(trainer.arrays[kind].parts[0].pieces())
        comm.broadcast(None)
        if comm.rank == comm.size - 1:
            kept[-1] = number
        with pytest.raises(MpitileError, match="after step 0 are no finite numbers") as caught:
            trainer.require_finite()
        return caught.value.exit_code

    assert run_ranks(3, refused) == [1, 1, 1]


def test_images_are_rgb(tmp_path, boxes):
    cfg = detector().replace("channels=3", "channels=1")
    job = make_job(small_settings(tmp_path, cfg, boxes), 1)
    with pytest.raises(InputError, match=r"net\.cfg: \[net\] channels=1: expected 3"):
        open_dataset(job, None)
