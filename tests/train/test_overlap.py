"""Sums beside the backward pass give the same bits as sums behind it."""

import random
import threading
import time

import pytest
from overlapping import (
    FILTERS,
    PLACES,
    SLICED_PLACES,
    STEPS,
    assert_same_bits,
    small_buckets,
    tiling_of,
    trained,
)
from small_jobs import box_images, detector, small_settings

from mpitile.comm.flow import SumFlow, ValueFlow
from mpitile.comm.local import run_ranks
from mpitile.comm.progress import Beside
from mpitile.plan.sums.buckets import early_count
from mpitile.train.state import TrainState


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    return box_images(tmp_path_factory.mktemp("boxes"), 12)


def both(folder, boxes, place, cfg=None, prepare=lambda trainer: None, tiling=None, **train):
    """What every rank has after some steps without and with overlap."""
    results = []
    for overlap in (False, True):
        settings = small_settings(
            folder,
            cfg or detector(normalize=1),
            boxes,
            train={"overlap": overlap, "batch": 12, **train},
            tiling=tiling or tiling_of(place),
        )
        ready = prepare if overlap else lambda trainer: None
        results.append(
            run_ranks(place[0], lambda comm, s=settings, r=ready: trained(s, comm, prepare=r))
        )
    return zip(*results, strict=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("subdivisions", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_overlap_does_not_change_a_bit(
    tmp_path, boxes, monkeypatch, place, subdivisions, optimizer
):
    small_buckets(monkeypatch)
    train = {"subdivisions": subdivisions, "optimizer": optimizer}
    for apart, overlapped in both(tmp_path, boxes, place, **train):
        assert_same_bits(overlapped, apart)


@pytest.mark.parametrize("place", PLACES[3:6])
def test_values_may_change_while_others_are_computed_again(tmp_path, boxes, monkeypatch, place):
    small_buckets(monkeypatch)
    tiling = tiling_of(place, recompute="all")
    for apart, overlapped in both(tmp_path, boxes, place, tiling=tiling):
        assert_same_bits(overlapped, apart)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("place", SLICED_PLACES)
def test_slices_of_filters_stay_the_same_bits(tmp_path, boxes, monkeypatch, place, optimizer):
    small_buckets(monkeypatch)
    tiling = tiling_of(place, filters=FILTERS)
    for apart, overlapped in both(tmp_path, boxes, place, tiling=tiling, optimizer=optimizer):
        assert_same_bits(overlapped, apart)


@pytest.mark.parametrize("place", PLACES[4:])
def test_timing_does_not_change_a_bit(tmp_path, boxes, monkeypatch, place):
    """Ranks come late now and then, and look after their sums at any time or hardly ever."""
    small_buckets(monkeypatch)
    advance = {kind: kind.advance for kind in (SumFlow, ValueFlow)}

    def stumble(trainer):
        moody = random.Random(trainer.topology.world.rank)
        for layer in trainer.program._groups[0].tasks:
            backward = layer.work.backward_weights

            def late(step, backward=backward):
                time.sleep(moody.choice([0, 0, 0.01]))
                backward(step)

            monkeypatch.setattr(layer.work, "backward_weights", late)

    def moody_advance(flow):
        return random.random() < 0.5 and advance[type(flow)](flow)

    for kind in advance:
        monkeypatch.setattr(kind, "advance", moody_advance)
    for apart, overlapped in both(tmp_path, boxes, place, prepare=stumble):
        assert_same_bits(overlapped, apart)


@pytest.mark.parametrize("place", [PLACES[2], PLACES[5]])
def test_a_thread_of_its_own_does_not_change_a_bit(tmp_path, boxes, monkeypatch, place):
    small_buckets(monkeypatch)
    monkeypatch.setattr("mpitile.comm.local.LocalCommunicator.threaded", True, raising=False)
    for apart, overlapped in both(tmp_path, boxes, place):
        assert_same_bits(overlapped, apart)


@pytest.mark.parametrize("per_device", [1, 2])
def test_nothing_goes_beside_inside_one_device(tmp_path, boxes, per_device):
    tiling = tiling_of((2, "1x2", 1, per_device))
    settings = small_settings(tmp_path, detector(), boxes, train={"batch": 12}, tiling=tiling)
    beside = []

    def note(trainer):
        flows = [divided.sum_flow for divided in trainer._state._divided]
        beside.append((trainer._state.overlap, any(flows)))

    run_ranks(2, lambda comm: trained(settings, comm, prepare=note))
    assert beside == [(per_device == 1,) * 2] * 2


def test_buckets_are_under_way_before_backward_ends(tmp_path, boxes, monkeypatch):
    small_buckets(monkeypatch)
    settings = small_settings(
        tmp_path, detector(), boxes, train={"batch": 12}, tiling=tiling_of(PLACES[2])
    )
    noted = []
    end = TrainState.end_overlap

    def noting(state):
        (divided,) = state._divided
        noted.append((len(divided.sum_flow.flights), len(divided.early_flow.flights)))
        found = end(state)
        assert len(divided.early_flow.flights) == early_count(divided._buckets) > 0
        return found

    monkeypatch.setattr(TrainState, "end_overlap", noting)
    run_ranks(2, lambda comm: trained(settings, comm))
    assert len(noted) == 2 * STEPS
    assert max(sums for sums, _ in noted) > 1
    assert max(values for _, values in noted) > 0


def test_a_start_is_not_lost_while_the_thread_finds_nothing_left():
    """It comes between the last look and the thread's going to sleep."""
    looks = []

    def look():
        looks.append(len(looks))
        if len(looks) == 1:
            beside.start()
        return False

    beside = Beside(look, lambda: True)
    beside.start()
    deadline = time.monotonic() + 5
    while len(looks) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    beside.close()
    assert len(looks) >= 2


def test_a_thread_that_just_looks_can_be_ended():
    looking = threading.Event()

    def look():
        looking.set()
        time.sleep(0.1)
        return False

    beside = Beside(look, lambda: True)
    beside.start()
    assert looking.wait(5)
    ending = threading.Thread(target=beside.close, daemon=True)
    ending.start()
    ending.join(5)
    assert not ending.is_alive()


def test_looks_that_find_nothing_become_rare(monkeypatch):
    pauses, moved = [], [True, False, False, False, False, False, True, False]
    monkeypatch.setattr("mpitile.comm.progress.time.sleep", pauses.append)
    beside = Beside(lambda: moved.pop(0), lambda: not moved)
    beside.start()
    deadline = time.monotonic() + 5
    while len(pauses) < 8 and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    beside.close()
    assert pauses[:8] == [1e-3, 2e-3, 4e-3, 4e-3, 4e-3, 4e-3, 1e-3, 2e-3]


def test_what_fails_beside_is_raised_where_it_is_waited_for():
    def fail():
        raise ValueError("no")

    beside = Beside(fail, lambda: True)
    beside.start()
    time.sleep(0.1)
    with pytest.raises(ValueError, match="no"):
        beside.stop()
    beside.stop()
    beside.close()
