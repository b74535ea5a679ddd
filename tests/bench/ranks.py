"""A training step on one rank and on several, in turns: the speed-up of this machine's cores.

    python tests/bench/ranks.py [--grid 1x2] [--size 608] [--batch 1] [--groups 0,2,4]

Needs as many free cores as the grid has tiles. Each turn is an `mpirun` of its own; a rank's
step is forward, backward and the sum of the gradients over ranks, each rank's part of it; the
slowest rank counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

from shared import ROOT


def measure(options):
    """One rank's part, under mpirun; rank 0 prints the slowest rank's median seconds."""
    import numpy as np

    from mpitile.comm.mpi import MPI, MpiCommunicator
    from mpitile.comm.topology import make_topology
    from mpitile.layers.base import Step
    from mpitile.network.cfg import read_network
    from mpitile.network.shapes import resize
    from mpitile.plan.clusters.generic import generic_cluster
    from mpitile.plan.partition import Partition
    from mpitile.plan.search.planner import Planner
    from mpitile.plan.search.request import Request
    from mpitile.runtime.program import Program
    from mpitile.train.planning import network_demand
    from mpitile.train.state import TrainState

    world = MpiCommunicator(MPI.COMM_WORLD.Dup())
    network = resize(read_network(options.network), options.size, options.size)
    groups = [int(first) for first in options.groups.split(",")] if options.groups else "auto"
    grid = options.grid if world.size > 1 else "1x1"
    where = generic_cluster(["here"] * world.size)
    demand = network_demand(options.batch, "float32", "sgd")
    request = Request(network, where, world.size, demand, grid=grid, groups=groups)
    plan = Planner(request).best().plan
    topology = make_topology(world, plan)
    state = TrainState(network, plan, np.float32, "sgd", topology)
    state.draw(1)
    program = Program(Partition(network, plan), topology, state.parameters, options.batch)
    image = program.values[0].array
    image[...] = np.random.default_rng(world.rank).standard_normal(image.shape)
    step = Step(training=True, reduce=world.sum, images=options.batch, overwrite=True)
    seconds = []
    for _ in range(options.steps + 2):
        MPI.COMM_WORLD.Barrier()
        start = time.perf_counter()
        program.forward(step)
        program.backward(step)
        state.begin_sum()
        state.end_sum()
        slowest = np.array([time.perf_counter() - start])
        world.maximum(slowest)
        seconds.append(float(slowest[0]))
    if world.rank == 0:
        print(json.dumps(statistics.median(seconds[2:])))


def launch(ranks):
    shell = f'. jobs/env.sh; exec mpirun -np {ranks} "$@"'
    arguments = [sys.executable, __file__, "--inside", *sys.argv[1:]]
    done = subprocess.run(
        ["bash", "-c", shell, "bash", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, default=ROOT / "jobs" / "cfg" / "y16.cfg")
    parser.add_argument("--grid", default="1x2")
    parser.add_argument(
        "--groups", default="", help="first layers; planned, as a run plans them, if left out"
    )
    parser.add_argument("--size", type=int, default=608)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.network = options.network.resolve()
    if options.inside:
        measure(options)
        return
    rows, columns = (int(part) for part in options.grid.split("x"))
    ranks = rows * columns
    pairs = [(launch(1), launch(ranks)) for _ in range(options.turns)]
    one, many = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(alone / shared for alone, shared in pairs)
    print(
        f"{options.network.name} at {options.size}x{options.size}, batch {options.batch}: one rank "
        f"{one * 1e3:.1f} ms, {ranks} ranks of {options.grid} {many * 1e3:.1f} ms, "
        f"speed-up {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
