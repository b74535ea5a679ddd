"""Simulated steps on 24 to 1,024 ranks: where scaling ends, and why.

python tests/bench/scaling.py [--run jobs/y16.toml] [--cluster jobs/clusters/pi3-100mbit.toml]
                              [--ranks 24,48,...] [--batch 64] [--sums sliced] [--events 192]
                              [--plot FILE]

The cluster is made of as many devices of the file's first kind as the ranks want. One curve has
the same batch throughout, the other one as much for each rank as the first has at the fewest
ranks. Each plan is the planner's, over grids, replicas and groups. Nothing is measured: seconds
are the cost model's, simulated event by event up to --events ranks, and from there on by a clock
for each rank (`mpitile.plan.costs.predict`): a sum of slices has as many messages as pairs of
devices.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from shared import PARTS, PI3, ROOT, mean_shares, numbers, percentages

from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.costs.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.search.request import first_ranks
from mpitile.plan.simulation.collectives import ALGORITHMS
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.report.figures import BLUE, ORANGE, VERMILION
from mpitile.train.forecast import job_seconds
from mpitile.train.planning import ITEMSIZES
from mpitile.train.settings import read_settings
from mpitile.train.setup import Job, make_job

LABELS = ("computing", "halos", "sums", "waiting")
# Of what ranks would do in proportion: as long as they do that much, scaling has not ended.
GOOD = 0.9
COUNTS = "24,48,96,192,384,768,1024"


@dataclass(frozen=True)
class Point:
    """A simulated step: images a second, and the shares of the mean rank's time."""

    ranks: int
    batch: int
    grid: str
    replicas: int
    groups: tuple[int, ...]
    filters: tuple[int, ...]
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
    seconds, shares = by_events(options, job) if ranks <= options.events else by_clocks(job)
    return Point(
        ranks,
        batch,
        str(job.plan.grid),
        job.plan.replicas,
        job.plan.groups,
        job.plan.filters,
        seconds,
        batch / seconds,
        tuple(shares),
    )


def by_events(options, job: Job) -> tuple[float, list[float]]:
    """Seconds of a step, and the mean rank's shares of it, from the simulator."""
    cost = Cost(job.network, job.cluster, ITEMSIZES[job.settings.train.dtype])
    size = StepSize(job.pass_images, job.subdivisions, job.optimizer, job.settings.train.overlap)
    programs = step_programs(Partition(job.network, job.plan), cost, size)
    line = simulate(programs, job.cluster, options.sums, keep=False)
    return line.seconds, mean_shares(line)


def by_clocks(job: Job) -> tuple[float, list[float]]:
    """The same from the clocks that planning goes by; its sums are those of slices."""
    told = job_seconds(job)
    means = (mean(getattr(r, part.removesuffix("_s")) for r in told.ranks) for part in PARTS)
    return told.step_seconds, [each / told.step_seconds for each in means]


def efficiency(points: list[Point]) -> list[float]:
    """How much of the first point's images a second and rank is left at each."""
    first = points[0].images_per_s / points[0].ranks
    return [point.images_per_s / point.ranks / first for point in points]


def plot(curves: dict[str, list[Point]], path: str) -> None:
    """Where scaling ends: images a second over ranks. Why: how the mean rank spends the step."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(5 * (1 + len(curves)), 4.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(curves))
    for (name, points), colour, shape in zip(curves.items(), (BLUE, ORANGE), "os", strict=False):
        _draw_rates(axes[0], name, points, colour, shape)
    ranks = [point.ranks for point in next(iter(curves.values()))]
    axes[0].set(xscale="log", yscale="log", xlabel="ranks", ylabel="images per second")
    axes[0].set_xticks(ranks, [str(count) for count in ranks], rotation=60)
    axes[0].xaxis.set_minor_locator(NullLocator())
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].legend(frameon=False)
    title = f"Dotted: in proportion to the ranks\nRinged: {GOOD:.0%} of that is reached last"
    axes[0].set_title(title, loc="left", fontsize=9)
    for axis, (name, points) in zip(axes[1:], curves.items(), strict=True):
        _draw_shares(axis, name, points)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def _draw_rates(axis, name: str, points: list[Point], colour: str, shape: str) -> None:
    ranks = [point.ranks for point in points]
    rates = [point.images_per_s for point in points]
    axis.plot(ranks, rates, shape + "-", color=colour, label=name)
    ends = [ranks[0], ranks[-1]]
    axis.plot(ends, [rates[0] * end / ends[0] for end in ends], ":", color=colour)
    good = [n for n, share in enumerate(efficiency(points)) if share >= GOOD][-1]
    axis.plot(ranks[good], rates[good], "o", markersize=13, fillstyle="none", color="black")


def _draw_shares(axis, name: str, points: list[Point]) -> None:
    """A bar for each count of ranks, below it the plan, above it the efficiency."""
    places = range(len(points))
    bottoms = [0.0] * len(points)
    colours = (BLUE, ORANGE, VERMILION, "#BBBBBB")
    for part, label, colour in zip(range(4), LABELS, colours, strict=True):
        heights = [100 * point.shares[part] for point in points]
        axis.bar(places, heights, 0.8, bottoms, color=colour, label=label)
        bottoms = [x + y for x, y in zip(bottoms, heights, strict=True)]
    for place, share in zip(places, efficiency(points), strict=True):
        axis.text(place, 101, f"{100 * share:.0f}%", ha="center", va="bottom", fontsize=8)
    plans = [f"{point.ranks} = {point.replicas} x {point.grid}" for point in points]
    axis.set_xticks(places, plans, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set(ylim=(0, 112), xlabel="ranks = replicas x grid", ylabel="% of the step")
    axis.set_title(f"{name}\nabove: images per second and rank, of the first's", loc="left",
                   fontsize=9)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default=ROOT / "jobs" / "y16.toml")
    parser.add_argument("--cluster", default=PI3)
    parser.add_argument("--ranks", type=numbers, default=COUNTS, help=f"({COUNTS})")
    parser.add_argument("--batch", type=int, default=64, help="of the first curve (64)")
    parser.add_argument("--sums", choices=sorted(ALGORITHMS), default="sliced")
    parser.add_argument("--events", type=int, default=192, help="most ranks to simulate so (192)")
    parser.add_argument("--plot", help="write a picture to this file")
    parser.add_argument("--json", help="write the points to this file")
    options = parser.parse_args()
    cluster = read_cluster(options.cluster)
    counts = options.ranks
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
            shares = percentages(found.shares)
            print(
                f"{ranks:6}{found.batch:7}{found.seconds:9.3g}{found.images_per_s:10.3g}  {shares}"
                f"   {found.replicas} x {found.grid}, groups {','.join(map(str, found.groups))}"
                f"{', filter-parallel ' * bool(found.filters)}{','.join(map(str, found.filters))}"
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
