"""What `Communicator` promises, of real ranks: the same as of ranks that are threads."""

import numpy as np
import pytest

from mpitile.comm.agree import on_first, together
from mpitile.comm.local import run_ranks
from mpitile.errors import InputError, Stopped

RANKS = [1, 2, 3, 4, 6]


@pytest.fixture(params=["spin", "sleep"])
def waiting_comm(request, comm):
    """The world, with each way to wait."""
    if comm is None:
        return None
    from mpi4py import MPI

    from mpitile.comm.mpi import MpiCommunicator

    return MpiCommunicator(MPI.COMM_WORLD, request.param)


def everything(world):
    """What each collective gives this rank, from data that differ between ranks."""
    rank, size = world.rank, world.size
    random = np.random.default_rng(rank)
    # Multiples of 2**-10 below 1: their sums are exact in any order.
    fractions = random.integers(-1024, 1024, 10_001) / 1024
    total, pending = fractions.copy(), fractions.copy()
    world.sum(total)
    request = world.begin_sum(pending)
    request.end()
    single = fractions.astype(np.float32)
    world.sum(single)
    empty = np.zeros(0)
    world.sum(empty)
    largest, flags = fractions.copy(), random.integers(0, 2, 50)
    world.maximum(largest)
    world.maximum(flags)
    shared = np.full(4 * size + 1, float(rank))
    # Rank 0's slice is empty, the last one's the longest.
    world.share_slices(shared, [4 * r for r in range(size - 1)] + [4 * size + 1])
    return {
        "sum": total,
        "begin_sum": pending,
        "float32": single,
        "maximum": largest,
        "flags": flags,
        "shared": shared,
        "gather": world.gather({"rank": rank}),
        "allgather": world.allgather((rank, "x")),
        "broadcast": world.broadcast(f"from {rank}"),
        "swap": world.swap((rank, "y"), (rank + 1) % size, (rank - 1) % size),
        "one way": world.swap(rank, 0 if rank == size - 1 else None, None if rank else size - 1),
    }


@pytest.mark.mpi(ranks=RANKS)
def test_collectives_give_what_threads_give(comm, waiting_comm):
    assert (waiting_comm.rank, waiting_comm.size) == (comm.rank, comm.size)
    expected = run_ranks(comm.size, everything)[comm.rank]
    actual = everything(waiting_comm)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
        assert type(actual[name]) is type(value), name


def ring(world, rounds=3):
    """Messages of different sizes to both neighbours and between the ends, again and again."""
    rank, size = world.rank, world.size
    peers = sorted({(rank + 1) % size, (rank - 1) % size} - {rank})

    def length(source, target):
        return 5000 * source + 3 * target + 1

    sends = [(peer, np.zeros(length(rank, peer))) for peer in peers]
    receives = [(peer, np.zeros(length(peer, rank))) for peer in peers]
    forward = world.channel(sends, receives)
    backward = world.channel(receives, sends)
    seen = []
    for number in range(rounds):
        for peer, buffer in sends:
            buffer[...] = 100 * number + 10 * rank + peer
        forward.begin()
        forward.end()
        for peer, buffer in receives:
            assert (buffer == 100 * number + 10 * peer + rank).all()
            buffer *= -1
        backward.begin()
        backward.end()
        seen.append([buffer.copy() for _, buffer in sends])
    return seen


@pytest.mark.mpi(ranks=RANKS)
def test_channels_repeat_and_turn_round(comm, waiting_comm):
    for number, round_ in enumerate(ring(waiting_comm)):
        peers = sorted({(comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size} - {comm.rank})
        for peer, buffer in zip(peers, round_, strict=True):
            assert (buffer == -(100 * number + 10 * comm.rank + peer)).all()


@pytest.mark.mpi(ranks=RANKS)
def test_teams_are_consecutive_ranks(comm):
    for replicas in range(1, comm.size + 1):
        if comm.size % replicas:
            continue
        tiles = comm.size // replicas
        for rows in (rows for rows in range(1, tiles + 1) if tiles % rows == 0):
            team = comm.team(replicas, rows, tiles // rows)
            first = comm.rank // tiles * tiles
            assert (team.rank, team.size) == (comm.rank - first, tiles)
            assert team.allgather(comm.rank) == list(range(first, first + tiles))


@pytest.mark.mpi(ranks=[4])
def test_messages_of_teams_and_world_stay_apart(comm):
    """Both have a message under way between the same ranks at the same time."""
    team = comm.team(2, 1, 2)
    channels, results = [], []
    for number, world in enumerate((comm, team)):
        peer = world.rank ^ 1
        out, into = np.full(3, 10.0 * number + comm.rank), np.zeros(3)
        channels.append(world.channel([(peer, out)], [(peer, into)]))
        results.append(into)
    order = channels if comm.rank % 2 else channels[::-1]
    for channel in order:
        channel.begin()
    for channel in channels:
        channel.end()
    for number, into in enumerate(results):
        assert (into == 10 * number + (comm.rank ^ 1)).all()


@pytest.mark.mpi(ranks=[2, 3])
def test_errors_of_any_rank_reach_all(comm):
    def fail_on(ranks, kind=InputError):
        if comm.rank in ranks:
            raise kind(f"net.cfg:{comm.rank}: no")
        return comm.rank

    assert together(comm, lambda: fail_on(())) == comm.rank
    last = comm.size - 1
    with pytest.raises(InputError, match=rf"^rank {last}: net\.cfg:{last}: no$"):
        together(comm, lambda: fail_on((last,)))
    with pytest.raises(Stopped, match=r"^rank 0: net\.cfg:0: no$"):
        together(comm, lambda: fail_on((0,), Stopped))
    with pytest.raises(InputError, match=r"^net\.cfg:0: no$"):
        together(comm, lambda: fail_on(range(comm.size)))
    with pytest.raises(InputError, match=r"^net\.cfg:0: no$"):
        on_first(comm, lambda: fail_on((0,)))
    assert on_first(comm, lambda: fail_on((1,))) == 0


@pytest.mark.mpi(ranks=[1, 3, 4, 6])
def test_sums_of_rounded_numbers_are_the_same_bits_on_all_ranks(comm):
    for dtype in (np.float32, np.float64):
        array = np.random.default_rng(comm.rank).standard_normal(100_003).astype(dtype)
        for part in (array[:7], array):
            comm.sum(part)
        assert len(set(comm.allgather(array.tobytes()))) == 1


@pytest.mark.mpi(ranks=[2])
def test_a_launcher_may_say_how_to_wait(comm, monkeypatch):
    from mpi4py import MPI

    from mpitile.comm import mpi

    for told, way in (("sleep", mpi.wait_by_sleeping), ("spin", mpi.wait_by_spinning)):
        monkeypatch.setenv("MPITILE_WAIT", told)
        assert mpi.MpiCommunicator(MPI.COMM_WORLD)._wait is way
    assert mpi.MpiCommunicator(MPI.COMM_WORLD, "sleep")._wait is mpi.wait_by_sleeping
    monkeypatch.setenv("MPITILE_WAIT", "doze")
    with pytest.raises(InputError, match='MPITILE_WAIT: expected "spin" or "sleep", got "doze"'):
        mpi.MpiCommunicator(MPI.COMM_WORLD)
