"""Darknet's learning-rate policies."""

from __future__ import annotations

import itertools
import math

from mpitile.network.spec import NetOptions


def learning_rate(options: NetOptions, step: int) -> float:
    """The rate of a step, as Darknet's ``get_current_rate``.

    Parameters
    ----------
    step : number of the step, from 1: Darknet counts the present batch.
    """
    rate = options.learning_rate
    if step < options.burn_in:
        return rate * (step / options.burn_in) ** options.power
    match options.policy:
        case "steps":
            scales = zip(options.steps, options.scales, strict=True)
            # Darknet ends at the first that is still to come, in whatever order they are.
            passed = itertools.takewhile(lambda pair: pair[0] <= step, scales)
            return rate * math.prod(scale for _, scale in passed)
        case "step":
            return rate * options.scale ** (step // options.step)
        case "exp":
            return rate * options.gamma**step
        case "poly":
            return rate * max(0.0, 1 - step / options.max_batches) ** options.power
        case "sig":
            exponent = options.gamma * (step - options.step)
            # The exponential of a negative number alone cannot overflow.
            small = math.exp(-abs(exponent))
            return rate * (small if exponent > 0 else 1) / (1 + small)
        case _:
            return rate
