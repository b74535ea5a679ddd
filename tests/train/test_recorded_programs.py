"""Any job sends what was planned: recorded programs and planned ones have the same messages."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_cases import (
    channel_bytes,
    communication,
    devices_of,
    gradient_bytes,
    planned,
    take_step,
)
from small_jobs import detector, small_settings
from strategies import cases

from mpitile.comm.local import run_ranks
from mpitile.plan.recording import BeginBucket
from mpitile.plan.simulation.intervals import FLIGHT
from mpitile.plan.simulation.program_check import check_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.train.planning import ITEMSIZES
from mpitile.train.setup import make_job


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A job of some network on one rank."""
    folder = tmp_path_factory.mktemp("job")
    return make_job(small_settings(folder, detector(), folder), 1)


@settings(max_examples=80)
@given(cases(layers=4, filters=True), st.data())
def test_what_ranks_tell_each_other_is_what_was_planned(template, case, data):
    """In the same order, whatever the network, its tiles, slices and groups; and it is all."""
    draw = data.draw
    train = replace(
        template.settings.train,
        overlap=draw(st.booleans(), "overlap"),
        dtype=draw(st.sampled_from(sorted(ITEMSIZES)), "dtype"),
    )
    ranks_per_device = draw(st.sampled_from(["auto", 1, 2]), "ranks_per_device")
    tiling = replace(template.settings.tiling, ranks_per_device=ranks_per_device)
    subdivisions = draw(st.sampled_from([1, 1, 2]), "subdivisions")
    job = replace(
        template,
        settings=replace(template.settings, train=train, tiling=tiling),
        network=case.network,
        plan=case.plan,
        batch=case.batch * subdivisions,
        subdivisions=subdivisions,
        optimizer=draw(st.sampled_from(["sgd", "adam"]), "optimizer"),
    )
    found = run_ranks(job.plan.ranks, lambda comm: take_step(job, comm))
    recorded = [recorder.steps[0] for recorder, _ in found]
    check_programs(recorded)
    where, itemsize = devices_of(job), ITEMSIZES[train.dtype]
    plans = zip(planned(job, where), planned(job, where, overlap=True), strict=True)
    for rank, (mine, beside) in enumerate(plans):
        told, (recorder, sent) = recorded[rank], found[rank]
        assert communication(mine) == communication(told), f"rank {rank}"
        assert gradient_bytes(beside) == gradient_bytes(told), f"rank {rank}"
        assert channel_bytes(beside, rank, where, itemsize) == sent, f"rank {rank}"
        flights = [line.name for line in recorder.intervals if line.kind == FLIGHT]
        buckets = [event for event in told if isinstance(event, BeginBucket)]
        # Slices that a rank has alone are no sums, but updated in the same way.
        assert len(flights) >= len(buckets)
        assert sum("of slices" in name for name in flights) >= sum(bool(b.ranks) for b in buckets)
    assert simulate(recorded, where, keep=False).seconds > 0
