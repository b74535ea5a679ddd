"""Whole copies between ranks that are threads: what they hold, and the adjoint."""

import hypothesis.strategies as st
import numpy as np
import pytest
from device_cases import devices
from gather_cases import (
    Case,
    Tensor,
    common_copies,
    expected_copies,
    expected_deltas,
    grids,
    group_of,
    make,
    sliced,
    tiled,
)
from hypothesis import given, settings

from mpitile.comm.devices import make_devices, make_team_group
from mpitile.comm.gathering import WholeExchange
from mpitile.comm.local import run_ranks
from mpitile.comm.recorded import RecordedCommunicator
from mpitile.comm.recorder import HALOS, PARTIAL_DELTAS, Recorder
from mpitile.plan.clusters.devices import Devices
from mpitile.plan.gathers import messages, staging_bytes
from mpitile.plan.recording import ADJOINT, FORWARD, BeginGather, Compute, EndExchange
from mpitile.plan.simulation.intervals import HALO
from mpitile.plan.simulation.program_check import check_programs

EXACT = 1e-13
WEIGHTS = (0.3, 1.0, 2.5)


@st.composite
def tensors(draw, ranks):
    """A tensor of any size in parts of either form, some of them perhaps empty."""
    height, width, channels = (draw(st.integers(1, most)) for most in (6, 6, 7))

    def weights(count):
        return tuple(draw(st.sampled_from(WEIGHTS)) for _ in range(count))

    if draw(st.booleans()):
        parts = sliced(height, width, channels, weights(ranks))
    else:
        grid = draw(st.sampled_from(grids(ranks)))
        rows, columns = weights(grid.rows), weights(grid.columns)
        parts = tiled(height, width, channels, grid, rows, columns)
    return Tensor(height, width, channels, parts)


@st.composite
def cases(draw):
    """Devices, and one to three exchanges of one or two tensors each."""
    split = draw(devices(most=6))
    ranks = sum(map(len, split.ranks))
    exchanges = [
        {4 + n: draw(tensors(ranks)) for n in range(draw(st.integers(1, 2)))}
        for _ in range(draw(st.integers(1, 3)))
    ]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return split, Case(tuple(exchanges), draw(st.integers(1, 3)), dtype, draw(st.integers(0, 99)))


def arrays(tiles):
    return {tensor: tile.array.copy() for tensor, tile in tiles.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for tensor, array in expected.items():
        np.testing.assert_array_equal(found[tensor], array)


def product(one, other):
    """The scalar product, and the sum of its terms' magnitudes."""
    terms = [(one[tensor] * other[tensor]).ravel() for tensor in one]
    return np.array([sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms)])


def run(comm, split, case, rounds=1):
    """All exchanges there, then back, as in a step, on the given numbers each time."""
    made, _ = make(comm, split, case)
    given_ = [
        [arrays(tiles) for tiles in (e.homes, e.copies, e.home_deltas, e.copy_deltas)]
        for _, e in made
    ]
    found = []
    for _ in range(rounds):
        # A device's copies are written to when all have read those of the round before.
        comm.allgather(None)
        for (_, ends), (_, copies, deltas, _) in zip(made, given_, strict=True):
            for tensor, tile in ends.copies.items():
                tile.array[...] = copies[tensor]
                ends.home_deltas[tensor].array[...] = deltas[tensor]
        for exchange, _ in made:
            exchange.begin_forward()
            exchange.end_forward()
        for exchange, _ in reversed(made):
            exchange.begin_adjoint()
            exchange.end_adjoint()
        found.append([(arrays(e.copies), arrays(e.home_deltas)) for _, e in made])
        for (_, ends), (homes, _, _, deltas) in zip(made, given_, strict=True):
            assert_same(arrays(ends.homes), homes)
            assert_same(arrays(ends.copy_deltas), deltas)
    for exchange, _ in made:
        exchange.close()
    return found, given_, comm.sent.copy()


@settings(max_examples=60)
@given(cases())
def test_copies_are_whole_and_sums_have_the_promised_bits(case):
    split, case = case
    ranks = sum(map(len, split.ranks))
    results = run_ranks(ranks, lambda comm: run(comm, split, case, rounds=2))
    for number in range(len(case.exchanges)):
        copies = expected_copies(case, number)
        for rank, (rounds, _, _) in enumerate(results):
            deltas = arrays(expected_deltas(case, number, split, rank))
            for found in rounds:
                assert_same(found[number][0], copies)
                assert_same(found[number][1], deltas)


@settings(max_examples=60)
@given(cases())
def test_backward_is_the_adjoint_of_forward(case):
    split, case = case
    ranks = sum(map(len, split.ranks))
    case = Case(case.exchanges, case.images, np.float64, case.seed)
    results = run_ranks(ranks, lambda comm: run(comm, split, case))
    for number in range(len(case.exchanges)):
        left, right = np.zeros(2), np.zeros(2)
        for [found], given_, _ in results:
            homes, _, before, y = given_[number]
            copies, after = found[number]
            left += product(copies, y)
            # Nothing is added to the rims of homes.
            added = {tensor: after[tensor] - before[tensor] for tensor in after}
            right += product(homes, added)
        assert abs(left[0] - right[0]) <= EXACT * max(left[1], right[1], 1)


@settings(max_examples=40)
@given(cases())
def test_each_device_receives_each_part_once_and_sends_what_is_planned(case):
    split, case = case
    ranks = sum(map(len, split.ranks))
    expected = np.zeros((ranks, ranks), int)
    for sizes in case.every_size():
        for (owner, partner), elements in messages(split, sizes).items():
            expected[owner, partner] += elements
            expected[partner, owner] += elements
    sent = [sent for _, _, sent in run_ranks(ranks, lambda comm: run(comm, split, case))]
    np.testing.assert_array_equal(sent, expected * np.dtype(case.dtype).itemsize)


def test_a_device_has_one_copy_that_each_rank_writes_its_parts_of():
    """It is whole when the last has written, and all ranks see the same memory."""
    split = Devices(((0, 1, 3), (2,)))
    case = Case(({1: Tensor(4, 5, 8, sliced(4, 5, 8, (1.0,) * 4))},), images=2)

    def work(comm):
        [(exchange, ends)], _ = make(comm, split, case)
        for _ in range(3):
            comm.allgather(None)
            if comm.rank == 3:
                ends.copies[1].array[...] = np.nan
            exchange.begin_forward()
            exchange.end_forward()
            assert_same(arrays(ends.copies), expected_copies(case, 0))
        return ends.copies[1].array.ctypes.data

    places = run_ranks(4, work)
    assert places[0] == places[1] == places[3] != places[2]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("per_device", [1, 2, 4, "auto"])
def test_any_number_of_ranks_a_device(ranks, per_device):
    tensor = Tensor(5, 7, 5, sliced(5, 7, 5, WEIGHTS[:1] * ranks))
    other = Tensor(3, 2, 4, tiled(3, 2, 4, grids(ranks)[-1]))
    case = Case(({1: tensor}, {3: other}), images=2)

    def work(comm):
        split = make_devices(comm, per_device).devices
        return split, run(comm, split, case)[0][0]

    for rank, (split, found) in enumerate(run_ranks(ranks, work)):
        for number in range(2):
            assert_same(found[number][0], expected_copies(case, number))
            assert_same(found[number][1], arrays(expected_deltas(case, number, split, rank)))


def test_work_between_begin_and_end_disturbs_nothing():
    """Homes may change while they travel, and copies' deltas while their sums do."""
    split = Devices(((0, 2), (1,), (3,)))
    case = Case(({1: Tensor(4, 4, 6, sliced(4, 4, 6, (1.0,) * 4))},), images=2)

    def work(comm):
        [(exchange, ends)], _ = make(comm, split, case)
        exchange.begin_forward()
        ends.homes[1].array[...] = 7
        exchange.end_forward()
        exchange.begin_adjoint()
        ends.copy_deltas[1].array[...] = 7
        exchange.end_adjoint()
        return arrays(ends.copies), arrays(ends.home_deltas)

    for rank, (copies, deltas) in enumerate(run_ranks(4, work)):
        assert_same(copies, expected_copies(case, 0))
        assert_same(deltas, arrays(expected_deltas(case, 0, split, rank)))


def test_without_a_way_back_less_memory_is_enough():
    split = Devices(((0, 1), (2,)))
    case = Case(({1: Tensor(4, 5, 6, sliced(4, 5, 6, (1.0,) * 3))},), images=2)

    def work(comm):
        group = group_of(comm, split)
        memory = group.inside.share(staging_bytes(split, case.every_size(), comm.rank, 8, False))
        [copies], common = common_copies(group, case)
        parts = {1: case.exchanges[0][1].parts}
        homes = case.homes(0, comm.rank, 0)
        exchange = WholeExchange(group, memory, common, parts, homes, copies)
        exchange.begin_forward()
        exchange.end_forward()
        with pytest.raises(ValueError, match="no way back"):
            exchange.begin_adjoint()
        return memory.segments[group.inside.rank].nbytes, arrays(copies)

    for rank, (size, copies) in enumerate(run_ranks(3, work)):
        assert size == 2 * 4 * 5 * 6 * 8 // 3 * (2, 1, 3)[rank]
        assert_same(copies, expected_copies(case, 0))


def test_teams_of_several_replicas_keep_their_devices():
    """Two teams of three on devices of two: the second team's first two ranks are apart."""

    def work(comm):
        group = make_devices(comm, 2)
        team = comm.team(2, 1, 3)
        mine = make_team_group(group, team)
        return mine.devices.ranks, mine.number, mine.inside.size

    found = run_ranks(6, work)
    assert found[:3] == [(((0, 1), (2,)), 0, 2), (((0, 1), (2,)), 0, 2), (((0, 1), (2,)), 1, 1)]
    assert found[3:] == [(((0,), (1, 2)), 0, 1), (((0,), (1, 2)), 1, 2), (((0,), (1, 2)), 1, 2)]


@pytest.mark.parametrize("split", [((0,), (1,)), ((0, 1),)])
def test_gathers_are_recorded_alike_on_any_devices(split):
    """Two teams of two ranks: what they put together is an event of the group."""
    tensor = Tensor(3, 4, 6, sliced(3, 4, 6, (1.0, 2.0)))
    case = Case(({1: tensor},), images=2)

    def work(comm):
        recorder = Recorder(comm.rank, first=0, most=1)
        team = RecordedCommunicator(comm, recorder).team(2, 1, 2)
        [(exchange, _)], _ = make(team, Devices(split), case, recorder)
        recorder.begin_step()
        recorder.mark(HALOS, 5)
        exchange.begin_forward()
        exchange.end_forward()
        recorder.mark(PARTIAL_DELTAS, 5)
        exchange.begin_adjoint()
        exchange.end_adjoint()
        recorder.end_step()
        return recorder

    recorders = run_ranks(4, work)
    programs = [recorder.steps[0] for recorder in recorders]
    check_programs(programs)
    parts = tuple(2 * 3 * 4 * channels * 8 for channels in (2, 4))
    for rank, program in enumerate(programs):
        assert [event for event in program if not isinstance(event, Compute)] == [
            BeginGather(5, FORWARD, rank // 2 * 2, parts),
            EndExchange(5, FORWARD),
            BeginGather(5, ADJOINT, rank // 2 * 2, parts),
            EndExchange(5, ADJOINT),
        ]
    operations = [event.operation for event in programs[2] if isinstance(event, Compute)]
    assert operations.index("pack") < operations.index("unpack")
    # Waiting for the ranks of the device is waiting for halos.
    assert {i.kind for i in recorders[2].intervals if i.name.startswith(HALOS)} == {HALO}


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_failing_rank_leaves_no_other_waiting(place):
    """Rank 3 fails before each of the calls of an exchange; others go on to the next one."""
    split = Devices(((0, 1), (2, 3)))
    tensor = Tensor(4, 4, 8, sliced(4, 4, 8, (1.0,) * 4))
    case = Case(({1: tensor}, {1: tensor}), images=1)

    def work(comm):
        made, _ = make(comm, split, case)
        for exchange, _ in made:
            calls = (
                exchange.begin_forward,
                exchange.end_forward,
                exchange.begin_adjoint,
                exchange.end_adjoint,
            )
            for number, call in enumerate(calls):
                if comm.rank == 3 and number == place:
                    raise ValueError("rank 3 is broken")
                call()

    with pytest.raises(ValueError, match="rank 3 is broken"):
        run_ranks(4, work)
