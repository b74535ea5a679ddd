"""Timelines of two or a few ranks computed by hand, and what holds for all of them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Cluster, Device, DeviceSpeed, Link
from mpitile.plan.recording import (
    ADJOINT,
    FORWARD,
    BeginExchange,
    BeginSum,
    Compute,
    EndExchange,
    EndSum,
    scaled,
    total_seconds,
)
from mpitile.plan.simulation.collectives import ALGORITHMS
from mpitile.plan.simulation.simulate import simulate

INFINITE = Link(0.0, math.inf)


def cluster(*ranks, between=INFINITE, inside=INFINITE, medium="switched", adding=math.inf):
    """Devices of so many ranks each; `adding` bytes a second in sums."""
    speed = DeviceSpeed(
        flops={},
        bytes=math.inf,
        clear=math.inf,
        call=0.0,
        copy=math.inf,
        piece=0.0,
        sum=adding,
        update={"sgd": 0.0},
    )
    devices = tuple(Device(f"d{n}", count, None, speed) for n, count in enumerate(ranks))
    return Cluster(devices, inside, between, medium)


def swap(peer, size, group=0, direction=FORWARD):
    """Send to and receive from one peer."""
    begin = BeginExchange(group, direction, ((peer, size),), ((peer, size),))
    return begin, EndExchange(group, direction)


def send(peer, size, group=0):
    return BeginExchange(group, FORWARD, sends=((peer, size),)), EndExchange(group, FORWARD)


def receive(peer, size, group=0):
    return BeginExchange(group, FORWARD, receives=((peer, size),)), EndExchange(group, FORWARD)


def work(seconds, layer=0):
    return Compute(seconds, "forward", layer)


def total(size, purpose="gradients"):
    return BeginSum(size, purpose), EndSum()


def close(value):
    return pytest.approx(value, abs=1e-12)


def test_two_ranks_wait_for_each_other_and_then_for_the_link():
    link = Link(0.5, 100.0)
    first = (work(1.0), *swap(1, 200), work(1.0))
    second = (work(3.0), *swap(0, 200), work(0.5))
    timeline = simulate([first, second], cluster(1, 1, between=link), eager=1000)
    # The first rank's message is there at 1 + 0.5 + 2; the second's at 3 + 0.5 + 2.
    assert timeline.seconds == close(6.5)
    one, other = timeline.ranks
    assert (one.compute_s, one.wait_s, one.halo_s) == (close(2.0), close(2.0), close(2.5))
    # Its halo came 0.5 s after it began to wait, its own work ends 0.5 s before the step.
    assert (other.compute_s, other.wait_s, other.halo_s) == (close(3.5), close(2.5), close(0.5))


def test_a_large_message_travels_only_while_both_wait():
    link = Link(0.0, 100.0)
    begin, end = BeginExchange(0, ADJOINT, ((1, 200),)), EndExchange(0, ADJOINT)
    other = BeginExchange(0, ADJOINT, receives=((0, 200),)), EndExchange(0, ADJOINT)
    sender, receiver = (begin, work(5.0), end), (other[0], work(1.0), other[1])
    pair = cluster(1, 1, between=link)
    assert simulate([sender, receiver], pair, eager=100).seconds == close(7.0)
    assert simulate([sender, receiver], pair, eager=math.inf).seconds == close(5.0)


@pytest.mark.parametrize(("medium", "seconds"), [("switched", 3.0), ("shared", 5.0)])
def test_ranks_of_a_device_share_its_link_in_both_directions(medium, seconds):
    # Two messages of 1 s each leave device 0 for device 1 and one comes back.
    programs = [
        (work(1.0), *swap(2, 100)),
        (work(1.0), *swap(3, 100)),
        (work(1.0), *swap(0, 100)),
        (work(1.0), *swap(1, 100)),
    ]
    pairs = cluster(2, 2, between=Link(0.0, 100.0), medium=medium)
    assert simulate(programs, pairs).seconds == close(seconds)


def test_messages_to_one_device_queue_at_its_link():
    programs = [
        (BeginExchange(0, FORWARD, receives=((1, 100), (2, 100))), EndExchange(0, FORWARD)),
        send(0, 100),
        send(0, 100),
    ]
    timeline = simulate(programs, cluster(1, 1, 1, between=Link(0.25, 100.0)))
    assert timeline.seconds == close(2.25)


def test_messages_inside_a_device_do_not_touch_its_link():
    programs = [swap(1, 100), swap(0, 100), swap(3, 100), swap(2, 100)]
    slow = Link(100.0, 1.0)
    timeline = simulate(programs, cluster(2, 2, inside=Link(0.5, 100.0), between=slow))
    assert timeline.seconds == close(1.5)


def test_a_message_of_many_pieces_takes_as_long_as_its_bytes():
    size = 10_000_000
    timeline = simulate([send(1, size), receive(0, size)], cluster(1, 1, between=Link(0.1, 1e6)))
    assert timeline.seconds == close(10.1)


def test_two_large_messages_share_a_link_fairly():
    programs = [
        (BeginExchange(0, FORWARD, ((1, 8_000_000), (2, 1_000_000))), EndExchange(0, FORWARD)),
        receive(0, 8_000_000),
        receive(0, 1_000_000),
    ]
    timeline = simulate(programs, cluster(1, 1, 1, between=Link(0.0, 1e6)))
    ends = {transit.target: transit.end for transit in timeline.transits}
    assert ends[1] == close(9.0)
    # Half of the link is its own, while it needs it.
    assert ends[2] == pytest.approx(2.0, abs=1.1)
    assert ends[2] > 1.5


def test_a_sum_of_two_ranks_goes_up_and_down():
    programs = [(work(2.0), *total(100)), (work(1.0), *total(100))]
    two = cluster(1, 1, between=Link(0.5, 100.0), adding=50.0)
    timeline = simulate(programs, two, "binomial")
    # Rank 1 sends at 1, which arrives at 2.5; rank 0 adds for 2 s and sends back for 1.5 s.
    assert timeline.seconds == close(6.0)
    one, other = timeline.ranks
    assert (one.wait_s, one.reduce_s) == (close(1.5), close(2.5))
    assert (other.wait_s, other.reduce_s) == (close(1.0), close(4.0))


def test_ranks_that_share_cores_add_up_more_slowly():
    programs = [total(100)] * 2
    whole = cluster(1, 1, adding=50.0)
    half = replace(whole.devices[0], speed=replace(whole.devices[0].speed, share=0.5))
    assert simulate(programs, whole, "binomial").seconds == close(2.0)
    shared = replace(whole, devices=(half, half))
    assert simulate(programs, shared, "binomial").seconds == close(4.0)


def test_the_binomial_tree_takes_as_many_rounds_as_its_height():
    # 1 s for each message: three rounds up. Rank 0 then sends three messages at a time.
    programs = [total(100)] * 8
    alone = simulate(programs, cluster(*[1] * 8, between=Link(1.0, math.inf)), "binomial")
    assert alone.seconds == close(6.0)


def test_a_ring_moves_little_and_a_hierarchy_less_between_devices():
    size = 24_000_000
    programs = [total(size)] * 24
    pis = cluster(*[4] * 6, between=Link(0.0, 1e6))
    seconds = {name: simulate(programs, pis, name).seconds for name in ALGORITHMS}
    # Behind three rounds up, device 0 sends three times four vectors; what device 1 has to
    # send twice four times arrives with the others, as they share the link.
    assert 24 * (3 + 12) < seconds["binomial"] < 24 * (3 + 12 + 8)
    # 2 (p - 1) / p of the vector over each link.
    assert seconds["ring"] == pytest.approx(24 * 2 * 23 / 24, rel=0.05)
    assert seconds["hierarchical"] == pytest.approx(24 * 2 * 5 / 6, rel=0.05)


def test_what_ranks_cannot_do_together_is_refused():
    with pytest.raises(InputError, match="1 ranks on a cluster of 2"):
        simulate([()], cluster(2))
    with pytest.raises(InputError, match=r"rank 0 sends 5 bytes to rank 1.*expects none"):
        simulate([send(1, 5), ()], cluster(2))
    with pytest.raises(InputError, match=r"rank 0 sends 5 bytes to rank 1.*expects 6"):
        simulate([send(1, 5), receive(0, 6)], cluster(2))
    with pytest.raises(InputError, match="rank 1 takes 0 sums"):
        simulate([total(8), ()], cluster(2))
    with pytest.raises(InputError, match="never ends"):
        simulate([total(8)[:1], total(8)], cluster(2))
    with pytest.raises(InputError, match="has not begun"):
        simulate([send(1, 5)[1:], ()], cluster(2))


def test_ranks_that_wait_for_each_other_for_ever_are_named():
    first = (*receive(1, 10, group=0), *send(1, 10, group=1))
    second = (*receive(0, 10, group=1), *send(0, 10, group=0))
    with pytest.raises(InputError, match="rank 0 would wait for ever"):
        simulate([first, second], cluster(2))


def test_an_unpaired_sum_and_exchange_come_in_any_order():
    # Buckets begin together and are waited for in order, as the gradient sum does it.
    program = (work(1.0), *[BeginSum(100, "gradients")] * 3, *[EndSum()] * 3, work(1.0))
    timeline = simulate([program] * 4, cluster(2, 2, between=Link(0.0, 100.0)))
    assert timeline.seconds > 3.0
    assert [rank.compute_s for rank in timeline.ranks] == [2.0] * 4


def test_one_rank_waits_for_nobody():
    timeline = simulate([(work(1.0), *total(100), work(2.0))], cluster(1))
    assert timeline.seconds == close(3.0)
    assert timeline.ranks[0].reduce_s == timeline.ranks[0].wait_s == 0.0


@st.composite
def bulk_programs(draw):
    """Phases of computing, swaps between random neighbours, and sums, on random devices."""
    devices = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    ranks = sum(devices)
    seconds = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.75])
    programs = [[] for _ in range(ranks)]
    for group in range(draw(st.integers(1, 4))):
        for program in programs:
            program.append(work(draw(seconds), group))
        if draw(st.booleans()):
            size = draw(st.integers(1, 200_000))
            for program in programs:
                program += total(size)
            continue
        size = draw(st.integers(1, 200_000))
        for rank, program in enumerate(programs):
            near = [peer for peer in (rank - 1, rank + 1) if 0 <= peer < ranks]
            parcels = tuple((peer, size) for peer in near)
            program += [BeginExchange(group, FORWARD, parcels, parcels)]
            if draw(st.booleans()):
                program.append(work(draw(seconds), group))
            program.append(EndExchange(group, FORWARD))
    return devices, [tuple(program) for program in programs]


links = st.builds(Link, st.floats(0.0, 0.1), st.floats(1e4, 1e7))


@given(bulk_programs(), links, links, st.sampled_from(["switched", "shared"]), st.data())
def test_no_byte_is_lost_and_no_clock_goes_back(problem, between, inside, medium, data):
    devices, programs = problem
    machine = cluster(*devices, between=between, inside=inside, medium=medium)
    algorithm = data.draw(st.sampled_from(sorted(ALGORITHMS)))
    timeline = simulate(programs, machine, algorithm)
    assert sum(rank.sent for rank in timeline.ranks) == sum(r.received for r in timeline.ranks)
    assert sum(transit.size for transit in timeline.transits) == sum(
        rank.sent for rank in timeline.ranks
    )
    ends = [0.0] * len(programs)
    for interval in sorted(timeline.intervals, key=lambda interval: interval.start):
        assert interval.start >= ends[interval.rank] - 1e-9
        assert interval.end >= interval.start
        ends[interval.rank] = interval.end
    assert timeline.seconds == pytest.approx(max(ends), abs=1e-9)
    for rank, program in zip(timeline.ranks, programs, strict=True):
        assert rank.compute_s == pytest.approx(total_seconds(program))
        parts = rank.compute_s + rank.halo_s + rank.reduce_s + rank.wait_s
        assert parts == pytest.approx(timeline.seconds)
        assert min(rank.halo_s, rank.reduce_s, rank.wait_s) >= -1e-9
    for transit in timeline.transits:
        here, there = machine.device_of(transit.source), machine.device_of(transit.target)
        link = inside if here == there else between
        assert transit.end >= transit.start + link.seconds(transit.size) - 1e-9


@given(bulk_programs(), st.sampled_from(sorted(ALGORITHMS)))
def test_a_perfect_network_leaves_the_slowest_of_each_phase(problem, algorithm):
    devices, programs = problem
    timeline = simulate(programs, cluster(*devices), algorithm, eager=math.inf)
    assert timeline.seconds == pytest.approx(critical_path(programs))
    assert all(rank.halo_s + rank.reduce_s <= 1e-9 for rank in timeline.ranks)


def critical_path(programs):
    """Of ranks with the same events but in time: sums wait for all, exchanges for neighbours."""
    clocks = [0.0] * len(programs)
    places = [iter(program) for program in programs]
    begun = list(clocks)
    while True:
        moving = False
        sums = 0
        for rank, program in enumerate(places):
            for event in program:
                moving = True
                if isinstance(event, Compute):
                    clocks[rank] += event.seconds
                elif isinstance(event, BeginExchange):
                    begun[rank] = clocks[rank]
                elif isinstance(event, EndSum):
                    sums += 1
                    break
                elif isinstance(event, EndExchange):
                    break
        if not moving:
            return max(clocks)
        if sums:
            clocks = [max(clocks)] * len(clocks)
        else:
            clocks = [
                max([clock, *begun[max(rank - 1, 0) : rank + 2]])
                for rank, clock in enumerate(clocks)
            ]


def test_a_faster_machine_scales_computing_alone():
    programs = [(work(2.0), *swap(1, 100)), (work(1.0), *swap(0, 100))]
    pair = cluster(1, 1, between=Link(0.0, 100.0))
    assert simulate(scaled(programs, 0.5), pair).seconds == close(2.0)
    assert simulate(programs, pair).seconds == close(3.0)
