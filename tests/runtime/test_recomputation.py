"""Recomputing groups take the very same step as storing ones, in less memory."""

import dataclasses

import numpy as np
import pytest
from harness import random_images, random_truths, run_tiled
from hypothesis import given, settings
from strategies import cases

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.layers.base import Step
from mpitile.network.shapes import infer
from mpitile.network.spec import Convolutional, Dropout, MaxPool, NetOptions, Route, Shortcut
from mpitile.plan.filters import tile_spans
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program

STEPS = 2


def assert_same_bits(one, other):
    """Losses, gradients, statistics and weights, and whatever deltas both have."""
    assert one.loss == other.loss
    for kind in ("gradients", "parameters"):
        expected, given_ = getattr(one, kind), getattr(other, kind)
        assert expected.keys() == given_.keys()
        for place, array in expected.items():
            assert np.array_equal(array, given_[place]), (kind, place)
    for kind in ("tensors", "deltas"):
        pairs = zip(getattr(one, kind), getattr(other, kind), strict=True)
        for number, (array, same) in enumerate(pairs):
            if array is not None and same is not None:
                assert np.array_equal(array, same), (kind, number)


def run_case(case, **options):
    images = random_images(case.network, case.batch, case.seed)
    truths = random_truths(case.network, case.batch, case.seed)
    options = {"steps": STEPS, "seed": case.seed, "seen": case.seen, **options}
    return run_tiled(case.network, case.plan, images, truths, **options)


def storing(case):
    return dataclasses.replace(case, plan=dataclasses.replace(case.plan, recompute=()))


def everywhere(case):
    flags = (True,) * len(case.plan.groups)
    return dataclasses.replace(case, plan=dataclasses.replace(case.plan, recompute=flags))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_the_same_bits_in_double_precision(case):
    case = case if any(case.plan.recompute) else everywhere(case)
    for merge in (False, True):
        expected = run_case(storing(case), merge_pools=merge)
        given_ = run_case(case, merge_pools=merge)
        for one, other in zip(expected, given_, strict=True):
            assert_same_bits(one, other)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_the_same_bits_with_kernels_that_depend_on_the_tile(case):
    options = {"dtype": np.float32, "merge_pools": True}
    expected, given_ = run_case(storing(case), **options), run_case(everywhere(case), **options)
    for one, other in zip(expected, given_, strict=True):
        assert_same_bits(one, other)


def conv(filters, size=3, stride=1, normalize=False, activation="leaky"):
    return Convolutional(filters, size, stride, size // 2, activation, normalize)


POOL = MaxPool(2, 2, 1)

NETWORKS = {
    "deep": [conv(8, normalize=bool(n % 2)) for n in range(12)],
    "joined": [
        conv(8, normalize=True), conv(8), Shortcut(0, "leaky"), POOL, conv(8, normalize=True),
        Dropout(0.3), conv(16), Route((4, 6)), conv(8, 1), POOL, conv(8, normalize=True),
        conv(8, activation="logistic"), Shortcut(10), conv(4, 1),
    ],
    "pooled": [conv(8), POOL, conv(8), POOL, conv(16), conv(8, 1), conv(16), POOL, conv(16)],
}  # fmt: skip


def make(name, height=32, width=40):
    operations = [(0, operation) for operation in NETWORKS[name]]
    return infer(NetOptions(height=height, width=width), operations, name)


def make_program(comm, network, plan, dtype=np.float64, images=2):
    parameters = Parameters(network, dtype)
    parameters.draw(3)
    program = Program(Partition(network, plan), make_topology(comm, plan), parameters, images)
    box = program.values[0].box
    program.values[0].array[...] = random_images(network, images, 1)[(slice(None), *box.slices())]
    return program


def take_step(program, comm):
    step = Step(training=True, reduce=comm.sum, images=program.images, key=9)
    program.forward(step)
    loss = program.loss
    program.backward(step)
    return loss, program.parameters.gradients.copy(), program.parameters.running.copy()


def arena_bytes(network, plan):
    def measure(comm):
        program = make_program(comm, network, plan)
        return program.bytes["activations"] + program.bytes["deltas"]

    return max(run_ranks(plan.ranks, measure))


@pytest.mark.parametrize(
    ("name", "groups", "share"),
    [("deep", (0,), 0.62), ("deep", (0, 4, 8), 0.62), ("joined", (0, 6), 0.9)],
)
@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(2, 2)])
def test_it_needs_less_memory(name, groups, share, grid):
    network = make(name)
    stored = Plan(grid, groups)
    again = Plan(grid, groups, recompute=(True,) * len(groups))
    assert arena_bytes(network, again) <= share * arena_bytes(network, stored)


class Poison:
    """Fills all memory that no buffer uses with NaN before each piece of work."""

    def __init__(self, program):
        self.arena = program._arrays.arena
        self.time = program._time
        self.program = program
        for group in program._groups:
            for task in group.tasks:
                self.wrap(task.work, "forward", lambda step, layers=task.layers: (
                    self.time.loss if not layers
                    else self.time.again[layers[0]] if step.again
                    else self.time.forward[layers[0]]
                ))  # fmt: skip
                backward = self.time.backward[task.layers[0]] if task.layers else self.time.loss
                for name in ("backward_input", "backward_weights"):
                    self.wrap(task.work, name, lambda step, event=backward: event)

    def wrap(self, work, name, event):
        plain = getattr(work, name)

        def poisoned(step):
            self.fill(event(step))
            plain(step)

        setattr(work, name, poisoned)

    def fill(self, event):
        poison(self.arena._memory, self.arena.layout, event)
        if self.arena.common:
            # Each rank is a device of its own here.
            poison(self.arena.common.segments[0], self.arena.common_layout, event)


def poison(memory, layout, event):
    free = np.ones(layout.size, bool)
    for buffer, offset in layout.offsets.items():
        if buffer.used_at(event):
            free[offset : offset + buffer.size] = False
    memory[free] = 0xFF


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_read_from_memory_that_is_not_in_use(name, recompute, dtype):
    network = make(name)
    groups = (0, len(network.layers) // 2)
    plan = Plan(Grid(1, 2), groups, recompute=(recompute,) * 2)

    def run(comm, poison):
        program = make_program(comm, network, plan, dtype)
        if poison:
            Poison(program)
        return [take_step(program, comm) for _ in range(STEPS)]

    plain = run_ranks(plan.ranks, lambda comm: run(comm, False))
    poisoned = run_ranks(plan.ranks, lambda comm: run(comm, True))
    for one, other in zip(plain, poisoned, strict=True):
        for expected, given_ in zip(one, other, strict=True):
            for array, same in zip(expected, given_, strict=True):
                assert np.isfinite(array).all()
                assert np.array_equal(array, same)


def test_the_poison_is_felt(monkeypatch):
    """A value that is given up too early is missed."""
    network = make("deep")
    plan = Plan(Grid(1, 1), (0,))
    for name in ("reads_input_again", "reads_output_again"):
        monkeypatch.setattr(f"mpitile.plan.memory.lifetimes.{name}", lambda layer: False)

    def run(comm):
        program = make_program(comm, network, plan)
        Poison(program)
        return take_step(program, comm)

    _, gradients, _ = run_ranks(1, run)[0]
    assert not np.isfinite(gradients).all()


@settings(deadline=None, max_examples=30)
@given(cases(layers=6, filters=True))
def test_random_steps_read_nothing_from_memory_that_is_not_in_use(case):
    """As above, over random networks, groups and flags."""
    images = random_images(case.network, case.batch, case.seed)
    truths = random_truths(case.network, case.batch, case.seed)
    plan = dataclasses.replace(case.plan, replicas=1)

    def run(comm, poison):
        spans = tile_spans(case.network, plan, comm.rank)
        parameters = Parameters(case.network, np.float64, spans=spans)
        parameters.draw(case.seed)
        partition = Partition(case.network, plan)
        program = Program(partition, make_topology(comm, plan), parameters, case.batch)
        if poison:
            Poison(program)
        box = program.values[0].box
        program.values[0].array[...] = images[(slice(None), *box.slices())]
        step = Step(training=True, reduce=comm.sum, images=case.batch, truths=truths)
        program.forward(step)
        program.backward(step)
        return program.loss, parameters.gradients, parameters.slices.gradients

    plain = run_ranks(plan.ranks, lambda comm: run(comm, False))
    poisoned = run_ranks(plan.ranks, lambda comm: run(comm, True))
    for (loss, *gradients), (same_loss, *same) in zip(plain, poisoned, strict=True):
        assert loss == same_loss
        assert all(map(np.array_equal, gradients, same))
