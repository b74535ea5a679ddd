"""Who sends which part to whom: each device receives each part once, and all ranks help."""

from collections import Counter

import pytest
from device_cases import devices
from hypothesis import given
from hypothesis import strategies as st

from mpitile.geometry.box import EMPTY, Box
from mpitile.plan.clusters.devices import Devices, team_devices
from mpitile.plan.gathers import (
    Part,
    held,
    messages,
    part_sizes,
    partners,
    segment_elements,
    staging_bytes,
)


@st.composite
def cases(draw):
    """Devices, and the size of each rank's part."""
    split = draw(devices())
    ranks = sum(map(len, split.ranks))
    sizes = st.lists(st.sampled_from([0, 1, 7, 12]), min_size=ranks, max_size=ranks)
    return split, draw(sizes)


@given(cases())
def test_each_device_receives_each_part_from_elsewhere_once(case):
    split, sizes = case
    found = Counter((owner, split.place(partner)[0]) for owner, partner in messages(split, sizes))
    assert found == Counter(
        (owner, device)
        for owner, size in enumerate(sizes)
        for device in range(len(split))
        if size and device != split.place(owner)[0]
    )
    assert all(size == sizes[owner] for (owner, _), size in messages(split, sizes).items())


@given(cases())
def test_a_devices_ranks_provide_each_part_once_and_share_the_work(case):
    split, sizes = case
    for ranks in split.ranks:
        provided = [held(split, sizes, rank) for rank in ranks]
        assert [owners[0] for owners in provided] == list(ranks)
        found = Counter(owner for owners in provided for owner in owners)
        assert max(found.values()) == 1
        assert {owner for owner, size in enumerate(sizes) if size} <= found.keys()
        counts = [len(owners) for owners in provided]
        assert max(counts) - min(counts) <= 1
        forward = [segment_elements(split, sizes, rank, adjoint=False) for rank in ranks]
        assert sum(forward) == sum(sizes)


@given(cases())
def test_the_way_back_needs_a_copy_a_rank_and_other_devices_sums(case):
    split, sizes = case
    for rank, size in enumerate(sizes):
        back = segment_elements(split, sizes, rank, adjoint=True)
        assert back == sum(sizes) + (len(split) - 1) * size
        assert back >= segment_elements(split, sizes, rank, adjoint=False)


def test_equal_devices_pair_ranks_of_the_same_position():
    split = Devices(((0, 1), (2, 3), (4, 5)))
    assert partners(split, [1] * 6) == (
        {2: 0, 3: 1, 4: 0, 5: 1},
        {0: 2, 1: 3, 4: 2, 5: 3},
        {0: 4, 1: 5, 2: 4, 3: 5},
    )
    # Empty parts do not travel, and leave nobody without work.
    assert partners(split, [1, 1, 1, 0, 1, 0])[0] == {2: 0, 4: 1}


def test_memory_is_that_of_the_largest_exchange():
    split = Devices(((0, 1), (2,)))
    exchanges = [(4, 4, 4), (9, 0, 0)]
    assert staging_bytes(split, exchanges, 0, 4, adjoint=True) == 4 * (9 + 9)
    assert staging_bytes(split, exchanges, 1, 4, adjoint=True) == 4 * (12 + 4)
    assert staging_bytes(split, exchanges, 1, 8, adjoint=False) == 8 * 4
    assert staging_bytes(split, exchanges, 0, 8, adjoint=False) == 8 * 9
    assert staging_bytes(split, [], 0, 8, adjoint=True) == 0


def test_sizes_are_those_of_all_tensors_and_images():
    parts = {
        3: (Part(Box(0, 2, 0, 3), (0, 4)), Part(EMPTY, (0, 4))),
        5: (Part(Box(0, 2, 0, 2), (0, 1)), Part(Box(0, 2, 0, 2), (1, 3))),
    }
    assert part_sizes(parts, 10) == (280, 80)


@given(devices(), st.data())
def test_ranks_of_a_team_stay_on_their_devices(split, data):
    count = sum(map(len, split.ranks))
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    team = team_devices(split, range(start, stop))
    assert sorted(rank for ranks in team.ranks for rank in ranks) == list(range(stop - start))
    assert list(team.ranks) == sorted(team.ranks)
    for one in range(start, stop):
        for other in range(start, stop):
            together = team.place(one - start)[0] == team.place(other - start)[0]
            assert together == (split.place(one)[0] == split.place(other)[0])


def test_a_rank_outside_a_team_has_no_place():
    with pytest.raises(ValueError, match="rank 2 is on none of 1 devices"):
        team_devices(Devices(((0, 1), (2, 3))), [2, 3]).place(2)
