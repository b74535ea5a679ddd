"""Recorded steps do what the plan says that they do, and simulate as they were."""

import math
from dataclasses import replace

import pytest
from small_jobs import box_images, classifier, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.comm.recorded import RecordedCommunicator
from mpitile.comm.recorder import Recorder
from mpitile.comm.topology import make_topology
from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Cluster, Device, DeviceSpeed, Link
from mpitile.plan.costs.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.recording import (
    GRADIENTS,
    IMAGES,
    BeginBucket,
    BeginExchange,
    Compute,
    Recording,
    behind,
    total_seconds,
)
from mpitile.plan.simulation.intervals import FLIGHT, REDUCE
from mpitile.plan.simulation.program_check import check_programs
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.train.recording import describe_job, record, recorded_job
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer

FAST = DeviceSpeed(
    flops={(kind, op): 1e9 for kind in ("3x3", "1x1", "other") for op in
           ("forward", "backward_input", "backward_weights")},
    bytes=1e9, clear=1e9, call=1e-6, copy=1e9, piece=1e-6, sum=1e9,
    update={"sgd": 1e-9, "adam": 1e-9},
)  # fmt: skip
NOTHING = Link(0.0, math.inf)
# Two sums at the end of a step.
FIGURES = -4


def cluster(ranks, devices=1):
    alike = (Device("here", ranks // devices, None, FAST),) * devices
    return Cluster(alike, NOTHING, NOTHING)


CASES = {
    "groups": (detector(), 4, {"grid": "2x2", "groups": [0, 2, 4]}, {}),
    "uneven, every layer": (detector(), 3, {"grid": "1x3", "groups": [0, 1, 2, 3, 4, 5]}, {}),
    "batch norm": (detector(normalize=1), 4, {"grid": "2x2", "groups": [0, 3]}, {}),
    "replicas": (detector(normalize=1), 4, {"replicas": 2, "grid": "1x2"}, {"subdivisions": 2}),
    "sums behind": (detector(), 4, {"grid": "2x2"}, {"overlap": False}),
    "whole inputs": (classifier(3), 4, {"grid": "4x1", "groups": [0]}, {}),
    "filters": (
        detector(normalize=1),
        4,
        {"grid": "2x2", "filters": [2, 4]},
        {"batch": 2},
    ),
    "filters of replicas": (
        detector(normalize=1),
        4,
        {"grid": "1x2", "replicas": 2, "filters": [0, 1, 2, 4]},
        {"subdivisions": 2},
    ),
    "filters of replicas, sums behind": (
        detector(normalize=1),
        4,
        {"grid": "1x2", "replicas": 2, "filters": [2, 4]},
        {"overlap": False},
    ),
    "one rank": (detector(), 1, {"groups": [0]}, {}),
}


@pytest.fixture(params=CASES, ids=str)
def job(request, tmp_path):
    cfg, ranks, tiling, train = CASES[request.param]
    settings = small_settings(tmp_path, cfg, tmp_path, tiling=tiling, train=train)
    return make_job(settings, ranks)


def communication(program):
    """A program without computing; purposes of sums are words for the reader."""
    events = [event for event in program if not isinstance(event, Compute)]
    return [replace(event, purpose="") if hasattr(event, "purpose") else event for event in events]


def layers(program):
    """Operations of layers that take time in a prediction."""
    names = ("forward", "backward_input", "backward_weights")
    return {
        (event.operation, event.layer)
        for event in program
        if isinstance(event, Compute) and event.operation in names and event.seconds
    }


def test_the_predicted_program_is_the_one_that_runs(job):
    recording = record(job, 1)
    check_programs(recording.programs)
    size = StepSize(job.pass_images, job.subdivisions, job.optimizer, job.settings.train.overlap)
    for devices in (1, job.plan.ranks):
        cost = Cost(job.network, cluster(job.plan.ranks, devices), 8)
        predicted = step_programs(Partition(job.network, job.plan), cost, size)
        for rank, (mine, told) in enumerate(zip(predicted, recording.programs, strict=True)):
            own = communication(behind(told) if devices == 1 else told)
            # But for what devices have sent, by which figures of several are longer.
            assert communication(mine)[:FIGURES] == own[:FIGURES], f"rank {rank}"
            assert layers(mine) <= layers(told)


def test_a_recording_is_for_several_devices_and_for_one(tmp_path):
    tiling = {"grid": "2x2", "groups": [0, 3]}
    job = make_job(small_settings(tmp_path, detector(), tmp_path, tiling=tiling), 4)
    programs = record(job, 1).programs
    assert all(any(isinstance(event, BeginBucket) for event in own) for own in programs)
    sums = {}
    for devices in (1, 2):
        line = simulate(programs, cluster(4, devices))
        sums[devices] = {each.name for each in line.intervals if each.kind in (FLIGHT, REDUCE)}
    assert f"sum of {GRADIENTS}" in sums[1]
    assert not any("bucket" in name for name in sums[1])
    assert "bucket 0" in sums[2]


def test_on_a_perfect_network_the_slowest_rank_decides(job):
    recording = record(job, 2)
    timeline = simulate(recording.programs, cluster(recording.ranks), eager=math.inf)
    seconds = [total_seconds(behind(program)) for program in recording.programs]
    # Ranks wait for each other more often than once; each wait can only add.
    assert max(seconds) <= timeline.seconds * (1 + 1e-9)
    assert timeline.seconds <= sum(seconds) * (1 + 1e-9)
    for rank, own in zip(timeline.ranks, seconds, strict=True):
        assert rank.compute_s + rank.halo_s == pytest.approx(own)


def test_a_recordings_plan_replaces_the_run_files(job):
    recording = Recording(((),) * job.plan.ranks, describe_job(job))
    other = replace(job, plan=replace(job.plan, groups=(0,)), batch=2 * job.batch)
    assert recorded_job(other, recording, "file").plan == job.plan
    assert recorded_job(other, recording, "file").batch == job.batch


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"network": "other.cfg"}, "network = 'other.cfg', but .*run.toml has 'net.cfg'"),
        ({"groups": None}, "file:1: says no plan and batch as recordings do"),
        ({"batch": None}, "file:1: batch = None: expected a whole number from 1 on"),
        ({"batch": 0}, "file:1: batch = 0: expected a whole number from 1 on"),
        ({"grid": "2"}, "file:1: grid '2': expected ROWSxCOLUMNS"),
        ({"grid": 2}, "file:1: grid '2': expected ROWSxCOLUMNS"),
        ({"replicas": 3}, "file:1: .* needs .* ranks"),
        ({"row_weights": [1, 1, 1]}, "file:1: 3 tile weights for grid"),
        ({"recompute": [True] * 99}, "file:1: 99 flags of recomputation for"),
    ],
)
def test_a_recording_of_something_else_is_refused(tmp_path, changes, complaint):
    job = make_job(small_settings(tmp_path, detector(), tmp_path), 2)
    recording = Recording(((), ()), {**describe_job(job), **changes})
    with pytest.raises(InputError, match=complaint):
        recorded_job(job, recording, "file")


def test_images_that_rank_0_hands_out_are_in_its_program(tmp_path):
    """Of a run that reads its images; each of three other ranks gets its box, and truths."""
    data = box_images(tmp_path / "data", 4)
    settings = small_settings(
        tmp_path,
        detector(),
        data,
        data={"read": "root"},
        tiling={"grid": "1x2", "replicas": 2},
        train={"subdivisions": 2},
    )
    job = make_job(settings, 4)

    def work(comm):
        recorder = Recorder(comm.rank, first=0, most=1)
        topology = make_topology(RecordedCommunicator(comm, recorder), job.plan)
        trainer = Trainer(job, topology, recorder)
        images = open_images(job, topology, settings.data.train)
        feed = training_feeder(job, topology, trainer.program, images, range(2), print)
        before = comm.sent.copy()
        with feed as feeder:
            trainer.step(feeder)
        return recorder.steps[0], trainer.program.values[0].array.nbytes, comm.sent - before

    found = run_ranks(4, work)
    programs = [program for program, _, _ in found]
    check_programs(programs)
    handed = [
        event
        for event in programs[0]
        if isinstance(event, BeginExchange) and event.direction == IMAGES
    ]
    # Row 0 of the truths of each image says how many follow: up to three boxes.
    truths = job.team_images * 4 * 5 * 8
    expected = tuple((rank, found[rank][1] + truths) for rank in (1, 2, 3))
    assert handed == [BeginExchange(0, IMAGES, expected, ())] * job.subdivisions
    halos = sum(
        size
        for event in programs[0]
        if isinstance(event, BeginExchange) and event.direction != IMAGES
        for _, size in event.sends
    )
    assert found[0][2].sum() == halos + job.subdivisions * sum(size for _, size in expected)
