"""Real ranks with filter-parallel layers take the step that one rank takes."""

import numpy as np
import pytest
import runs
from harness import (
    assert_same_parameters,
    assert_same_pass,
    random_images,
    random_truths,
    run_rank,
    run_tiled,
    whole_plan,
)

from mpitile.comm.devices import make_devices
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.filters import all_filters, split_at_switches, tile_spans
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program


@pytest.mark.mpi(ranks=[3, 4])
@pytest.mark.parametrize(("every", "ranks_per_device"), [(True, "auto"), (False, 2)])
@pytest.mark.parametrize("cfg", [runs.DETECTOR, runs.CLASSIFIER], ids=["detector", "classifier"])
def test_real_ranks_take_the_step_of_one(comm, cfg, every, ranks_per_device):
    network = parse_network(cfg, "network")
    filters = all_filters(network)
    if not every:
        # Tiled, then sliced, then tiled, and so on.
        filters = tuple(layer for layer in filters if layer in filters[1::3])
        filters = tuple(n for n in filters if network.layers[n].kind != "maxpool")
    replicas = 2 if comm.size == 4 else 1
    groups = split_at_switches(network, (0, 3), filters)
    plan = Plan(Grid(1, comm.size // replicas), groups, replicas, filters=filters)
    images, truths = random_images(network, 2, 4), random_truths(network, 2, 4)
    steps = run_rank(comm, network, plan, images, truths, ranks_per_device=ranks_per_device)
    if comm.rank:
        return
    whole = run_tiled(network, whole_plan(network), images, truths)
    for actual, expected in zip(steps, whole, strict=True):
        assert_same_pass(actual, expected, 1e-12, network)
        assert_same_parameters(actual.parameters, expected.parameters, 1e-12)


@pytest.mark.mpi(ranks=[2, 3])
@pytest.mark.parametrize("ranks_per_device", ["auto", 1, None])
def test_a_closed_program_leaves_no_group_behind(comm, monkeypatch, ranks_per_device):
    """Input sizes that change make thousands of programs in a run; MPIs have room for as many."""
    network = parse_network(runs.DETECTOR, "network")
    filters = all_filters(network)
    plan = Plan(Grid(1, comm.size), split_at_switches(network, (0,), filters), filters=filters)
    topology = make_topology(comm, plan)
    group = ranks_per_device and make_devices(comm, ranks_per_device)
    spans = tile_spans(network, plan, topology.tile)
    parameters = Parameters(network, np.float32, spans=spans)
    made = []
    part = type(comm)._part

    def spy(self, inner, members):
        made.append(inner)
        return part(self, inner, members)

    monkeypatch.setattr(type(comm), "_part", spy)
    for _ in range(3):
        Program(Partition(network, plan), topology, parameters, 1, group=group).close()
    assert len(made) == 3
    assert not any(made)
