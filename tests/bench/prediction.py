"""Predicted against measured seconds of training steps that no profile has measured.

python tests/bench/prediction.py [--rounds 2] [--steps 9] [--seconds 30] [--only y16]

For one network after the other, with one rank and with two, profiles this machine and runs steps
at other input sizes, batches, grids and groups behind, in turns under one mpirun. Virtual machines
that share a processor with others change their speed by half and more from one second to the next;
so each step is held against the pace that its ranks have before and behind it, as the profile holds
its passes (`mpitile.runtime.pace`), and counts as if it had been the profile's mean. Printed are
the means over rounds of predicted and of median measured seconds: of the whole step, of the slowest
rank's computing by CPU time, and last the error of steps at the pace that they happened to have.
Memory is held against its prediction by tests/bench/memory.py, steps on several devices by
tests/bench/live.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
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
from mpitile.runtime.pace import Pace
from mpitile.train.forecast import job_seconds
from mpitile.train.profiling import profile
from mpitile.train.recording import RandomFeeder
from mpitile.train.settings import read_settings
from mpitile.train.setup import Job, make_job
from mpitile.train.trainer import Trainer

RUN = Path(__file__).parents[2] / "jobs" / "y16.toml"
CFGS = Path(__file__).parents[2] / "jobs" / "cfg"
NETWORKS = ("y16", "yolov2-tiny", "resnet18")
KINDS = ("step", "computing", "step at any pace")
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
    parser.add_argument("--rounds", type=int, default=2, help="of a profile and all runs (2)")
    parser.add_argument("--steps", type=int, default=9, help="of each run, after one more (9)")
    parser.add_argument("--seconds", type=float, default=30, help="of each profile's layers (30)")
    parser.add_argument("--json", help="write what was found to this file")
    parser.add_argument("--only", choices=NETWORKS, help="runs of one network")
    parser.add_argument("--ranks", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ranks:
        take_turns(runs_of(options.only, options.ranks), options)
    else:
        compare(options)


def runs_of(network, ranks):
    return [run for run in RUNS if (run.network, run.ranks) == (network, ranks)]


def compare(options):
    """Start what measures, and print."""
    print(
        "network      size ranks reps grid    groups images        step measured   error"
        "   computing measured   error   any pace   error"
    )
    total = {kind: [] for kind in KINDS}
    rows = []
    names = [options.only] if options.only else NETWORKS
    for ranks, name in sorted({(run.ranks, run.network) for run in RUNS if run.network in names}):
        own = ["--ranks", ranks, "--only", name, "--rounds", options.rounds]
        own += ["--steps", options.steps, "--seconds", options.seconds]
        rounds = json.loads(start(ranks, [__file__, *map(str, own)]))
        for run, found in zip(runs_of(name, ranks), zip(*rounds, strict=True), strict=True):
            rows.append({**asdict(run), "rounds": found})
            text = str(run)
            for kind, errors in total.items():
                predicted, measured = map(
                    statistics.mean, zip(*(times[kind] for times in found), strict=True)
                )
                errors.append(predicted / measured - 1)
                if kind != KINDS[-1]:
                    text += f" {predicted * 1e3:8.1f} ms"
                text += f" {measured * 1e3:7.1f} {errors[-1]:+7.1%}"
            print(text, flush=True)
    for kind, errors in total.items():
        sizes = list(map(abs, errors))
        print(
            f"{kind}: mean error {statistics.mean(sizes):.1%}, worst {max(sizes):.1%} "
            f"of {len(sizes)} runs (goal: mean {TARGET:.0%})"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


def take_turns(runs, options):
    """Print by round and run, and by kind, what is predicted and what is measured. Collective.

    Profiles are those of `mpitile profile`.
    """
    # Waits that sleep take no CPU time, and no other thread takes part in sums.
    worlds = MpiCommunicator(MPI.COMM_WORLD), MpiCommunicator(MPI.COMM_WORLD, "sleep")
    network = read_network(CFGS / f"{options.only}.cfg")
    rounds = []
    for _ in range(options.rounds):
        pace = Pace()
        cluster = profile(worlds[0], [network], options.seconds, lambda text: None, pace)
        usual = statistics.mean(pace.taken)
        rounds.append([])
        for run in runs:
            measured = measure(worlds, run, options.steps, partial(slowness_of, pace, usual))
            predicted = predict(run, cluster)
            rounds[-1].append({kind: (predicted[kind], measured[kind]) for kind in KINDS})
    if worlds[0].rank == 0:
        print(json.dumps(rounds))


def predict(run, cluster):
    """Seconds of a step, and of the slowest rank's computing with a core of its own."""
    alone = max(rank.compute for rank in job_seconds(run.job(False, unshared(cluster))).ranks)
    step = job_seconds(run.job(True, cluster)).step_seconds
    return dict(zip(KINDS, (step, alone, step), strict=True))


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


def slowness_of(pace, usual):
    """By what factor this rank's core is slower just now than it usually was."""
    return pace.take() / usual


def measure(worlds, run, steps, slowness):
    """The slowest rank's median seconds of a step, and its CPU seconds without waiting.

    `slowness()` is by what factor this rank's core is slower just now than it was for the profile.
    """
    spinning, asleep = worlds
    usual, any_pace = median_step(spinning, run.job(), steps, time.perf_counter, slowness)
    computing, _ = median_step(asleep, run.job(False), steps, time.thread_time, slowness)
    return dict(zip(KINDS, (usual, computing, any_pace), strict=True))


def median_step(world, job, steps, clock, slowness):
    """The slowest rank's, by this clock: at the profile's pace, and at that of the moment."""
    topology = make_topology(world, job.plan)
    trainer = Trainer(job, topology)
    feeder = RandomFeeder(job, topology, trainer.program.values[0])

    def slowest(value):
        found = np.array([value])
        world.maximum(found)
        return float(found[0])

    times, paces = [], [slowest(slowness())]
    for _ in range(steps + 1):
        begin = clock()
        trainer.step(feeder)
        times.append(slowest(clock() - begin))
        paces.append(slowest(slowness()))
    trainer.close()
    own = (taken * 2 / sum(around) for taken, around in zip(times, pairwise(paces), strict=True))
    return statistics.median(list(own)[1:]), statistics.median(times[1:])


if __name__ == "__main__":
    main()
