"""Simulated steps on 24 to 1,024 ranks: where scaling ends, and why.

python tests/bench/scaling.py [--run jobs/y16.toml] [--cluster jobs/clusters/pi3-100mbit.toml]
                              [--ranks 24,48,...] [--batch 64] [--sums hierarchical] [--plot FILE]

The cluster is made of as many devices of the file's first kind as the ranks want. One curve has
the same batch throughout, the other one as much for each rank as the first has at the fewest
ranks. Each plan is the planner's, over grids, replicas and groups. Nothing is measured: seconds
are the cost model's.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from mpitile.plan.cluster import Cluster
from mpitile.plan.cluster_file import read_cluster
from mpitile.plan.collectives import ALGORITHMS
from mpitile.plan.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.programs import StepSize, step_programs
from mpitile.plan.request import first_ranks
from mpitile.plan.simulate import simulate
from mpitile.train.planning import ITEMSIZES
from mpitile.train.settings import read_settings
from mpitile.train.setup import make_job

ROOT = Path(__file__).parents[2]
PARTS = ("compute_s", "halo_s", "reduce_s", "wait_s")
COUNTS = "24,48,96,192,384,768,1024"


@dataclass(frozen=True)
class Point:
    """A simulated step: images a second, and the shares of the mean rank's time."""

    ranks: int
    batch: int
    grid: str
    replicas: int
    groups: tuple[int, ...]
    seconds: float
    images_per_s: float
    shares: tuple[float, ...]


def grown(cluster: Cluster, ranks: int) -> Cluster:
    """As many devices of the first kind as these ranks want."""
    device = cluster.devices[0]
    devices = (device,) * -(-ranks // device.ranks)
    return first_ranks(replace(cluster, devices=devices), ranks)


def point(options, cluster: Cluster, ranks: int, batch: int) -> Point:
    """Plan and simulate."""
    overrides = [f"train.batch={batch}", "tiling.grid=auto", "tiling.groups=auto"]
    overrides += ["tiling.replicas=auto", "tiling.recompute=none"]
    machine = grown(cluster, ranks)
    job = make_job(read_settings(options.run, overrides), ranks, cluster=machine, limited=False)
    cost = Cost(job.network, machine, ITEMSIZES[job.settings.train.dtype])
    size = StepSize(job.pass_images, job.subdivisions, job.optimizer, job.settings.train.overlap)
    programs = step_programs(Partition(job.network, job.plan), cost, size)
    line = simulate(programs, machine, options.sums, keep=False)
    means = [sum(getattr(rank, part) for rank in line.ranks) / ranks for part in PARTS]
    return Point(
        ranks,
        batch,
        str(job.plan.grid),
        job.plan.replicas,
        job.plan.groups,
        line.seconds,
        batch / line.seconds,
        tuple(mean / line.seconds for mean in means),
    )


def plot(curves: dict[str, list[Point]], path: str) -> None:
    """Images a second over ranks, and below it where the time goes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 1 + len(curves), figsize=(5 * (1 + len(curves)), 4))
    for name, points in curves.items():
        ranks, rates = zip(*((p.ranks, p.images_per_s) for p in points), strict=True)
        axes[0].plot(ranks, rates, "o-", label=name)
    first = next(iter(curves.values()))[0]
    ends = [first.ranks, max(ranks)]
    ideal = [first.images_per_s * end / first.ranks for end in ends]
    axes[0].plot(ends, ideal, "k:", label="in proportion")
    axes[0].set(xscale="log", yscale="log", xlabel="ranks", ylabel="images a second")
    axes[0].legend()
    for axis, (name, points) in zip(axes[1:], curves.items(), strict=True):
        shares = list(zip(*(p.shares for p in points), strict=True))
        labels = ["computing", "halos", "sums", "waiting"]
        axis.stackplot([p.ranks for p in points], shares, labels=labels)
        axis.set(xscale="log", xlabel="ranks", ylabel="share of the step", title=name, ylim=(0, 1))
    axes[1].legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default=ROOT / "jobs" / "y16.toml")
    parser.add_argument("--cluster", default=ROOT / "jobs" / "clusters" / "pi3-100mbit.toml")
    parser.add_argument("--ranks", default=COUNTS, help=f"({COUNTS})")
    parser.add_argument("--batch", type=int, default=64, help="of the first curve (64)")
    parser.add_argument("--sums", choices=sorted(ALGORITHMS), default="hierarchical")
    parser.add_argument("--plot", help="write a picture to this file")
    parser.add_argument("--json", help="write the points to this file")
    options = parser.parse_args()
    cluster = read_cluster(options.cluster)
    counts = [int(word) for word in options.ranks.split(",")]
    batches = {
        f"batch {options.batch}": lambda ranks: options.batch,
        # A multiple, so that as many teams can share it.
        "batch in proportion": lambda ranks: options.batch * round(ranks / counts[0]),
    }
    curves: dict[str, list[Point]] = {name: [] for name in batches}
    print(f"{'ranks':>6}{'batch':>7}{'step s':>9}{'images/s':>10}  % computing, halos, sums, "
          "waiting; plan")  # fmt: skip
    for name, batch in batches.items():
        for ranks in counts:
            start = time.perf_counter()
            found = point(options, cluster, ranks, batch(ranks))
            curves[name].append(found)
            shares = " ".join(f"{100 * share:3.0f}" for share in found.shares)
            print(
                f"{ranks:6}{found.batch:7}{found.seconds:9.3g}{found.images_per_s:10.3g}  {shares}"
                f"   {found.replicas} x {found.grid}, groups {','.join(map(str, found.groups))}"
                f"   (took {time.perf_counter() - start:.1f} s)",
                flush=True,
            )
    if options.json:
        rows = {name: [asdict(p) for p in points] for name, points in curves.items()}
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    if options.plot:
        plot(curves, options.plot)
        sys.stdout.write(f"{options.plot}\n")


if __name__ == "__main__":
    main()
