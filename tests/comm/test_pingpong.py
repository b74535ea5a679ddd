"""Links between ranks that are threads, and what tells a switch from a shared medium."""

import pytest

from mpitile.comm import pingpong
from mpitile.comm.local import run_ranks
from mpitile.comm.mute import MuteCommunicator


def test_every_rank_is_told_the_same():
    def work(world):
        hosts = [range(2), range(2, 4), range(4, 5)]
        return pingpong.measure_links(world, hosts)

    found = run_ranks(5, work)
    assert all(one == found[0] for one in found)
    inside, between, medium = found[0]
    assert inside.latency > 0 < inside.bandwidth
    assert between.latency > 0 < between.bandwidth
    assert medium in ("switched", "shared")


@pytest.mark.parametrize(("devices", "together"), [(2, "switched"), (6, "switched"), (2, "shared")])
def test_devices_that_slow_each_other_share_a_medium(monkeypatch, devices, together):
    rates = []

    def rate(world, pairs, wait):
        rates.append(list(pairs))
        return 1e7 / (len(pairs) if together == "shared" else 1)

    monkeypatch.setattr(pingpong, "rate", rate)
    monkeypatch.setattr(pingpong, "latency", lambda world, first, second: 1e-4 * (1 + second))
    hosts = [range(rank, rank + 1) for rank in range(devices)]
    _, between, medium = pingpong.measure_links(MuteCommunicator(0, devices), hosts)
    assert medium == together
    assert between.bandwidth == 1e7
    assert between.latency == pytest.approx(1e-4 * devices)
    assert rates[-1] == [(rank, (rank + 1) % devices) for rank in range(devices)]


def test_bandwidth_does_not_answer_for_latency(monkeypatch):
    monkeypatch.setattr(pingpong, "_seconds", lambda world, pairs, size: 0.010)
    found = pingpong.rate(MuteCommunicator(0, 2), [(0, 1)], 0.002)
    assert found == pytest.approx((4 << 20) / 0.008)
    # Not even where both are but noise.
    assert pingpong.rate(MuteCommunicator(0, 2), [(0, 1)], 0.010) == pytest.approx(
        (4 << 20) / 0.005
    )


def test_one_host_needs_no_link_between():
    inside, between, medium = pingpong.measure_links(MuteCommunicator(0, 1), [range(1)])
    assert inside == between
    assert medium == "switched"
