"""The time of a fixed piece of work."""

from types import SimpleNamespace

import pytest

from mpitile.runtime.pace import Pace


def test_a_look_takes_some_milliseconds_and_tells_those_of_one_product(monkeypatch):
    products = []
    monkeypatch.setattr("mpitile.runtime.pace.np.dot", lambda a, b, out: products.append(out.shape))
    # So many seconds for each product so far.
    clock = SimpleNamespace(thread_time=lambda: 1.1e-3 * len(products))
    monkeypatch.setattr("mpitile.runtime.pace.time", clock)
    pace = Pace()
    assert pace.taken == []
    products.clear()
    assert pace.take() == pytest.approx(1.1e-3)
    assert len(products) == 5 and set(products) == {(192, 192)}
    assert pace.taken == [pytest.approx(1.1e-3)]


def test_every_look_is_kept():
    pace = Pace()
    found = [pace.take(), pace.take()]
    assert pace.taken == found and min(found) > 0
