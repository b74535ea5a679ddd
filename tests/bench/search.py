"""The planner's choice against the best of a measured search: y16 on 4 ranks, three memory caps.

    python tests/bench/search.py [--devices 4] [--size 608] [--batch 2] [--rounds 3] [--turns 11]
                                 [--json FILE]

Candidates are all grids and numbers of teams, with every choice of group borders among the
layers that follow a pool, every layer on its own, and layers in pairs, storing or recomputing
inner activations, tiled throughout or with filter-parallel layers: with --devices 4 and batch 2
that is 180 plans or a few more. Each is recorded (one rank at a time in this process, CPU time),
its seconds multiplied as tests/bench/paper.py does, and simulated on the links of Pi 3s, 4 ranks
over --devices of them. Computing is measured, messages are not. Those near the best, and the
planner's own plans, are measured in further rounds, of which the fastest counts. Of so many some
are fast by luck: in the end the three that came out best under a cap and the planned one are
measured in turns, and what the planned one loses to each is the median of the turns' ratios. What
layers take the planner knows from recordings of other grids and batches.

The caps are bytes a device: none, and two between what the fastest candidate takes and what the
leanest does.
"""

import argparse
import json
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations, product
from pathlib import Path
from statistics import median

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from paper import EACH, device_bytes, make, pis, sgemm_gflops
from recorded_profile import recorded_profile

from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.plan import Plan
from mpitile.plan.recording import scaled
from mpitile.plan.simulation.simulate import simulate
from mpitile.train.recording import record
from mpitile.train.setup import Job

RANKS = 4
AFTER_POOLS = (2, 4, 8, 12)
PAIRS = tuple(range(0, 16, 2))
# To plan by: grid, batch, groups. None is a candidate's.
PROFILED = [
    (grid, batch, groups)
    for grid in ("1x3", "2x3", "2x1")
    for batch in (1, 3)
    for groups in (EACH, [0, 2, 4, 8, 12])
]
TILED = "tiling.filters=none"
# Of candidates: tiles alone, and with filter-parallel layers where the planner expects that to pay.
FILTERS = (TILED, "tiling.filters=auto")
RECOMPUTE = ("tiling.recompute=none", "tiling.recompute=all")
# Of what lies between the leanest candidate's bytes and the fastest one's.
CAPS = (None, 0.5, 0.15)
TARGET = 0.05
# Candidates that lose less than this in the first round are measured again.
NEAR = 0.15
# So many of them, under each cap, are measured in turns with the planned one.
FINALISTS = 3


@dataclass(frozen=True)
class Found:
    """A plan as it was measured.

    Attributes
    ----------
    size : bytes of the fullest device.
    """

    plan: Plan
    size: int
    seconds: float


class Measurements:
    """Of plans, in rounds."""

    def __init__(self, factor: float, cluster: Cluster) -> None:
        self._factor, self._cluster = factor, cluster
        self.jobs: dict[Plan, Job] = {}
        self._seconds: dict[Plan, list[float]] = {}

    def add(self, job: Job) -> None:
        """Measure this one, too."""
        self.jobs.setdefault(job.plan, job)

    def round(self, plans: Iterable[Plan]) -> None:
        """Measure these once."""
        for plan in plans:
            programs = scaled(record(self.jobs[plan], 1).programs, self._factor)
            seconds = simulate(programs, self._cluster, keep=False).seconds
            self._seconds.setdefault(plan, []).append(seconds)

    def turns(self, plans: Collection[Plan], count: int) -> dict[Plan, list[float]]:
        """What these take in so many more rounds."""
        for _ in range(count):
            self.round(plans)
        return {plan: self._seconds[plan][-count:] for plan in plans}

    def found(self) -> dict[Plan, Found]:
        """What each plan takes, at its fastest."""
        return {
            plan: Found(plan, device_bytes(job), min(self._seconds[plan]))
            for plan, job in self.jobs.items()
        }


def spread(devices: int, ranks: int) -> Cluster:
    """So many ranks over Pi 3s as they are estimated."""
    (first, *_), links = pis(1).devices, pis(1)
    return replace(links, devices=(replace(first, ranks=ranks // devices),) * devices)


def profiled(size: int) -> list[Job]:
    """What is recorded to plan by."""
    jobs = []
    for grid, batch, groups in PROFILED:
        rows, columns = map(int, grid.split("x"))
        layout = [f"tiling.groups={groups}", f"tiling.grid={grid}", TILED, RECOMPUTE[0]]
        jobs.append(make(batch, spread(1, rows * columns), layout, size))
    return jobs


def groupings() -> list[tuple[int, ...]]:
    """First layers of groups."""
    borders = [
        (0, *chosen)
        for count in range(len(AFTER_POOLS) + 1)
        for chosen in combinations(AFTER_POOLS, count)
    ]
    return [*borders, PAIRS, tuple(EACH)]


def candidates(batch: int, size: int, cluster: Cluster) -> list[Job]:
    """Every plan of the search."""
    jobs: dict[Plan, Job] = {}
    for replicas in (n for n in (1, 2, 4) if batch % n == 0):
        tiles = RANKS // replicas
        grids = [f"{rows}x{tiles // rows}" for rows in range(1, tiles + 1) if tiles % rows == 0]
        for grid, starts, *layers in product(grids, groupings(), FILTERS, RECOMPUTE):
            options = [f"tiling.replicas={replicas}", f"tiling.grid={grid}"]
            job = make(batch, cluster, [*options, f"tiling.groups={list(starts)}", *layers], size)
            jobs.setdefault(job.plan, job)
    return list(jobs.values())


def planner_options(limit: int | None) -> list[str]:
    """All left to the planner."""
    options = ["tiling.groups=auto", "tiling.replicas=auto"]
    return options + ([f"tiling.memory_limit={limit}B"] if limit else ["tiling.recompute=none"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, choices=(1, 2, 4), default=4)
    parser.add_argument("--size", type=int, default=608, help="of the square images (608)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest counts (3)")
    parser.add_argument("--turns", type=int, default=11, help="of the best and the planned (11)")
    parser.add_argument("--sgemm", type=float, default=5.4, help="GFLOP/s of a Pi 3's core (5.4)")
    parser.add_argument("--json", help="write everything measured to this file")
    options = parser.parse_args()
    factor = sgemm_gflops() / options.sgemm
    start = time.perf_counter()
    # In rounds, so that what disturbs this machine for a while does not decide about a grid.
    speed = recorded_profile(profiled(options.size) * options.rounds, 1).slowed(factor)
    estimated = spread(options.devices, RANKS)
    cluster = replace(estimated, devices=tuple(replace(d, speed=speed) for d in estimated.devices))
    measurements = Measurements(factor, cluster)
    for job in candidates(options.batch, options.size, cluster):
        measurements.add(job)
    count = len(measurements.jobs)
    print(f"{count} candidates, profiled in {time.perf_counter() - start:.0f} s", flush=True)
    searched = list(measurements.jobs)
    measurements.round(searched)
    first = measurements.found().values()
    leanest = min(found.size for found in first)
    widest = min(first, key=lambda found: found.seconds).size
    limits = [cap and int(leanest + cap * (widest - leanest)) for cap in CAPS]
    chosen = [make(options.batch, cluster, planner_options(n), options.size) for n in limits]
    again = dict.fromkeys(plan for limit in limits for plan in near(first, limit))
    for job in chosen:
        measurements.add(job)
        again[job.plan] = None
    # Each as often as the others.
    measurements.round({job.plan for job in chosen} - set(searched))
    for _ in range(options.rounds - 1):
        measurements.round(again)
    found = measurements.found()
    finalists = [best([found[plan] for plan in searched], limit) for limit in limits]
    finals = dict.fromkeys((*(job.plan for job in chosen), *chain(*finalists)))
    turns = measurements.turns(finals, options.turns)
    for limit, job, plans in zip(limits, chosen, finalists, strict=True):
        report(limit, found, job.plan, plans, turns)
    print(f"took {time.perf_counter() - start:.0f} s")
    if options.json:
        rows = [{**asdict(f), "plan": describe(f)} for f in measurements.found().values()]
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


def fitting(found: Collection[Found], limit: int | None) -> list[Found]:
    """Plans that fit, the fastest first."""
    small = (one for one in found if limit is None or one.size <= limit)
    return sorted(small, key=lambda one: one.seconds)


def near(found: Collection[Found], limit: int | None) -> list[Plan]:
    """Plans that fit and may yet turn out to be the best."""
    first, *others = fitting(found, limit)
    return [one.plan for one in (first, *others) if one.seconds < (1 + NEAR) * first.seconds]


def best(found: Collection[Found], limit: int | None) -> list[Plan]:
    """Plans that fit and came out best."""
    return [one.plan for one in fitting(found, limit)[:FINALISTS]]


def report(
    limit: int | None,
    found: dict[Plan, Found],
    chosen: Plan,
    finalists: list[Plan],
    turns: dict[Plan, list[float]],
) -> None:
    """Under a cap, the planner's choice against the best that were measured."""
    print("no cap" if limit is None else f"at most {limit / 1e6:.1f} MB")
    print(f"  planned   {median(turns[chosen]):7.3f} s  {describe(found[chosen])}")
    losses = []
    for plan in finalists:
        ratios = [own / other for own, other in zip(turns[chosen], turns[plan], strict=True)]
        losses.append(median(ratios) - 1)
        print(f"  measured  {median(turns[plan]):7.3f} s  {describe(found[plan])}")
        print(f"            planned loses {losses[-1]:+.1%}")
    print(f"  planned loses {max(losses):+.1%} (goal: at most {TARGET:.0%})")


def describe(one: Found) -> str:
    """A plan in a few words."""
    plan = one.plan
    groups = ",".join(map(str, plan.groups))
    again = [number for number, flag in enumerate(plan.recompute) if flag]
    text = f"{plan.replicas} x {plan.grid}, groups {groups}, {one.size / 1e6:.1f} MB a device"
    text += f", filter-parallel layers {list(plan.filters)}" if plan.filters else ""
    return text + (f", recomputing groups {again}" if again else "")


if __name__ == "__main__":
    main()
