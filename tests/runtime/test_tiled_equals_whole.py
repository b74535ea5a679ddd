"""The product itself: any tiling takes the same training steps as one rank."""

import os

import pytest
from harness import (
    assert_same_parameters,
    assert_same_pass,
    initial_arrays,
    random_images,
    random_truths,
    run_tiled,
    whole_plan,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.network_numpy import network_numpy
from strategies import cases

from mpitile.network.spec import Softmax

STEPS, KEY = 3, 5
EXACT, REFERENCE = 1e-12, 1e-10
EXAMPLES = int(os.environ.get("MPITILE_EXAMPLES", "200"))


def data(case):
    return (
        random_images(case.network, case.batch, case.seed),
        random_truths(case.network, case.batch, case.seed),
    )


def assume_unsure(case, passes):
    """Leave out a softmax that is sure of itself: of ``p - 1`` and ``log p`` next to p = 1
    rounding leaves few digits, whoever computes them."""
    for layer in case.network.layers:
        if isinstance(layer.operation, Softmax):
            assume(all(one.tensors[layer.output].max() < 0.999 for one in passes))


@settings(max_examples=EXAMPLES)
@given(cases(filters=True))
def test_tiled_steps_equal_the_steps_of_one_rank(case):
    images, truths = data(case)
    options = {"steps": STEPS, "seed": case.seed, "seen": case.seen, "key": KEY}
    whole = run_tiled(case.network, whole_plan(case.network), images, truths, **options)
    assume_unsure(case, whole)
    tiled = run_tiled(case.network, case.plan, images, truths, **options)
    for actual, expected in zip(tiled, whole, strict=True):
        assert_same_pass(actual, expected, EXACT, case.network)
        assert_same_parameters(actual.parameters, expected.parameters, EXACT)


@settings(max_examples=EXAMPLES // 2)
@given(cases(filters=True), st.sampled_from([None, 2, "auto"]))
def test_tiled_steps_with_merged_pools_equal_the_steps_of_one_rank(case, ranks_per_device):
    """As runs take them: what only a pool reads is never stored, hence not compared."""
    images, truths = data(case)
    options = {"steps": STEPS, "seed": case.seed, "seen": case.seen, "key": KEY}
    whole = run_tiled(case.network, whole_plan(case.network), images, truths, **options)
    assume_unsure(case, whole)
    options |= {"merge_pools": True, "ranks_per_device": ranks_per_device}
    tiled = run_tiled(case.network, case.plan, images, truths, **options)
    for actual, expected in zip(tiled, whole, strict=True):
        assert_same_pass(actual, expected, EXACT, case.network)
        assert_same_parameters(actual.parameters, expected.parameters, EXACT)


def one_pass(case):
    """The first step of one rank, and what a reference is given for it."""
    images, truths = data(case)
    options = {"steps": 1, "rate": 0, "seed": case.seed, "seen": case.seen, "key": KEY}
    (whole,) = run_tiled(case.network, whole_plan(case.network), images, truths, **options)
    assume_unsure(case, [whole])
    parameters = initial_arrays(case.network, case.seed)
    seen = case.seen + len(images)
    return whole, (case.network, parameters, images, truths, seen, KEY)


def assert_equals_reference(case, whole, reference):
    assert_same_pass(whole, reference, REFERENCE)
    assert_same_parameters(whole.parameters, reference.running, REFERENCE)


@settings(max_examples=EXAMPLES // 2)
@given(cases())
def test_one_rank_equals_numpy(case):
    whole, arguments = one_pass(case)
    assert_equals_reference(case, whole, network_numpy(*arguments))


@settings(max_examples=EXAMPLES // 2)
@given(cases())
def test_one_rank_equals_autograd(case):
    pytest.importorskip("torch")
    from oracles.network_torch import network_torch

    whole, arguments = one_pass(case)
    assert_equals_reference(case, whole, network_torch(*arguments))
