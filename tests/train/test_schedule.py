"""Learning rates against Darknet's ``get_current_rate``, written down line by line."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mpitile.network.spec import NetOptions
from mpitile.train.schedule import learning_rate

BASE = {"height": 8, "width": 8, "learning_rate": 0.02}


def get_current_rate(net, batch_num):
    """Darknet's C function with a signed batch number."""
    if batch_num < net.burn_in:
        return net.learning_rate * pow(float(batch_num) / net.burn_in, net.power)
    if net.policy == "constant":
        return net.learning_rate
    if net.policy == "step":
        return net.learning_rate * pow(net.scale, batch_num // net.step)
    if net.policy == "steps":
        rate = net.learning_rate
        for i in range(len(net.steps)):
            if net.steps[i] > batch_num:
                return rate
            rate *= net.scales[i]
        return rate
    if net.policy == "exp":
        return net.learning_rate * pow(net.gamma, batch_num)
    if net.policy == "poly":
        return net.learning_rate * pow(1 - float(batch_num) / net.max_batches, net.power)
    if net.policy == "sig":
        return net.learning_rate * (1.0 / (1.0 + math.exp(net.gamma * (batch_num - net.step))))
    raise ValueError(net.policy)


POLICIES = {
    "constant": {},
    "step": {"step": 7, "scale": 0.3},
    "steps": {"steps": (5, 9, 20), "scales": (10.0, 0.1, 0.5)},
    "from the start": {"policy": "steps", "steps": (-1, 9), "scales": (0.1, 10.0)},
    "not ascending": {"policy": "steps", "steps": (12, 3, 20), "scales": (0.1, 0.2, 0.3)},
    "exp": {"gamma": 0.97},
    "poly": {"max_batches": 40, "power": 2.0},
    "sig": {"gamma": 0.3, "step": 15},
    "rising": {"policy": "sig", "gamma": -0.3, "step": 15},
}


@pytest.mark.parametrize("burn_in", [0, 1, 6])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_darknets(name, burn_in):
    options = NetOptions(**{**BASE, "policy": name, "burn_in": burn_in} | POLICIES[name])
    for step in range(1, 41):
        expected = get_current_rate(options, step)
        assert learning_rate(options, step) == pytest.approx(expected, rel=1e-13), step


def test_rates_by_hand():
    options = NetOptions(**BASE, policy="steps", steps=(-1, 100), scales=(0.1, 10.0))
    assert learning_rate(options, 1) == pytest.approx(0.002)
    assert learning_rate(options, 99) == pytest.approx(0.002)
    assert learning_rate(options, 100) == pytest.approx(0.02)


def test_burn_in_ends_with_its_last_step():
    options = NetOptions(**BASE, burn_in=4, power=3.0)
    rates = [learning_rate(options, step) for step in range(1, 6)]
    assert rates == pytest.approx([0.02 / 64, 0.02 / 8, 0.02 * 27 / 64, 0.02, 0.02])


@pytest.mark.parametrize("power", [1.0, 3.0, 4.0])
def test_poly_stays_at_nothing_beyond_its_last_step(power):
    options = NetOptions(**BASE, policy="poly", max_batches=10, power=power)
    assert learning_rate(options, 10) == learning_rate(options, 15) == 0


def test_sigmoid_has_no_overflow_far_out():
    options = NetOptions(**BASE, policy="sig", gamma=1.0, step=10)
    assert learning_rate(options, 10_000) == pytest.approx(0, abs=1e-300)
    falling = NetOptions(**BASE, policy="sig", gamma=-1.0, step=10)
    assert learning_rate(falling, 10_000) == 0.02


@given(
    steps=st.lists(st.integers(-1, 60), min_size=1, max_size=5),
    scales=st.lists(st.floats(0.01, 10), min_size=5, max_size=5),
    step=st.integers(1, 80),
    burn_in=st.integers(0, 30),
)
def test_random_steps(steps, scales, step, burn_in):
    options = NetOptions(
        **BASE,
        policy="steps",
        steps=tuple(steps),
        scales=tuple(scales[: len(steps)]),
        burn_in=burn_in,
    )
    expected = get_current_rate(options, step)
    assert learning_rate(options, step) == pytest.approx(expected, rel=1e-12)
