"""Real ranks that recompute exchange the same messages, and end with the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import runs
from harness import random_images, random_truths, run_rank

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.plan import Plan


@pytest.mark.mpi(ranks=[2, 4])
@pytest.mark.parametrize("cfg", [runs.DETECTOR, runs.CLASSIFIER], ids=["detector", "classifier"])
def test_ranks_that_recompute_take_the_same_step(comm, cfg):
    network = parse_network(cfg, "network")
    stored = Plan(Grid(2, comm.size // 2), (0, 3, 5, 7))
    images, truths = random_images(network, 2, 4), random_truths(network, 2, 4)
    plans = [stored, *(replace(stored, recompute=(True, one, True, one)) for one in (True, False))]
    results = [
        run_rank(comm, network, plan, images, truths, dtype=np.float32, merge_pools=True)
        for plan in plans
    ]
    if comm.rank:
        return
    expected = results[0][-1]
    for steps in results[1:]:
        assert steps[-1].loss == expected.loss
        for place, values in expected.parameters.items():
            assert np.array_equal(values, steps[-1].parameters[place]), place
