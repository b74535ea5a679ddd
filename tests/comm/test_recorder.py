"""What a rank does is told by its communicator and its marks; ranks can take turns."""

import itertools
import threading
import time

import numpy as np
import pytest

from mpitile.comm.local import run_ranks
from mpitile.comm.recorded import RecordedCommunicator
from mpitile.comm.recorder import HALOS, Recorder
from mpitile.plan.recording import (
    ADDING,
    EVERYONE,
    FORWARD,
    UPDATE,
    BeginBucket,
    BeginExchange,
    BeginSum,
    Compute,
    EndBuckets,
    EndExchange,
    EndSum,
    total_seconds,
)
from mpitile.plan.simulation.intervals import COMPUTE, FLIGHT, HALO, REDUCE
from mpitile.plan.simulation.program_check import check_programs


def kinds(program):
    """A program without seconds."""
    return [event.operation if isinstance(event, Compute) else event for event in program]


def swap_and_sum(comm):
    """A step: copies, a message each way with the other of a pair of teams, work, a sum."""
    recorder = Recorder(comm.rank, first=1, most=1)
    world = RecordedCommunicator(comm, recorder)
    team = world.team(2, 1, 2)
    out, into = np.full(4, comm.rank, float), np.zeros(4)
    peer = 1 - team.rank
    channel = team.channel([(peer, out)], [(peer, into)])
    empty = team.channel([], [])
    values = np.full(3, 1.0)
    for _ in range(3):
        recorder.begin_step()
        recorder.mark(HALOS, 5)
        empty.begin()
        channel.begin()
        channel.end()
        empty.end()
        recorder.mark("forward", 7)
        recorder.mark("gradients")
        pending = [world.begin_sum(part) for part in (values[:2], values[2:])]
        for part in pending:
            part.end()
        largest = np.array([comm.rank])
        world.maximum(largest)
        recorder.end_step()
    assert largest[0] == comm.size - 1
    assert into[0] == comm.rank // 2 * 2 + peer
    return recorder


@pytest.mark.parametrize("in_turn", [False, True])
def test_events_stand_in_order_with_the_ranks_of_the_world(in_turn):
    recorders = run_ranks(4, swap_and_sum, in_turn)
    programs = [recorder.steps[0] for recorder in recorders]
    assert [len(recorder.steps) for recorder in recorders] == [1] * 4
    check_programs(programs)
    assert kinds(programs[2]) == [
        "start",
        "pack",
        BeginExchange(5, FORWARD, ((3, 32),), ((3, 32),)),
        EndExchange(5, FORWARD),
        "unpack",
        "forward",
        "gradients",
        BeginSum(16, "gradients"),
        BeginSum(8, "gradients"),
        EndSum(),
        "gradients",
        EndSum(),
        "gradients",
        BeginSum(8, "gradients"),
        EndSum(),
        "gradients",
    ]


def test_intervals_follow_each_other():
    intervals = run_ranks(4, swap_and_sum)[1].intervals
    assert {interval.rank for interval in intervals} == {1}
    assert {interval.kind for interval in intervals} == {COMPUTE, HALO, REDUCE}
    for before, after in itertools.pairwise(intervals):
        assert before.start <= before.end == after.start


def test_a_wait_is_no_work():
    def work(comm):
        recorder = Recorder(comm.rank, first=0, most=1)
        world = RecordedCommunicator(comm, recorder)
        recorder.begin_step()
        recorder.mark("forward", 0)
        if comm.rank:
            time.sleep(0.2)
        world.sum(np.zeros(1))
        recorder.end_step()
        return recorder.steps[0], recorder.intervals

    (program, intervals), _ = run_ranks(2, work)
    assert sum(event.seconds for event in program if isinstance(event, Compute)) < 0.1
    waits = sum(end - start for _, start, end, kind, _ in intervals if kind == REDUCE)
    assert waits > 0.1


def test_in_turn_one_rank_computes_at_a_time():
    inside, most = 0, 0
    lock = threading.Lock()

    def work(comm):
        nonlocal inside, most
        for _ in range(5):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1
            comm.sum(np.zeros(1))

    run_ranks(4, work, in_turn=True)
    assert most == 1


def test_in_turn_a_failure_ends_all_ranks():
    def work(comm):
        comm.sum(np.zeros(1))
        if comm.rank == 2:
            raise ValueError("broken")
        comm.channel([], [(2, np.zeros(1))]).end()

    with pytest.raises(ValueError, match="broken"):
        run_ranks(4, work, in_turn=True)


def burn(seconds):
    """Use the processor for so long."""
    start = time.thread_time()
    while time.thread_time() < start + seconds:
        pass


def test_work_on_buckets_is_counted_apart_and_stands_beside():
    def work(comm):
        recorder = Recorder(comm.rank, first=0, most=1)
        world = RecordedCommunicator(comm, recorder)
        inside = world.split(0)
        channel = inside.channel([], [])
        recorder.begin_step()
        recorder.mark("backward_weights", 3)
        burn(0.01)
        with recorder.beside():
            burn(0.05)
            channel.begin()
        recorder.buckets([BeginBucket(16), BeginBucket(8)])
        burn(0.01)
        # Another thread's messages are nobody's events.
        other = threading.Thread(target=channel.begin)
        other.start()
        other.join()
        recorder.mark("gradients")
        with recorder.beside():
            channel.end()
        now = time.perf_counter()
        recorder.end_buckets(0.5, 0.25)
        recorder.flights("bucket", [[(now - 0.02, now), (now - 0.01, now)]])
        recorder.end_step()
        return recorder

    for recorder in run_ranks(2, work):
        (program,) = recorder.steps
        events = [event for event in program if not isinstance(event, Compute)]
        assert events == [BeginBucket(16), BeginBucket(8), EndBuckets()]
        assert program[-4:-2] == (Compute(0.5, ADDING), Compute(0.25, UPDATE))
        weights = [
            event.seconds
            for event in program
            if isinstance(event, Compute) and event.operation == "backward_weights"
        ]
        assert 0.02 <= sum(weights) < 0.05
        flights = [line for line in recorder.intervals if line.kind == FLIGHT]
        assert [line.name for line in flights] == ["bucket 0", "bucket 1"]
        assert any(line.kind == REDUCE for line in recorder.intervals)


def test_adding_up_is_a_part_of_sums_and_no_work():
    def work(comm):
        recorder = Recorder(comm.rank, first=0, most=1)
        inside = RecordedCommunicator(comm, recorder).split(0)
        recorder.begin_step()
        recorder.mark("gradients")
        with recorder.reductions([(16, EVERYONE), (8, (0, 1))]):
            burn(0.05)
            inside.sum(np.zeros(1))
        recorder.mark("update")
        recorder.end_step()
        return recorder

    for recorder in run_ranks(2, work):
        (program,) = recorder.steps
        events = [event for event in program if not isinstance(event, Compute)]
        begun = [BeginSum(16, "gradients"), BeginSum(8, "gradients", (0, 1))]
        assert events == [*begun, EndSum(), EndSum()]
        assert total_seconds(program) < 0.04
        assert sum(i.end - i.start for i in recorder.intervals if i.kind == REDUCE) >= 0.05


def test_sums_of_some_ranks_say_which():
    def work(comm):
        recorder = Recorder(comm.rank, first=0, most=1)
        world = RecordedCommunicator(comm, recorder)
        peers = world.split(comm.rank % 2)
        teams = [world.team(2, 1, 2), peers.split(comm.rank // 2), world.split(0)]
        recorder.begin_step()
        for each in (peers, *teams):
            each.sum(np.zeros(2))
        peers.maximum(np.zeros(1))
        recorder.end_step()
        return recorder.steps[0]

    programs = run_ranks(4, work)
    check_programs(programs)
    for rank, program in enumerate(programs):
        begun = [(e.size, e.ranks) for e in program if isinstance(e, BeginSum)]
        peers, team = (rank % 2, rank % 2 + 2), (rank // 2 * 2, rank // 2 * 2 + 1)
        assert begun == [(16, peers), (16, team), (16, (rank,)), (16, EVERYONE), (8, peers)]
