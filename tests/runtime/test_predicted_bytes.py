"""What is predicted is what is allocated, to the byte."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small_jobs import box_images, class_images, classifier, detector, small_settings
from strategies import cases

from mpitile.comm.devices import make_devices
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.kernels.choice import Choices
from mpitile.plan.clusters.devices import group_ranks
from mpitile.plan.filters import tile_spans
from mpitile.plan.memory.bytes import KINDS, Demand, most_shared, plan_bytes
from mpitile.plan.partition import Partition
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.runtime.workspace import KernelMemory
from mpitile.train.forecast import job_bytes
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer

CHOICES = st.sampled_from([Choices(), Choices(exact=True), Choices(measured=True)])


# How many ranks share a device, if any do.
SHARING = st.sampled_from([None, 2, "auto"])


@settings(max_examples=60)
@given(cases(filters=True), CHOICES, SHARING)
def test_a_program_allocates_what_is_predicted(case, choices, sharing):
    network, plan = case.network, case.plan
    partition = Partition(network, plan)

    def allocated(comm, dtype):
        topology = make_topology(comm, plan)
        spans = tile_spans(network, plan, topology.tile)
        parameters = Parameters(network, dtype, spans=spans)
        images = case.batch // plan.replicas
        group = sharing and make_devices(comm, sharing)
        program = Program(partition, topology, parameters, images, choices=choices, group=group)
        arena = program._arrays.arena
        held = arena._memory.nbytes + arena.common_bytes
        assert program.bytes["activations"] + program.bytes["deltas"] == held
        return program.bytes

    for dtype in (np.float32, np.float64):
        split = group_ranks([range(plan.ranks)], sharing or 1)
        itemsize = np.dtype(dtype).itemsize
        kernels = KernelMemory(choices, np.dtype(dtype))
        demand = Demand(case.batch, itemsize, 0, 0, kernels, "none", devices=split)
        found = run_ranks(plan.ranks, lambda comm, dtype=dtype: allocated(comm, dtype))
        for predicted, held in zip(plan_bytes(partition, demand), found, strict=True):
            assert tuple(predicted) == KINDS
            # A trainer's.
            assert predicted.pop("optimizer") == 0
            del predicted["sums"]
            if sharing:
                # The parameters above are each rank's own.
                del predicted["weights"], held["weights"]
            assert predicted == held


@settings(max_examples=40)
@given(cases(filters=True))
def test_a_team_has_whole_copies_once_on_a_device(case):
    plan = case.plan
    partition = Partition(case.network, plan)
    demand = Demand(case.batch, readers="none")

    def activations(sharing):
        split = group_ranks([range(plan.ranks)], sharing)
        ranks = plan_bytes(partition, replace(demand, devices=split))
        return sum(kinds["activations"] for kinds in ranks)

    wanted = most_shared(partition, case.batch // plan.replicas, demand.itemsize)
    assert (wanted.once > 0) == any(map(partition.gathers, range(len(partition.ranges))))
    assert activations(1) - activations("auto") == (plan.grid.tiles - 1) * wanted.once


@pytest.mark.parametrize("read", ["all", "root"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["boxes", "labels"])
@pytest.mark.parametrize(("grid", "replicas"), [("1x2", 1), ("1x1", 2), ("2x1", 2)])
def test_a_run_allocates_what_is_predicted(tmp_path, read, optimizer, kind, grid, replicas):
    if kind == "boxes":
        data, cfg = box_images(tmp_path / "data", 8), detector()
    else:
        data, cfg = class_images(tmp_path / "data", 3, 3), classifier(3)
    job_settings = small_settings(
        tmp_path,
        cfg,
        data,
        data={"read": read},
        train={"optimizer": optimizer, "subdivisions": 2},
        tiling={"grid": grid, "replicas": replicas},
    )

    def allocated(comm):
        job = make_job(job_settings, comm.size)
        topology = make_topology(comm, job.plan)
        images = open_images(job, topology, None)
        trainer = Trainer(job, topology)
        with training_feeder(job, topology, trainer.program, images, range(2), print) as feeder:
            held = trainer.allocated
            held["images"] += feeder.bytes
        return job, held

    rows, columns = map(int, grid.split("x"))
    for rank, (job, held) in enumerate(run_ranks(rows * columns * replicas, allocated)):
        assert job_bytes(job)[rank] == held
