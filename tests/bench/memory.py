"""How much a training step on one rank adds to the process, beyond interpreter and libraries.

python tests/bench/memory.py [--network y16.cfg] [--size 608] [--batch 1]
"""

import argparse
import os
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.layers.base import Step
from mpitile.layers.registry import is_loss
from mpitile.network.cfg import read_network
from mpitile.network.shapes import infer, resize
from mpitile.plan.choose import choose_plan
from mpitile.plan.partition import Partition
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.train.optimizer import make_optimizer
from mpitile.train.trainer import peak_rss_mb

CFGS = Path(__file__).parents[2] / "jobs" / "cfg"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="y16.cfg", help="a file of jobs/cfg")
    parser.add_argument("--size", type=int, default=608)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    network = resize(read_network(CFGS / options.network), options.size, options.size)
    # Without its loss: the sum of squares needs no truths.
    kept = [layer for layer in network.layers if not is_loss(layer.operation)]
    operations = [(layer.line, layer.operation) for layer in kept]
    network = infer(network.options, operations, network.name)

    def step(comm):
        before = peak_rss_mb()
        parameters = Parameters(network, np.float32)
        parameters.draw(1)
        plan = choose_plan(network, 1)
        program = Program(
            Partition(network, plan), make_topology(comm, plan), parameters, options.batch
        )
        optimizer = make_optimizer("sgd", parameters, network.options)
        work = Step(training=True, reduce=comm.sum, images=options.batch)
        for number in range(2):
            program.forward(work)
            program.backward(work)
            optimizer.update(0.0, options.batch, number + 1)
        optimizer_bytes = sum(array.nbytes for array in optimizer.state.values())
        arrays = {**program.bytes, "optimizer": optimizer_bytes}
        for kind, size in arrays.items():
            print(f"{kind:12} {size / 1e6:8.1f} MB")
        grown = (peak_rss_mb() - before) * 2**20 / 1e6
        print(
            f"{'all':12} {sum(arrays.values()) / 1e6:8.1f} MB; the process grew by {grown:.1f} MB"
        )

    run_ranks(1, step)


if __name__ == "__main__":
    main()
