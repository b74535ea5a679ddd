"""Predicted against measured seconds of training steps that no profile has measured.

python tests/bench/prediction.py [--steps 9] [--seconds 30] [--only y16]

Profiles this machine for one network after the other, with one rank and with two, runs steps at
other input sizes, batches, grids and groups under mpirun right behind, and prints both times of
each: of the whole step, and of the slowest rank's computing by CPU time. Memory is
held against its prediction by tests/bench/memory.py, steps on several devices by
tests/bench/live.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch import mpirun

from mpitile.comm.mpi import MPI, MpiCommunicator
from mpitile.comm.topology import make_topology
from mpitile.network.cfg import read_network
from mpitile.plan.by_rule import default_groups
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.train.forecast import job_seconds
from mpitile.train.recording import RandomFeeder
from mpitile.train.settings import read_settings
from mpitile.train.setup import Job, make_job
from mpitile.train.trainer import Trainer

RUN = Path(__file__).parents[2] / "jobs" / "y16.toml"
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

    def job(self, overlap: bool = True, cluster: Cluster | None = None) -> Job:
        """What a run file would make of it."""
        overrides = [
            f"network.cfg=cfg/{self.network}.cfg",
            f"network.height={self.size}",
            f"network.width={self.size}",
            f"train.batch={self.images}",
            f"train.optimizer={self.optimizer}",
            f"train.overlap={json.dumps(overlap)}",
            f"tiling.grid={self.grid}",
            f"tiling.replicas={self.replicas}",
            f"tiling.groups={self.starts()}",
            "tiling.recompute=none",
        ]
        settings = read_settings(RUN, overrides)
        return make_job(settings, self.ranks, cluster=cluster, limited=False)

    def starts(self) -> list[int]:
        """The first layers of its groups."""
        network = read_network(CFGS / f"{self.network}.cfg")
        if self.groups == "each":
            return list(range(len(network.layers)))
        return list(default_groups(network) if self.groups == "rule" else self.groups)

    def __str__(self):
        groups = self.groups if isinstance(self.groups, str) else ",".join(map(str, self.groups))
        return (
            f"{self.network:12} {self.size:4} {self.ranks:5} {self.replicas:4} {self.grid:>4} "
            f"{groups:>9} {self.images:6}"
        )


# None is a tile, a grouping and a batch that the profile times itself.
RUNS = (
    Run("y16", 416, 1, "1x1", "rule", 1),
    Run("y16", 416, 1, "1x1", "each", 2),
    Run("y16", 608, 1, "1x1", [0, 8], 2),
    Run("y16", 320, 1, "1x1", [0, 4, 8, 12], 8),
    Run("y16", 512, 1, "1x1", "rule", 3, optimizer="adam"),
    Run("yolov2-tiny", 352, 1, "1x1", "rule", 2),
    Run("yolov2-tiny", 288, 1, "1x1", "each", 5),
    Run("yolov2-tiny", 480, 1, "1x1", [0, 6], 1),
    Run("yolov2-tiny", 224, 1, "1x1", "rule", 8, optimizer="adam"),
    Run("resnet18", 192, 1, "1x1", "rule", 2),
    Run("resnet18", 160, 1, "1x1", "each", 6),
    Run("resnet18", 256, 1, "1x1", "rule", 3),
    Run("y16", 608, 2, "1x2", "rule", 2),
    Run("y16", 416, 2, "2x1", "each", 2),
    Run("y16", 608, 2, "2x1", [0, 8], 2),
    Run("y16", 320, 2, "1x2", [0, 4, 8, 12], 8),
    Run("y16", 416, 2, "1x1", "rule", 4, replicas=2),
    Run("yolov2-tiny", 352, 2, "1x2", "rule", 2),
    Run("yolov2-tiny", 416, 2, "2x1", "each", 3),
    Run("yolov2-tiny", 480, 2, "1x2", [0, 6], 1),
    Run("yolov2-tiny", 224, 2, "1x1", "rule", 8, replicas=2),
    Run("resnet18", 192, 2, "1x2", "rule", 2),
    Run("resnet18", 160, 2, "2x1", "each", 6),
    Run("resnet18", 256, 2, "1x1", "rule", 4, replicas=2),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=9, help="of each run, after one more (9)")
    parser.add_argument("--seconds", type=float, default=30, help="of each profile's layers (30)")
    parser.add_argument("--json", help="write what was found to this file")
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
    rows = []
    for ranks, name in sorted({(run.ranks, run.network) for run in runs}):
        cluster = profile(ranks, name, options.seconds)
        own = [run for run in runs if (run.ranks, run.network) == (ranks, name)]
        arguments = ["--measure", str(ranks), "--steps", str(options.steps), "--only", name]
        lines = start(ranks, [__file__, *arguments]).splitlines()
        for run, line in zip(own, lines, strict=True):
            measured = dict(zip(errors, json.loads(line), strict=True))
            alone = job_seconds(run.job(False, unshared(cluster)))
            predicted = {
                "step": job_seconds(run.job(True, cluster)).step_seconds,
                "computing": max(rank.compute for rank in alone.ranks),
            }
            text = str(run)
            rows.append({**asdict(run), "measured": measured, "predicted": predicted})
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
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


def profile(ranks, name, seconds):
    """What `mpitile profile` finds with so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.toml"
        start(
            ranks,
            [
                "-m",
                "mpitile",
                "profile",
                str(CFGS / f"{name}.cfg"),
                "--out",
                str(path),
                "--seconds",
                str(seconds),
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


def measure(run, steps):
    """Print the slowest rank's median seconds of a step, and its CPU seconds without waiting."""
    times = [
        median_step(MpiCommunicator(MPI.COMM_WORLD), run.job(), steps, time.perf_counter),
        # Waits that sleep take no CPU time, and no other thread takes part in sums.
        median_step(
            MpiCommunicator(MPI.COMM_WORLD, "sleep"), run.job(False), steps, time.thread_time
        ),
    ]
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(times), flush=True)


def median_step(world, job, steps, clock):
    """The slowest rank's, by this clock."""
    topology = make_topology(world, job.plan)
    trainer = Trainer(job, topology)
    feeder = RandomFeeder(job, topology, trainer.program.values[0])
    times = []
    for _ in range(steps + 1):
        world.sum(np.zeros(1))
        begin = clock()
        trainer.step(feeder)
        slowest = np.array([clock() - begin])
        world.maximum(slowest)
        times.append(float(slowest[0]))
    trainer.close()
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
