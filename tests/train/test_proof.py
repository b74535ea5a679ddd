"""The proof must pass where tiling is exact, and must find whatever is not."""

import copy
import math
from dataclasses import fields

import numpy as np
import pytest
from small_jobs import DROPOUT, classifier, detector

from mpitile.comm.exchange import Exchange
from mpitile.comm.local import LocalCommunicator
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.by_rule import default_groups
from mpitile.plan.plan import Plan
from mpitile.train.proof import Record, compare, random_problem, run_alone, run_tile_by_tile

KINDS = [kind.name for kind in fields(Record)]


def problem(cfg=None, batch=2, dtype=np.float64, steps=3):
    network = parse_network(cfg or detector(normalize=1, dropout=DROPOUT), "small.cfg")
    return random_problem(network, batch, np.dtype(dtype), steps, 11)


def plan(made, rows, columns, replicas=1, groups=None):
    return Plan(Grid(rows, columns), groups or default_groups(made.network), replicas)


@pytest.fixture(scope="module")
def alone():
    made = problem()
    return run_alone(made, default_groups(made.network))


def largest(expected, given):
    return {difference.kind: difference.largest for difference in compare(expected, given)}


def test_a_record_has_everything(alone):
    assert list(alone.losses) == ["step 0", "step 1", "step 2"]
    assert sorted(alone.outputs) == [f"step {n} tensor 7" for n in range(3)]
    assert alone.outputs["step 0 tensor 7"].shape == (2, 8, 8, 14)
    assert {name for name in alone.deltas if name.startswith("step 1")} == {
        f"step 1 tensor {n}" for n in (0, 2, 4)
    }
    assert alone.deltas["step 0 tensor 0"].shape == (2, 32, 32, 3)
    names = {f"layer {n} {name}" for n in (0, 2) for name in ("weights", "biases", "scales")}
    names |= {"layer 5 weights", "layer 5 biases"}
    assert {name for name in alone.gradients if name.startswith("step 2")} == {
        f"step 2 {name}" for name in names
    }
    assert alone.weights.keys() - names == {
        f"layer {n} rolling_{name}" for n in (0, 2) for name in ("mean", "variance")
    }
    for kind in KINDS:
        for name, array in getattr(alone, kind).items():
            assert np.abs(array).max() > 0, (kind, name)


def test_a_network_without_weights_has_two_kinds_less():
    made = problem("[net]\nheight=8\nwidth=8\n[maxpool]\nsize=2\nstride=2\n[avgpool]\n[softmax]\n")
    found = largest(
        run_alone(made, (0, 1)), run_tile_by_tile(made, plan(made, 2, 2, groups=(0, 1)))
    )
    assert list(found) == ["losses", "outputs", "deltas"]
    assert max(found.values()) < 1e-12


@pytest.mark.parametrize(("rows", "columns", "replicas"), [(2, 2, 1), (3, 1, 1), (1, 2, 2)])
def test_tiles_take_the_same_steps(alone, rows, columns, replicas):
    made = problem()
    found = largest(alone, run_tile_by_tile(made, plan(made, rows, columns, replicas)))
    assert list(found) == KINDS
    assert max(found.values()) < 1e-12
    # Another order of adding: equal to the last bit would mean that nothing was tiled.
    assert found["gradients"] > 0


def test_a_classifier_in_float32():
    made = problem(classifier(4, dropout=DROPOUT), dtype=np.float32)
    expected = run_alone(made, default_groups(made.network))
    found = largest(expected, run_tile_by_tile(made, plan(made, 2, 2)))
    assert 0 < max(found.values()) < 1e-5


def test_steps_change_the_weights_and_differ(alone):
    made = problem(steps=1)
    one = run_alone(made, default_groups(made.network))
    for name, weights in one.weights.items():
        assert (weights != alone.weights[name]).any(), name
    assert alone.losses["step 0"] != alone.losses["step 1"] != alone.losses["step 2"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_difference_is_found(alone, kind):
    for name in getattr(alone, kind):
        given = copy.deepcopy(alone)
        array = getattr(given, kind)[name]
        place = np.unravel_index(np.abs(array).argmin(), array.shape)
        array[place] += 1e-6 * np.abs(array).max()
        for difference in compare(alone, given):
            if difference.kind == kind:
                # A single number moves the scale itself.
                assert difference.largest == pytest.approx(1e-6, rel=1e-4)
                assert difference.where == name
            else:
                assert difference.largest == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_infinitely_far(alone, kind, value):
    given = copy.deepcopy(alone)
    name = list(getattr(given, kind))[-1]
    getattr(given, kind)[name].flat[-1] = value
    assert largest(alone, given)[kind] == math.inf
    # Nor is it equal to itself: nothing is proved by it.
    if math.isnan(value):
        assert largest(given, given)[kind] == math.inf


def broken(monkeypatch, owner, name, wrong):
    monkeypatch.setattr(owner, name, wrong)
    made = problem()
    return run_tile_by_tile(made, plan(made, 2, 2))


def test_an_adjoint_that_does_not_add_is_found(alone, monkeypatch):
    given = broken(monkeypatch, Exchange, "end_adjoint", lambda self: self._backward.end())
    found = largest(alone, given)
    # The forward pass of the first step is right, what is learned from it is not.
    assert compare(alone, given)[0].where != "step 0"
    assert found["deltas"] > 1e-4 and found["gradients"] > 1e-4 and found["weights"] > 1e-7


def test_a_forward_exchange_that_does_not_fill_halos_is_found(alone, monkeypatch):
    given = broken(monkeypatch, Exchange, "end_forward", lambda self: self._forward.end())
    assert min(largest(alone, given).values()) > 1e-9
    assert largest(alone, given)["outputs"] > 1e-4


def test_a_sum_that_leaves_one_rank_out_is_found(alone, monkeypatch):
    def partial(self, array):
        array[...] = self._collect(array, lambda arrays: sum(arrays[1:-1], arrays[0].copy()))

    found = largest(alone, broken(monkeypatch, LocalCommunicator, "sum", partial))
    assert found["losses"] > 1e-4 and found["gradients"] > 1e-4


def test_problems_are_drawn_from_the_seed():
    one, other = problem(), problem()
    np.testing.assert_array_equal(one.images, other.images)
    assert len(one.truths) == 2 and all(truths.shape == (4, 5) for truths in one.truths)
    network = one.network
    changed = random_problem(network, 2, np.dtype(np.float64), 3, 12)
    assert (changed.images != one.images).any()
