"""A real step sends what its recording says, and what was planned."""

import pytest
from recorded_cases import (
    channel_bytes,
    communication,
    devices_of,
    gradient_bytes,
    planned,
    take_step,
)
from small_jobs import detector, small_settings

from mpitile.plan.simulation.program_check import check_programs
from mpitile.train.planning import ITEMSIZES
from mpitile.train.setup import make_job

# Tiles; slices of everything; slices of replicas; strips, and a slice behind them.
TILINGS = [
    {"grid": "2x2", "groups": [0, 2, 4]},
    {"grid": "2x2", "filters": [0, 1, 2, 3, 4]},
    {"grid": "1x2", "replicas": 2, "filters": [2, 3, 4]},
    {"grid": "4x1", "filters": [4]},
]


@pytest.mark.mpi(ranks=[4])
@pytest.mark.parametrize(
    ("per_device", "overlap"), [("auto", True), (1, True), (2, True), (2, False)]
)
@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_bytes_of_a_real_step_are_those_of_its_programs(
    comm, shared_folder, tiling, per_device, overlap
):
    folder = shared_folder / f"rank-{comm.rank}"
    folder.mkdir()
    tiling = {**tiling, "ranks_per_device": per_device}
    train = {"subdivisions": 2, "overlap": overlap}
    cfg = detector(normalize=1)
    settings = small_settings(folder, cfg, folder, tiling=tiling, train=train)
    job = make_job(settings, comm.size)
    recorder, sent = take_step(job, comm)
    (told,) = recorder.steps
    check_programs(comm.allgather(told))
    where, rank = devices_of(job), comm.rank
    beside = planned(job, where, overlap=True)[rank]
    assert communication(told) == communication(planned(job, where)[rank])
    assert gradient_bytes(told) == gradient_bytes(beside)
    assert sent == channel_bytes(beside, rank, where, ITEMSIZES[job.settings.train.dtype])
    if per_device == 1:
        assert sent
