"""What cutting the image into tiles costs in computing: each tile's step alone, added up.

    python tests/bench/tiles.py [--size 608] [--grid 4x4] [--batch 1] [--exact] [--layers]

Every convolution is a fused group with the pool behind it, so tiles hold a halo of one layer
and compute no cell twice; messages are left out. The ratio is the sum over tiles over the
time of the whole image, in turns in one process, in seconds of its CPU time. Each step follows
one of the same tile that is not timed, as on a rank, whose caches hold no other tile's arrays.
`--layers` prints both by layer and operation, with the algorithm of each, the most costly excess
first.
"""

import argparse
import os
import statistics
import time
from collections import Counter
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from mpitile.comm.mute import MuteCommunicator
from mpitile.comm.recorder import Unrecorded
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
from mpitile.runtime.shapes import layer_shapes

Y16 = Path(__file__).parents[2] / "jobs" / "cfg" / "y16.cfg"


class Clock(Unrecorded):
    """CPU seconds by operation and layer since the last `take`, if that is asked for."""

    def __init__(self, asked):
        self.asked, self.spent, self.now, self.since = asked, {}, None, 0.0

    def mark(self, operation, number=None):
        """The work before this mark ends here."""
        if not self.asked:
            return
        now = time.process_time()
        if self.now:
            self.spent[self.now] = self.spent.get(self.now, 0.0) + now - self.since
        self.now, self.since = (operation, number), now

    def take(self):
        """What has been spent, and begin anew."""
        self.mark("none")
        spent, self.spent, self.now = self.spent, {}, None
        return spent


def make_program(parameters, plan, tile, options, clock):
    network = parameters.network
    topology = make_topology(MuteCommunicator(tile, plan.grid.tiles), plan)
    program = Program(
        Partition(network, plan),
        topology,
        parameters,
        options.batch,
        choices=Choices(options.exact),
        recorder=clock,
    )
    image = program.values[0].array
    image[...] = np.random.default_rng(tile).standard_normal(image.shape)
    return program


def seconds(programs, step, clock):
    """CPU seconds of all programs' steps, and what `clock` says of them."""
    total, spent = 0.0, Counter()
    for program in programs:
        for _ in range(2):
            clock.take()
            start = time.process_time()
            program.forward(step)
            program.backward(step)
            taken = time.process_time() - start
        total += taken
        spent.update(clock.take())
    return total, spent


def report_layers(network, grid, options, whole, cut):
    """Median milliseconds of each layer's operations; `whole` and `cut` are a turn's each."""
    print(f"{'layer':28}{'operation':18}{'whole ms':>9}{'tiles ms':>9}{'excess':>8}  algorithms")
    lines = []
    for operation, number in cut[0]:
        one, many = (
            statistics.median(turn.get((operation, number), 0.0) for turn in turns) * 1e3
            for turns in (whole, cut)
        )
        name, algorithms = "whole", []
        if number is not None:
            layer = network.layers[number]
            if isinstance(layer.operation, MaxPool):
                layer = network.layers[number - 1]
            size, shape = layer.operation.size, layer.output_shape
            depth = network.shape(layer.inputs[0]).channels
            name = f"{shape.height}x{shape.width} {depth}-{shape.channels} {size}x{size}"
            for cells in (Grid(1, 1), grid):
                shapes = layer_shapes(network, layer, cells, options.batch)
                if operation in shapes:
                    algorithms.append(Choices(options.exact).of(shapes[operation], np.float32))
        lines.append((many - one, name, operation, one, many, " ".join(algorithms)))
    for excess, name, operation, one, many, algorithms in sorted(lines, reverse=True):
        print(f"{name:28}{operation:18}{one:9.2f}{many:9.2f}{excess:8.2f}  {algorithms}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, default=Y16)
    parser.add_argument("--size", type=int, default=608)
    parser.add_argument("--grid", default="4x4")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--exact", action="store_true", help="no Winograd")
    parser.add_argument("--layers", action="store_true", help="a table by layer")
    options = parser.parse_args()
    network = resize(read_network(options.network), options.size, options.size)
    parameters = Parameters(network, np.float32)
    parameters.draw(1)
    grid = parse_grid(options.grid)
    groups = tuple(
        layer.index for layer in network.layers if not isinstance(layer.operation, MaxPool)
    )
    clock = Clock(options.layers)
    whole = [make_program(parameters, Plan(Grid(1, 1), (0,)), 0, options, clock)]
    tiles = [
        make_program(parameters, Plan(grid, groups), tile, options, clock)
        for tile in range(grid.tiles)
    ]
    step = Step(training=True, reduce=lambda array: None, images=options.batch, overwrite=True)
    turns = [
        (seconds(whole, step, clock), seconds(tiles, step, clock)) for _ in range(options.turns + 1)
    ][1:]
    times = [(one, many) for (one, _), (many, _) in turns]
    one, many = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(cut / uncut for uncut, cut in times)
    print(
        f"{options.network.name} at {options.size}x{options.size}, batch {options.batch}"
        f"{', exact' if options.exact else ''}: whole {one * 1e3:.1f} ms, {grid.tiles} tiles of "
        f"{grid} {many * 1e3:.1f} ms, ratio {ratio:.2f}"
    )
    if options.layers:
        spent = zip(*((one, many) for (_, one), (_, many) in turns), strict=True)
        report_layers(network, grid, options, *spent)


if __name__ == "__main__":
    main()
