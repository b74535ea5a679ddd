"""Schedules of sums: everything that is sent is received, and every part is added once."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpitile.plan.cluster import Cluster, Device, DeviceSpeed, Link
from mpitile.plan.collectives import ALGORITHMS

SPEED = DeviceSpeed(
    flops={}, bytes=1.0, clear=1.0, call=0.0, copy=1.0, piece=0.0, sum=1.0, update={}
)


def cluster(ranks):
    devices = tuple(Device("d", count, None, SPEED) for count in ranks)
    return Cluster(devices, Link(0.0, 1.0), Link(0.0, 1.0))


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(0, 1 << 18),
    st.sampled_from(sorted(ALGORITHMS)),
)
def test_messages_pair_up_and_all_ranks_are_added(devices, size, name):
    schedule = ALGORITHMS[name](cluster(devices), size)
    ranks = sum(devices)
    assert len(schedule) == ranks
    sent, received = Counter(), Counter()
    for rank, stages in enumerate(schedule):
        for stage in stages:
            sent.update((rank, peer, bytes_) for peer, bytes_ in stage.sends)
            received.update((peer, rank, bytes_) for peer, bytes_ in stage.receives)
            # In slices, ranks of a device read what they add in memory that they share.
            if name != "sliced":
                assert stage.adds in (0, sum(bytes_ for _, bytes_ in stage.receives))
    assert sent == received
    # Adding p vectors into one takes p - 1 additions, wherever they are made.
    adds = sum(stage.adds for stages in schedule for stage in stages)
    assert adds == (ranks - 1) * size


@given(st.integers(2, 30), st.sampled_from(sorted(ALGORITHMS)))
def test_every_rank_depends_on_every_other(ranks, name):
    """Runs the schedule on sets of ranks: at the end all have heard of all."""
    schedule = ALGORITHMS[name](cluster([3] * (ranks // 3) + [1] * (ranks % 3)), 1 << 20)
    known = [{rank} for rank in range(ranks)]
    places, posted = [0] * ranks, [False] * ranks
    mail = {}
    moving = True
    while moving:
        moving = False
        for rank, stages in enumerate(schedule):
            while places[rank] < len(stages):
                stage = stages[places[rank]]
                if not posted[rank]:
                    for peer, _ in stage.sends:
                        mail.setdefault((rank, peer), []).append(set(known[rank]))
                    posted[rank] = moving = True
                if not all(mail.get((peer, rank)) for peer, _ in stage.receives):
                    break
                for peer, _ in stage.receives:
                    known[rank] |= mail[peer, rank].pop(0)
                places[rank] += 1
                posted[rank] = False
                moving = True
    assert all(heard == set(range(ranks)) for heard in known)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_one_rank_has_nothing_to_send(name):
    assert ALGORITHMS[name](cluster([1]), 100) == ((),)
