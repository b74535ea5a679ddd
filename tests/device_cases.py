"""Ways in which ranks may be spread over devices, for tests."""

import numpy as np
from hypothesis import strategies as st

from mpitile.plan.clusters.devices import Devices


@st.composite
def devices(draw, most=9):
    """Any split of up to `most` ranks, neighbours or not, on devices of any size."""
    ranks = draw(st.integers(1, most))
    labels = draw(st.lists(st.integers(0, 4), min_size=ranks, max_size=ranks))
    groups = {label: [] for label in labels}
    for rank, label in enumerate(labels):
        groups[label].append(rank)
    return Devices(tuple(sorted(tuple(group) for group in groups.values())))


def summand(rank, size, dtype):
    """What a rank adds: numbers whose sum depends on the order in the last bits."""
    return np.random.default_rng([5, rank]).standard_normal(size).astype(dtype)


def total(devices, size, dtype):
    """The sum in the order that is promised: ranks inside each device, then devices."""
    sums = []
    for ranks in devices.ranks:
        inside = summand(ranks[0], size, dtype)
        for rank in ranks[1:]:
            inside = inside + summand(rank, size, dtype)
        sums.append(inside)
    result = sums[0]
    for other in sums[1:]:
        result = result + other
    return result
