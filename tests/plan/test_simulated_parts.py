"""Simulated gathers of teams, and sums over some ranks: who sends what, and how long it takes."""

import pytest
from test_simulate import INFINITE, close, cluster, work

from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Link
from mpitile.plan.recording import (
    ADJOINT,
    FORWARD,
    IMAGES,
    BeginBucket,
    BeginExchange,
    BeginGather,
    BeginSum,
    EndBuckets,
    EndExchange,
    EndSum,
)
from mpitile.plan.simulation.gather_messages import with_messages
from mpitile.plan.simulation.intervals import HALO
from mpitile.plan.simulation.program_check import check_programs
from mpitile.plan.simulation.simulate import simulate

LINK = Link(0.0, 100.0)
ALONE = cluster(1, 1, between=LINK)
TOGETHER = cluster(2, between=LINK)


def gather(direction=FORWARD, parts=(100, 300), first=0):
    return BeginGather(4, direction, first, parts), EndExchange(4, direction)


@pytest.mark.parametrize("direction", [FORWARD, ADJOINT])
def test_a_gather_takes_what_its_largest_part_takes_between_devices(direction):
    programs = [gather(direction)] * 2
    timeline = simulate(programs, ALONE)
    # Owners send forward, and are sent to on the way back.
    sent = (100, 300) if direction == FORWARD else (300, 100)
    assert tuple(rank.sent for rank in timeline.ranks) == sent
    assert timeline.seconds == close(3.0)
    # Inside a device there is nothing to send but that it is there.
    assert simulate(programs, TOGETHER).seconds == 0.0


def test_teams_gather_apart_and_each_device_receives_a_part_once():
    programs = [gather(first=0)] * 2 + [gather(first=2)] * 2
    where = cluster(3, 1, between=LINK)
    sent = {
        (rank, peer): size
        for rank, program in enumerate(with_messages(programs, where))
        for event in program
        if isinstance(event, BeginExchange)
        for peer, size in event.sends
        if where.device_of(rank) != where.device_of(peer)
    }
    assert sent == {(2, 3): 100, (3, 2): 300}


def test_ranks_of_a_device_add_up_before_they_send():
    early, late = (work(1.0), *gather(ADJOINT, (0, 0, 200))), (work(5.0),)
    programs = [early, (*late, *early[1:]), early]
    timeline = simulate(programs, cluster(2, 1, between=LINK, inside=INFINITE))
    # 200 bytes leave the first device when its second rank has come.
    assert timeline.seconds == close(7.0)


def test_some_ranks_add_up_beside_others():
    pairs = [(0, 2), (1, 3), (0, 2), (1, 3)]
    four = cluster(1, 1, 1, 1, between=LINK)
    small = [(BeginSum(100, "statistics", ranks), EndSum()) for ranks in pairs]
    # Up and down; both pairs at the same time.
    timeline = simulate(small, four)
    assert timeline.seconds == close(2.0)
    assert [rank.sent for rank in timeline.ranks] == [100] * 4
    buckets = [(BeginBucket(200, ranks), work(5.0), EndBuckets()) for ranks in pairs]
    assert simulate(buckets, four).seconds == close(5.0)
    buckets = [(BeginBucket(200, ranks), EndBuckets()) for ranks in pairs]
    timeline = simulate(buckets, four)
    assert timeline.seconds == close(1.0)
    names = {interval.name for interval in timeline.intervals if interval.name[:6] == "bucket"}
    assert names == {"bucket 0 of slices"}


def test_sums_of_some_and_of_all_do_not_mix():
    first = (BeginSum(8, "x"), BeginSum(100, "x", (0, 1)), EndSum(), EndSum())
    other = (BeginSum(100, "x", (0, 1)), BeginSum(8, "x"), EndSum(), EndSum())
    timeline = simulate([first, other, (BeginSum(8, "x"), EndSum())], cluster(1, 1, 1))
    assert [rank.sent for rank in timeline.ranks] == [100 + 16, 100 + 16, 16]


def test_images_are_waited_for_like_halos():
    giver = BeginExchange(0, IMAGES, sends=((1, 300),)), EndExchange(0, IMAGES)
    taker = BeginExchange(0, IMAGES, receives=((0, 300),)), EndExchange(0, IMAGES)
    timeline = simulate([giver, taker], ALONE)
    waits = [line for line in timeline.intervals if line.rank]
    assert [(line.kind, line.name, line.end) for line in waits] == [(HALO, "images", close(3.0))]


@pytest.mark.parametrize(
    ("programs", "complaint"),
    [
        ([gather(), ()], "rank 1 takes part in 0 gathers of ranks 0 to 1, rank 0 in 1"),
        ([gather(), gather(parts=(100, 301))], "or in others: expected the same"),
        ([gather(first=1), gather(first=1)], "rank 0 takes part in a gather of ranks 1 to 2"),
        ([gather(), gather()[:1]], "rank 1 begins an exchange or a sum that it never ends"),
        ([(*gather()[:1], *gather())] * 2, "rank 0 begins the forward exchange of group 4 twice"),
        ([(BeginSum(8, "x", (0, 1)), EndSum()), ()], "rank 1 takes 0 sums of ranks 0, 1 of 0"),
        ([(BeginSum(8, "x", (1,)), EndSum()), ()], "rank 0 takes part in a sum of ranks 1: exp"),
        ([(BeginBucket(8, (0, 2)), EndBuckets()), ()], "a sum of ranks 0, 2: expected ranks below"),
    ],
)
def test_ranks_that_disagree_are_named(programs, complaint):
    with pytest.raises(InputError, match=complaint):
        check_programs(programs)
