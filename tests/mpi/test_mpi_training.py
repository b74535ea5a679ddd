"""Training steps of real ranks equal those of one rank, and leave all ranks the same."""

import hypothesis.strategies as st
import numpy as np
import pytest
import runs
import strategies
from harness import (
    assert_same_parameters,
    assert_same_pass,
    random_images,
    random_truths,
    run_rank,
    run_tiled,
    whole_plan,
)
from hypothesis import Phase, given, settings

from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.plan import Plan
from mpitile.train.settings import read_settings
from mpitile.train.setup import make_job
from mpitile.train.sources import open_images, training_feeder
from mpitile.train.trainer import Trainer

EXACT = 1e-12


@st.composite
def cases_for(draw, ranks):
    replicas = draw(st.sampled_from([n for n in (1, 2) if ranks % n == 0]))
    tiles = ranks // replicas
    rows = draw(st.sampled_from([n for n in range(1, tiles + 1) if tiles % n == 0]))
    network = draw(strategies.networks(2 * replicas))
    weights = draw(st.sampled_from([None, tuple(1.0 + n for n in range(rows))]))
    groups = draw(strategies.groups(network))
    flags = draw(strategies.recompute_flags(len(groups)))
    plan = Plan(Grid(rows, tiles // rows), groups, replicas, weights, recompute=flags)
    return strategies.Case(network, plan, 2 * replicas, draw(st.integers(0, 999)), 0)


def random_cases(ranks, count=8):
    """The same cases on every rank."""
    found = []

    @settings(max_examples=count, phases=[Phase.generate], derandomize=True, database=None)
    @given(cases_for(ranks))
    def collect(case):
        found.append(case)

    collect()
    return found


def fixed_cases(ranks):
    detector = parse_network(runs.DETECTOR, "detector")
    classifier = parse_network(runs.CLASSIFIER, "classifier")
    for network in (detector, classifier):
        for replicas in (n for n in (1, 2) if ranks % n == 0):
            tiles = ranks // replicas
            rows = 2 if tiles % 2 == 0 else 1
            plan = Plan(Grid(rows, tiles // rows), (0, 3, 5, 7), replicas)
            yield strategies.Case(network, plan, 2, 4, 0)


def check(comm, case):
    images = random_images(case.network, case.batch, case.seed)
    truths = random_truths(case.network, case.batch, case.seed)
    options = {"steps": 3, "seed": case.seed, "seen": case.seen}
    tiled = run_rank(comm, case.network, case.plan, images, truths, **options)
    if comm.rank:
        return
    whole = run_tiled(case.network, whole_plan(case.network), images, truths, **options)
    for actual, expected in zip(tiled, whole, strict=True):
        assert_same_pass(actual, expected, EXACT)
        assert_same_parameters(actual.parameters, expected.parameters, EXACT)


def waiting(wait):
    from mpi4py import MPI

    from mpitile.comm.mpi import MpiCommunicator

    return MpiCommunicator(MPI.COMM_WORLD, wait)


@pytest.mark.mpi(ranks=[1, 2, 3, 4, 6])
def test_random_networks(comm):
    for number, case in enumerate(random_cases(comm.size)):
        check(waiting(["sleep", "spin"][number % 2]), case)
        # A failure of rank 0 alone must not meet the next case of the others.
        comm.broadcast(None)


@pytest.mark.mpi(ranks=[1, 2, 3, 4, 6])
@pytest.mark.parametrize("wait", ["spin", "sleep"])
def test_detector_and_classifier(comm, wait):
    for case in fixed_cases(comm.size):
        check(waiting(wait), case)
        comm.broadcast(None)


@pytest.mark.mpi(ranks=[2, 3, 4, 6])
@pytest.mark.parametrize("read", ["all", "root"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_trainers_stay_the_same_bits(comm, shared_folder, optimizer, read):
    """Weights, running statistics and optimiser state, in float32, over real images."""
    replicas = 2 if comm.size in (4, 6) and optimizer == "adam" else 1
    if comm.rank == 0:
        data = runs.draw_data(shared_folder / "data")
        sections = {
            "train": {"optimizer": optimizer},
            "data": {"read": read},
            "tiling": {"replicas": replicas},
        }
        runs.write_run(shared_folder, runs.settings_of(data, shared_folder / "out", **sections))
    comm.broadcast(None)
    settings = read_settings(shared_folder / "run.toml")
    job = make_job(settings, comm.size)
    topology = make_topology(comm, job.plan)
    trainer = Trainer(job, topology)
    first = trainer.parameters.values.copy()
    images = open_images(job, topology, settings.data.train)
    feed = training_feeder(job, topology, trainer.program, images, range(5), lambda text: None)
    with feed as feeder:
        for _ in range(5):
            trainer.step(feeder)
    assert not np.array_equal(trainer.parameters.values, first)
    for array in (trainer.parameters.values, trainer.parameters.running):
        assert len(set(comm.allgather(array.tobytes()))) == 1
