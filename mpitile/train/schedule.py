"""Darknet's learning-rate policies."""

from __future__ import annotations

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
            passed = (
                scale
                for start, scale in zip(options.steps, options.scales, strict=True)
                if start <= step
            )
            return rate * math.prod(passed)
        case "step":
            return rate * options.scale ** (step // options.step)
        case "exp":
            return rate * options.gamma**step
        case "poly":
            return rate * max(0.0, 1 - step / options.max_batches) ** options.power
        case "sig":
            return rate / (1 + math.exp(options.gamma * (step - options.step)))
        case _:
            return rate
