"""Ranks that are threads: collectives, agreement on errors, and no rank left waiting."""

import threading
import time

import numpy as np
import pytest

from mpitile.comm.agree import on_first, together
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.errors import InputError, Stopped
from mpitile.geometry.tiling import Grid
from mpitile.plan.plan import Plan

PATIENCE = 10


def in_time(work):
    """Do `work` in a thread, which must end: a hang fails the test instead of stopping it."""
    outcome = []

    def run():
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "some rank was left waiting"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def ranks(size, work):
    return in_time(lambda: run_ranks(size, work))


def test_results_come_in_rank_order():
    assert ranks(4, lambda comm: (comm.rank, comm.size)) == [(rank, 4) for rank in range(4)]


def test_objects_go_to_one_rank_each():
    def work(comm):
        return (
            comm.swap([comm.rank], (comm.rank + 1) % 3, (comm.rank + 2) % 3),
            comm.swap(comm.rank, 0 if comm.rank == 2 else None, 2 if comm.rank == 0 else None),
        )

    assert ranks(3, work) == [([2], 2), ([0], None), ([1], None)]


def test_collectives():
    def work(comm):
        total = np.array([comm.rank, 1.0])
        comm.sum(total)
        largest = np.array([comm.rank, -comm.rank])
        comm.maximum(largest)
        slices = np.full(6, comm.rank)
        comm.share_slices(slices, [1, 3, 6])
        return (
            total.tolist(),
            largest.tolist(),
            slices.tolist(),
            comm.allgather(comm.rank**2),
            comm.broadcast(f"rank {comm.rank}"),
            comm.gather(comm.rank),
        )

    same = ([3, 3], [2, 0], [0, 1, 1, 2, 2, 2], [0, 1, 4], "rank 0")
    assert ranks(3, work) == [(*same, [0, 1, 2]), (*same, None), (*same, None)]


def test_received_objects_are_copies():
    def work(comm):
        gathered = comm.allgather([comm.rank])
        gathered[0].append(comm.rank + 10)
        return gathered

    assert ranks(2, work) == [[[0, 10], [1]], [[0, 11], [1]]]


def test_channels_carry_what_stands_in_the_buffer_at_the_begin():
    def work(comm):
        peer = 1 - comm.rank
        sent, received = np.zeros(3), np.zeros(3)
        channel = comm.channel([(peer, sent)], [(peer, received)])
        seen = []
        for number in range(3):
            sent[:] = 10 * number + comm.rank
            channel.begin()
            sent[:] = -1
            channel.end()
            seen.append(received[0])
        return seen

    assert ranks(2, work) == [[1, 11, 21], [0, 10, 20]]


def test_topology_counts_replicas_first():
    plan = Plan(Grid(1, 3), (0,), replicas=2)

    def work(comm):
        place = make_topology(comm, plan)
        total = np.array([comm.rank])
        place.team.sum(total)
        return place.replica, place.tile, place.team.rank, place.team.size, int(total[0])

    expected = [(r, tile, tile, 3, [3, 12][r]) for r in range(2) for tile in range(3)]
    assert ranks(6, work) == expected


def test_peers_have_the_same_tile_in_all_replicas():
    plan = Plan(Grid(1, 2), (0,), replicas=3)

    def work(comm):
        place = make_topology(comm, plan)
        return place.peers.rank == place.replica, place.peers.allgather(comm.rank)

    assert ranks(6, work) == [(True, [0, 2, 4]), (True, [1, 3, 5])] * 3


def test_a_plan_for_other_ranks_is_an_error():
    with pytest.raises(InputError, match=r"2 replica.* needs 8 ranks, but there are 4"):
        ranks(4, lambda comm: make_topology(comm, Plan(Grid(2, 2), (0,), replicas=2)))


def test_parts_of_one_color_keep_their_order():
    def work(comm):
        part = comm.split(comm.rank % 2)
        inner = part.split(0 if part.rank else 1)
        return part.allgather(comm.rank), (inner.rank, inner.size)

    odd, even = [1, 3], [0, 2, 4]
    found = ranks(5, work)
    assert [members for members, _ in found] == [even, odd, even, odd, even]
    assert [place for _, place in found] == [(0, 1), (0, 1), (0, 2), (0, 1), (1, 2)]


def test_shared_memory_is_seen_by_all_after_a_fence():
    def work(comm):
        memory = comm.share(8 * comm.rank)
        assert [len(segment) for segment in memory.segments] == [0, 8, 16]
        assert not any(segment.any() for segment in memory.segments)
        memory.fence()
        memory.segments[comm.rank][:] = comm.rank
        memory.fence()
        seen = [segment.tolist() for segment in memory.segments]
        memory.close()
        return seen

    assert ranks(3, work) == [[[], [1] * 8, [2] * 16]] * 3


def test_what_is_sent_counts_under_the_outermost_ranks():
    def work(comm):
        team = comm.team(2, 1, 2)
        pair = comm.split(comm.rank % 2)
        for world, size in ((comm, 1), (team, 10), (pair, 100)):
            peer = (world.rank + 1) % world.size
            source = (world.rank - 1) % world.size
            buffers = np.zeros(size), np.zeros(size)
            channel = world.channel([(peer, buffers[0])], [(source, buffers[1])])
            for _ in range(2):
                channel.begin()
                channel.end()
        return (comm.sent // 16).tolist()

    assert ranks(4, work) == [[0, 11, 100, 0], [10, 0, 1, 100], [100, 0, 0, 11], [1, 100, 10, 0]]


def fail_on(*failing, error=InputError):
    """Work that fails on some ranks and returns the rank on the others."""

    def work(comm):
        if comm.rank in failing:
            raise error(f"no file on {comm.rank}")
        return comm.rank

    return work


def told(comm, agree, work):
    """What a rank is told: a result, or an error's type and message."""
    try:
        return agree(comm, lambda: work(comm))
    except (InputError, Stopped) as error:
        return type(error), str(error)


def test_together_gives_every_rank_its_own_result():
    assert ranks(3, lambda comm: told(comm, together, fail_on())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ((1,), "rank 1: no file on 1"),
        ((2, 1), "rank 1: no file on 1"),
        ((0, 1, 2), "no file on 0"),
    ],
)
@pytest.mark.parametrize("kind", [InputError, Stopped])
def test_together_raises_the_lowest_failing_ranks_error_on_all(failing, message, kind):
    work = fail_on(*failing, error=kind)
    assert ranks(3, lambda comm: told(comm, together, work)) == [(kind, message)] * 3


def test_on_first_hands_rank_0s_result_to_all():
    assert ranks(3, lambda comm: told(comm, on_first, fail_on(1, 2))) == [0, 0, 0]


def test_on_first_hands_rank_0s_error_to_all():
    expected = (InputError, "no file on 0")
    assert ranks(3, lambda comm: told(comm, on_first, fail_on(0))) == [expected] * 3


def waits(name):
    """Ways in which a rank may wait for another."""

    def collective(comm):
        comm.sum(np.zeros(1))

    def message(comm):
        buffer = np.zeros(1)
        comm.channel([], [(0, buffer)]).end()

    def team_collective(comm):
        comm.team(1, 1, comm.size).sum(np.zeros(1))

    def fence(comm):
        comm.share(8).fence()

    def team_message(comm):
        buffer = np.zeros(1)
        comm.team(1, 1, comm.size).channel([], [(0, buffer)]).end()

    return locals()[name]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "wait", ["collective", "message", "team_collective", "team_message", "fence"]
)
def test_a_failing_rank_leaves_no_other_waiting(wait, late):
    def work(comm):
        if comm.rank == 0:
            if late:
                time.sleep(0.2)
            raise ValueError("rank 0 is broken")
        if not late:
            time.sleep(0.2)
        waits(wait)(comm)

    with pytest.raises(ValueError, match="rank 0 is broken"):
        ranks(3, work)


def test_abort_ends_all_ranks():
    def work(comm):
        if comm.rank == 1:
            comm.abort(3)
        comm.sum(np.zeros(1))

    ranks(2, work)
