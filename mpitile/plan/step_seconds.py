"""Seconds of a step that no choice of grid or groups changes."""

from __future__ import annotations

from mpitile.plan.bytes import parameter_elements
from mpitile.plan.cost import Cost
from mpitile.plan.request import Request

# Batch norm adds up in double precision: a mean, then a variance, then two sums at once.
_STATISTIC_BYTES = 8
_STATISTIC_VECTORS = (1, 1, 2)


def fixed_seconds(request: Request, cost: Cost) -> float:
    """Of a whole step: sums over all ranks, the optimiser, and what a step always does."""
    ranks, cluster = request.ranks, cost.cluster
    elements = parameter_elements(request.network)[0]
    statistics = sum(
        cost.reduction(vectors * layer.output_shape.channels * _STATISTIC_BYTES, ranks)
        for layer in request.network.layers
        if getattr(layer.operation, "batch_normalize", False)
        for vectors in _STATISTIC_VECTORS
    )
    gradients = cost.reduction(elements * request.demand.itemsize, ranks)
    slowest = max(
        cost.clear(device, elements)
        + cost.update(device, elements, request.optimizer)
        + cost.overhead(device)
        for device in range(len(cluster.devices))
    )
    return request.passes * statistics + gradients + slowest
