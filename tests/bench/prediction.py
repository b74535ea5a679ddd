"""Predicted against measured seconds of training steps that no profile has measured.

python tests/bench/prediction.py [--steps 9] [--seconds 60] [--only y16]

Profiles this machine with one rank and with two, then runs steps of networks at other input
sizes, batches, grids and groups under mpirun, and prints both times of each. "median" compares
the prediction with the median step; "quiet" compares what it would be if every rank had a core
for itself with the fastest step: of use where other programs disturb the measurement.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch import mpirun

from mpitile.comm.mpi import MPI, MpiCommunicator
from mpitile.comm.topology import make_topology
from mpitile.layers.base import Step
from mpitile.layers.registry import is_loss
from mpitile.network.cfg import read_network
from mpitile.network.shapes import infer, resize
from mpitile.plan.choose import choose_plan
from mpitile.plan.cluster import Cluster
from mpitile.plan.cluster_file import read_cluster
from mpitile.plan.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.predict import predict
from mpitile.runtime.program import Program
from mpitile.train.state import TrainState

CFGS = Path(__file__).parents[2] / "jobs" / "cfg"
NETWORKS = ("y16", "yolov2-tiny", "resnet18")
TARGET = 0.08


@dataclass(frozen=True)
class Run:
    """Steps to take: a network at a size, and how it is spread over ranks."""

    network: str
    size: int
    ranks: int
    grid: str
    groups: object
    images: int
    replicas: int = 1
    optimizer: str = "sgd"

    def make(self):
        """The network and the plan."""
        network = plain(resize(read_network(CFGS / f"{self.network}.cfg"), self.size, self.size))
        groups = self.groups
        if groups == "each":
            groups = range(len(network.layers))
        return network, choose_plan(network, self.ranks, self.grid, groups, self.replicas)

    def __str__(self):
        groups = self.groups if isinstance(self.groups, str) else ",".join(map(str, self.groups))
        return (
            f"{self.network:12} {self.size:4} {self.ranks:5} {self.replicas:4} {self.grid:>4} "
            f"{groups:>9} {self.images:6}"
        )


# None is a tile, a grouping and a batch that the profile times itself.
RUNS = (
    Run("y16", 416, 1, "1x1", "auto", 1),
    Run("y16", 416, 1, "1x1", "each", 2),
    Run("y16", 608, 1, "1x1", [0, 8], 2),
    Run("y16", 320, 1, "1x1", [0, 4, 8, 12], 8),
    Run("y16", 512, 1, "1x1", "auto", 3, optimizer="adam"),
    Run("yolov2-tiny", 352, 1, "1x1", "auto", 2),
    Run("yolov2-tiny", 288, 1, "1x1", "each", 5),
    Run("yolov2-tiny", 480, 1, "1x1", [0, 6], 1),
    Run("yolov2-tiny", 224, 1, "1x1", "auto", 8, optimizer="adam"),
    Run("resnet18", 192, 1, "1x1", "auto", 2),
    Run("resnet18", 160, 1, "1x1", "each", 6),
    Run("resnet18", 256, 1, "1x1", "auto", 3),
    Run("y16", 608, 2, "1x2", "auto", 2),
    Run("y16", 416, 2, "2x1", "each", 2),
    Run("y16", 608, 2, "2x1", [0, 8], 2),
    Run("y16", 320, 2, "1x2", [0, 4, 8, 12], 8),
    Run("y16", 416, 2, "1x1", "auto", 4, replicas=2),
    Run("yolov2-tiny", 352, 2, "1x2", "auto", 2),
    Run("yolov2-tiny", 416, 2, "2x1", "each", 3),
    Run("yolov2-tiny", 480, 2, "1x2", [0, 6], 1),
    Run("yolov2-tiny", 224, 2, "1x1", "auto", 8, replicas=2),
    Run("resnet18", 192, 2, "1x2", "auto", 2),
    Run("resnet18", 160, 2, "2x1", "each", 6),
    Run("resnet18", 256, 2, "1x1", "auto", 4, replicas=2),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9, help="of each run, after one more (9)")
    parser.add_argument("--seconds", type=float, default=60, help="of each profile's layers (60)")
    parser.add_argument("--only", choices=NETWORKS, help="runs of one network")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    runs = [run for run in RUNS if options.only in (None, run.network)]
    if options.measure:
        for run in runs:
            if run.ranks == options.measure:
                measure(run, options.steps)
        return
    compare(runs, options)


def compare(runs, options):
    """Profile, measure, predict, and print."""
    print(
        "network      size ranks reps grid    groups images        step measured   error"
        "   computing measured   error"
    )
    errors = {"step": [], "computing": []}
    for ranks in sorted({run.ranks for run in runs}):
        cluster = profile(ranks, options)
        own = [run for run in runs if run.ranks == ranks]
        arguments = ["--measure", str(ranks), "--steps", str(options.steps)]
        if options.only:
            arguments += ["--only", options.only]
        lines = start(ranks, [__file__, *arguments]).splitlines()
        for run, line in zip(own, lines, strict=True):
            measured = dict(zip(errors, json.loads(line), strict=True))
            predicted = {
                "step": prediction(run, cluster).step_seconds,
                "computing": max(rank.compute for rank in prediction(run, unshared(cluster)).ranks),
            }
            text = str(run)
            for kind, found in measured.items():
                error = predicted[kind] / found - 1
                errors[kind].append(abs(error))
                text += f" {predicted[kind] * 1e3:8.1f} ms {found * 1e3:7.1f} {error:+7.1%}"
            print(text, flush=True)
    for kind, values in errors.items():
        print(
            f"{kind}: mean error {statistics.mean(values):.1%}, worst {max(values):.1%} "
            f"of {len(values)} runs (goal: mean {TARGET:.0%})"
        )


def profile(ranks, options):
    """What `mpitile profile` finds with so many ranks."""
    names = [options.only] if options.only else NETWORKS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.toml"
        cfgs = [str(CFGS / f"{name}.cfg") for name in names]
        start(
            ranks,
            [
                "-m",
                "mpitile",
                "profile",
                *cfgs,
                "--out",
                str(path),
                "--seconds",
                str(options.seconds),
            ],
        )
        return read_cluster(path)


def unshared(cluster: Cluster) -> Cluster:
    """The same cluster, each rank with a whole core."""
    return replace(
        cluster,
        devices=tuple(
            replace(device, speed=replace(device.speed, share=1.0)) for device in cluster.devices
        ),
    )


def prediction(run, cluster):
    """The predicted step."""
    network, plan = run.make()
    return predict(network, plan, Cost(network, cluster), run.images, run.optimizer)


def start(ranks, arguments):
    """What a Python command prints, under mpirun."""
    command = [*mpirun(), "-np", str(ranks), sys.executable, *arguments]
    environment = {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def plain(network):
    """The network without its loss: the sum of squares needs no truths."""
    kept = [layer for layer in network.layers if not is_loss(layer.operation)]
    return infer(network.options, [(layer.line, layer.operation) for layer in kept], network.name)


def measure(run, steps):
    """Print the slowest rank's median seconds of a step, and its CPU seconds without waiting."""
    times = []
    for wait, clock in (("auto", time.perf_counter), ("sleep", time.thread_time)):
        times.append(median_step(MpiCommunicator(MPI.COMM_WORLD, wait), run, steps, clock))
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(times), flush=True)


def median_step(world, run, steps, clock):
    """The slowest rank's, by this clock."""
    network, plan = run.make()
    topology = make_topology(world, plan)
    state = TrainState(network, plan, "float32", run.optimizer, topology)
    state.draw(1)
    images = run.images // plan.replicas
    program = Program(Partition(network, plan), topology, state.parameters, images)
    image = program.values[0].array
    image[...] = np.random.default_rng(world.rank).random(image.shape, np.float32)
    work = Step(training=True, reduce=world.sum, images=run.images, overwrite=True)
    times = []
    for number in range(steps + 1):
        world.sum(np.zeros(1))
        begin = clock()
        program.forward(work)
        program.backward(work)
        state.begin_sum()
        state.end_sum()
        state.update(0.0, run.images, number + 1)
        state.begin_share()
        state.end_share()
        slowest = np.array([clock() - begin])
        world.maximum(slowest)
        times.append(float(slowest[0]))
    program.close()
    state.close()
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
