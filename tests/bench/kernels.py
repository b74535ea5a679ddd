"""Ours against PyTorch, in turns in one process and on one thread: medians and ratios.

    python tests/bench/kernels.py [--size 608] [--batch 1] [--exact] [--network y16.cfg]

Each convolution's operations alone, then a whole training step (forward, backward, no
update), with the loss where it is ``[region]`` and a sum of squares elsewhere. A ratio is
PyTorch's time over ours, for the better of its two layouts. Where others use the machine,
`--cpu-time` counts this process's time only.
"""

import argparse
import os
import statistics
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.box import whole
from mpitile.geometry.tiling import Grid
from mpitile.kernels import _fast, conv, tuning
from mpitile.kernels.algorithms import OPERATIONS
from mpitile.kernels.aligned import aligned_zeros
from mpitile.kernels.choice import Choices
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Step
from mpitile.layers.registry import is_loss
from mpitile.network.cfg import read_network
from mpitile.network.shapes import infer, resize
from mpitile.network.spec import Convolutional, Region
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.runtime.shapes import network_shapes

try:
    import torch_network
except ModuleNotFoundError:
    torch_network = None

LAYOUTS = ("NHWC", "NCHW")
# What a ``[region]`` is shown; beyond SEEN images it no longer pulls towards its anchors.
TRUTHS, SEEN = 8, 100_000
Y16 = Path(__file__).parents[2] / "jobs" / "cfg" / "y16.cfg"


def in_turns(works, turns, clock):
    """Median seconds of each work, after one round that does not count."""
    times = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            start = clock()
            work()
            if turn:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class OurLayer:
    """One convolution with bias and leaky activation on a whole tensor."""

    def __init__(self, operation, images, channels, rows, columns, choices):
        random = np.random.default_rng(1)
        stride, padding, size = operation.stride, operation.padding, operation.size
        height = (rows + 2 * padding - size) // stride + 1
        width = (columns + 2 * padding - size) // stride + 1

        def tile(rows, columns, channels):
            array = aligned_zeros((images, rows, columns, channels), np.float32)
            array[...] = random.standard_normal(array.shape, np.float32)
            return Tile(array, whole(rows, columns), rows, columns)

        self.x, self.dx = (tile(rows, columns, channels) for _ in range(2))
        self.y, self.dy = (tile(height, width, operation.filters) for _ in range(2))
        self.weights = random.standard_normal((size, size, channels, operation.filters), np.float32)
        self.dweights = np.zeros_like(self.weights)
        self.biases = np.zeros(operation.filters, np.float32)
        self.flops = 2 * self.weights.size * images * height * width
        calls = [
            conv.Call(name, self.weights.shape, stride, padding, 1, images, self.y.box, self.x.box)
            for name in OPERATIONS
        ]
        self.algorithms = {call.operation: choices.of(call.shape, np.float32) for call in calls}
        elements = max(
            conv.workspace_size(call, (self.algorithms[call.operation],)) for call in calls
        )
        self.rest = (stride, padding, np.zeros(elements, np.float32))

    def forward(self):
        conv.forward(
            self.x,
            self.weights,
            self.y,
            self.y.box,
            *self.rest,
            biases=self.biases,
            activation="leaky",
            algorithm=self.algorithms["forward"],
        )

    def backward_input(self):
        conv.backward_input(
            self.dy,
            self.y.box,
            self.weights,
            self.dx,
            *self.rest,
            algorithm=self.algorithms["backward_input"],
        )

    def backward_weights(self):
        conv.backward_weights(
            self.x,
            self.dy,
            self.y.box,
            self.dweights,
            *self.rest,
            algorithm=self.algorithms["backward_weights"],
        )


class OurNetwork:
    """The network on one rank, through the layers that training uses."""

    def __init__(self, network, images, choices, truths):
        layers = [
            layer
            for layer in network.layers
            if not is_loss(layer.operation) or isinstance(layer.operation, Region)
        ]
        network = infer(network.options, [(0, layer.operation) for layer in layers], "bench")
        self.parameters = Parameters(network, np.float32)
        self.parameters.draw(1)
        plan = Plan(Grid(1, 1), (0,))

        def make(world):
            topology = make_topology(world, plan)
            return Program(
                Partition(network, plan), topology, self.parameters, images, choices=choices
            )

        self.program = run_ranks(1, make)[0]
        image = self.program.values[0].array
        image[...] = np.random.default_rng(1).standard_normal(image.shape)
        self.settings = Step(
            training=True,
            reduce=lambda array: None,
            images=images,
            seen=SEEN,
            overwrite=True,
            truths=truths,
        )

    def step(self):
        self.program.forward(self.settings)
        self.program.backward(self.settings)


def convolutions(network):
    """Each shape of convolution once, with whether it needs an input delta."""
    seen = set()
    for layer in network.layers:
        if isinstance(layer.operation, Convolutional):
            shape = network.shapes[layer.inputs[0]]
            plain = replace(layer.operation, batch_normalize=False, activation="leaky")
            if (plain, shape) not in seen:
                seen.add((plain, shape))
                yield plain, shape, layer.inputs[0] > 0


def report_layers(network, options, clock):
    print(f"\n{'convolution':28}{'operation':18}{'ours ms':>9}{'GFLOP/s':>9}", end="")
    print("".join(f"{layout + ' ms':>10}" for layout in LAYOUTS) + f"{'ratio':>7}")
    for operation, shape, inner in convolutions(network):
        arguments = (operation, options.batch, shape.channels, shape.height, shape.width)
        ours = OurLayer(*arguments, options.choices)
        theirs = {
            layout: torch_network.Layer(*arguments, layout) for layout in LAYOUTS if torch_network
        }
        name = (
            f"{shape.height}x{shape.width} {shape.channels}-{operation.filters} "
            f"{operation.size}x{operation.size}/{operation.stride}"
        )
        for work in ("forward", "backward_input", "backward_weights"):
            if work == "backward_input" and not inner:
                continue
            works = {"ours": getattr(ours, work)}
            works |= {layout: getattr(layer, work) for layout, layer in theirs.items()}
            times = in_turns(works, options.turns, clock)
            mine = times.pop("ours")
            print(f"{name:28}{work:18}{mine * 1e3:9.2f}{ours.flops / mine / 1e9:9.1f}", end="")
            print("".join(f"{value * 1e3:10.2f}" for value in times.values()), end="")
            print(f"{min(times.values()) / mine:7.2f}" if times else "")


def draw_truths(network, images):
    """Eight boxes an image, anywhere and of any class, for a ``[region]``."""
    random, region = np.random.default_rng(2), network.layers[-1].operation
    if not isinstance(region, Region):
        return [0] * images
    draw = partial(random.uniform, size=(TRUTHS, 2))
    return [
        np.hstack([draw(0, 1), draw(0.05, 0.5), random.integers(region.classes, size=(TRUTHS, 1))])
        for _ in range(images)
    ]


def report_step(network, options, clock):
    truths = draw_truths(network, options.batch)
    works = {"ours": OurNetwork(network, options.batch, options.choices, truths).step}
    if torch_network:
        for layout in LAYOUTS:
            works[layout] = torch_network.Network(network, options.batch, layout, truths).step
    times = in_turns(works, options.turns, clock)
    mine = times.pop("ours")
    print(f"\nwhole step: ours {mine * 1e3:.1f} ms", end="")
    print("".join(f", PyTorch {name} {value * 1e3:.1f} ms" for name, value in times.items()))
    if times:
        print(f"ratio to PyTorch's better layout: {min(times.values()) / mine:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, default=Y16)
    parser.add_argument("--size", type=int, help="rows and columns of the image")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--exact", action="store_true", help="no Winograd")
    parser.add_argument("--tuned", action="store_true", help="by the machine's table")
    parser.add_argument("--step-only", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    network = read_network(options.network)
    if options.size:
        network = resize(network, options.size, options.size)
    clock = time.process_time if options.cpu_time else time.perf_counter
    with_torch = f"PyTorch {torch_network.available()}" if torch_network else "PyTorch is missing"
    shape = network.shapes[0]
    print(
        f"{options.network.name} at {shape.height}x{shape.width}, batch {options.batch}, float32, "
        f"{'exact, ' if options.exact else ''}SIMD {_fast.selected()}, {with_torch}, "
        f"{options.turns} turns"
    )
    options.choices = Choices(options.exact)
    if options.tuned:
        shapes = network_shapes(network, Grid(1, 1), options.batch)
        options.choices = Choices(options.exact, tuning.table(shapes, options.exact))
    if not options.step_only:
        report_layers(network, options, clock)
    report_step(network, options, clock)


if __name__ == "__main__":
    sys.exit(main())
