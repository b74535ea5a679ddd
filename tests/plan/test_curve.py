"""Seconds of work between measured points."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mpitile.plan.costs.curve import Curve


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(1e-6, 1)), min_size=1, max_size=12))
def test_curves_never_fall(points):
    curve = Curve(points)
    values = [curve.at(work) for work in range(1, 41)]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(values))
    assert min(y for _, y in points) * 0.999 <= curve.at(max(x for x, _ in points))
    assert curve.at(20) <= 20 * max(y for _, y in points) * (1 + 1e-12)
