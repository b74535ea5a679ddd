"""Sums beside the backward pass of real ranks: the same bits as behind it."""

import pytest
from overlapping import (
    FILTERS,
    PLACES,
    SLICED_PLACES,
    assert_same_bits,
    small_buckets,
    tiling_of,
    trained,
)
from small_jobs import box_images, detector, small_settings


def settings_of(comm, folder, place, overlap, recompute="none", filters="none", **train):
    return small_settings(
        # Each rank writes a run file of its own.
        folder / f"rank-{comm.rank}",
        detector(normalize=1),
        folder,
        train={"overlap": overlap, "batch": 12, **train},
        tiling=tiling_of(place, recompute=recompute, filters=filters),
    )


@pytest.mark.mpi(ranks=[1, 2, 3, 4, 6])
@pytest.mark.parametrize(("optimizer", "subdivisions"), [("sgd", 1), ("adam", 2)])
def test_overlap_of_real_ranks_does_not_change_a_bit(
    comm, shared_folder, monkeypatch, subdivisions, optimizer
):
    if comm.rank == 0:
        box_images(shared_folder, 12)
    comm.broadcast(None)
    small_buckets(monkeypatch)
    train = {"subdivisions": subdivisions, "optimizer": optimizer}
    recompute = "all" if subdivisions == 1 else "none"
    for place in PLACES:
        if place[0] != comm.size:
            continue
        apart, overlapped = (
            trained(settings_of(comm, shared_folder, place, overlap, recompute, **train), comm)
            for overlap in (False, True)
        )
        assert_same_bits(overlapped, apart)


@pytest.mark.mpi(ranks=[2, 4, 6])
def test_slices_of_filters_stay_the_same_bits(comm, shared_folder, monkeypatch):
    if comm.rank == 0:
        box_images(shared_folder, 12)
    comm.broadcast(None)
    small_buckets(monkeypatch)
    for place in SLICED_PLACES:
        if place[0] == comm.size:
            apart, overlapped = (
                trained(settings_of(comm, shared_folder, place, overlap, filters=FILTERS), comm)
                for overlap in (False, True)
            )
            assert_same_bits(overlapped, apart)


@pytest.mark.mpi(ranks=[4])
def test_without_threads_sums_advance_between_layers(comm, shared_folder, monkeypatch):
    if comm.rank == 0:
        box_images(shared_folder, 12)
    comm.broadcast(None)
    small_buckets(monkeypatch)
    found = []
    for threaded in (True, False):
        monkeypatch.setattr(comm, "threaded", threaded)
        found.append(trained(settings_of(comm, shared_folder, PLACES[5], True), comm))
    assert_same_bits(*found)
