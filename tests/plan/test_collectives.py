"""Schedules of sums: everything that is sent is received, and every part is added once."""

from collections import Counter
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpitile.plan.clusters.devices import Devices, group_ranks, team_devices
from mpitile.plan.recording import EVERYONE
from mpitile.plan.simulation.collectives import ALGORITHMS, schedule_among


def devices_of(ranks):
    """Devices of so many ranks each, one after the other."""
    starts = accumulate(ranks, initial=0)
    return Devices(tuple(tuple(range(*span)) for span in pairwise(starts)))


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(0, 1 << 18),
    st.sampled_from(sorted(ALGORITHMS)),
)
def test_messages_pair_up_and_all_ranks_are_added(devices, size, name):
    schedule = ALGORITHMS[name](devices_of(devices), size)
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
    schedule = ALGORITHMS[name](devices_of([3] * (ranks // 3) + [1] * (ranks % 3)), 1 << 20)
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
    assert ALGORITHMS[name](devices_of([1]), 100) == ((),)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_some_ranks_send_what_they_would_alone_under_their_own_numbers(name):
    devices = group_ranks([range(4), range(4, 7)])
    ranks = (1, 3, 4, 6)
    alone = ALGORITHMS[name](team_devices(devices, ranks), 1000)
    found = schedule_among(ALGORITHMS[name], devices, 1000, ranks)
    assert tuple(found) == ranks
    for rank, stages in zip(ranks, alone, strict=True):
        assert [stage.adds for stage in found[rank]] == [stage.adds for stage in stages]
        for mine, theirs in zip(found[rank], stages, strict=True):
            for way in ("sends", "receives"):
                expected = tuple((ranks[peer], size) for peer, size in getattr(theirs, way))
                assert getattr(mine, way) == expected
    everyone = schedule_among(ALGORITHMS[name], devices, 1000, EVERYONE)
    assert tuple(everyone.values()) == ALGORITHMS[name](devices, 1000)
