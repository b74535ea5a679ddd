"""What cutting the image into tiles costs in computing: each tile's step alone, added up.

    python tests/bench/tiles.py [--size 608] [--grid 4x4] [--batch 1] [--exact]

Every convolution is a fused group with the pool behind it, so tiles hold a halo of one layer
and compute no cell twice; messages are left out. The ratio is the sum over tiles over the
time of the whole image, in turns in one process, in seconds of its CPU time.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from mpitile.comm.mute import MuteCommunicator
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid, parse_grid
from mpitile.kernels.choice import Choices
from mpitile.layers.base import Step
from mpitile.network.cfg import read_network
from mpitile.network.shapes import resize
from mpitile.network.spec import MaxPool
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program

Y16 = Path(__file__).parents[2] / "jobs" / "cfg" / "y16.cfg"


def make_program(parameters, plan, tile, options):
    network = parameters.network
    topology = make_topology(MuteCommunicator(tile, plan.grid.tiles), plan)
    program = Program(
        Partition(network, plan),
        topology,
        parameters,
        options.batch,
        choices=Choices(options.exact),
    )
    image = program.values[0].array
    image[...] = np.random.default_rng(tile).standard_normal(image.shape)
    return program


def seconds(programs, step):
    start = time.process_time()
    for program in programs:
        program.forward(step)
        program.backward(step)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, default=Y16)
    parser.add_argument("--size", type=int, default=608)
    parser.add_argument("--grid", default="4x4")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--exact", action="store_true", help="no Winograd")
    options = parser.parse_args()
    network = resize(read_network(options.network), options.size, options.size)
    parameters = Parameters(network, np.float32)
    parameters.draw(1)
    grid = parse_grid(options.grid)
    groups = tuple(
        layer.index for layer in network.layers if not isinstance(layer.operation, MaxPool)
    )
    whole = [make_program(parameters, Plan(Grid(1, 1), (0,)), 0, options)]
    tiles = [
        make_program(parameters, Plan(grid, groups), tile, options) for tile in range(grid.tiles)
    ]
    step = Step(training=True, reduce=lambda array: None, images=options.batch, overwrite=True)
    times = [(seconds(whole, step), seconds(tiles, step)) for _ in range(options.turns + 1)][1:]
    one, many = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(cut / uncut for uncut, cut in times)
    print(
        f"{options.network.name} at {options.size}x{options.size}, batch {options.batch}"
        f"{', exact' if options.exact else ''}: whole {one * 1e3:.1f} ms, {grid.tiles} tiles of "
        f"{grid} {many * 1e3:.1f} ms, ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
