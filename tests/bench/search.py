"""The planner's choice against the best of a measured search: y16 on 4 ranks, three memory caps.

    python tests/bench/search.py [--devices 4] [--size 608] [--batch 2] [--rounds 3] [--json FILE]

Candidates are all grids and numbers of teams, with every choice of group borders among the
layers that follow a pool, every layer on its own, and layers in pairs, storing or recomputing
inner activations, tiled throughout or with filter-parallel layers: with --devices 4 and batch 2
that is 194 plans. Each is recorded (one rank
at a time in this process, CPU time), its seconds multiplied as tests/bench/paper.py does, and
simulated on the links of Pi 3s, 4 ranks over --devices of them. Computing is measured, messages
are not. Those near the best, and the planner's own plans, are measured in further rounds, of
which the fastest counts. What layers take it knows from recordings of other grids and batches.

The caps are bytes a device: none, and two between what the fastest candidate takes and what the
leanest does.
"""

import argparse
import json
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path

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

    def found(self) -> dict[Plan, Found]:
        """What each plan takes."""
        return {
            plan: Found(plan, device_bytes(job), min(self._seconds[plan]))
            for plan, job in self.jobs.items()
        }


def spread(devices: int, ranks: int) -> Cluster:
    """So many ranks over Pi 3s as they are estimated."""
    (first, *_), links = pis(1).devices, pis(1)
    return replace(links, devices=(replace(first, ranks=ranks // devices),) * devices)


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
    parser.add_argument("--sgemm", type=float, default=5.4, help="GFLOP/s of a Pi 3's core (5.4)")
    parser.add_argument("--json", help="write everything measured to this file")
    options = parser.parse_args()
    factor = sgemm_gflops() / options.sgemm
    start = time.perf_counter()
    profiled = []
    for grid, batch, groups in PROFILED:
        rows, columns = map(int, grid.split("x"))
        machine = spread(1, rows * columns)
        layout = [f"tiling.groups={groups}", f"tiling.grid={grid}", TILED, RECOMPUTE[0]]
        profiled.append(make(batch, machine, layout, options.size))
    # In rounds, so that what disturbs this machine for a while does not decide about a grid.
    speed = recorded_profile(profiled * options.rounds, 1).slowed(factor)
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
    report(measurements.found(), searched, limits, [job.plan for job in chosen])
    print(f"took {time.perf_counter() - start:.0f} s")
    if options.json:
        rows = [{**asdict(f), "plan": describe(f)} for f in measurements.found().values()]
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


def near(found: Collection[Found], limit: int | None) -> list[Plan]:
    """Plans that fit and may yet turn out to be the best."""
    fitting = [one for one in found if limit is None or one.size <= limit]
    least = min(one.seconds for one in fitting)
    return [one.plan for one in fitting if one.seconds < (1 + NEAR) * least]


def report(
    found: dict[Plan, Found], searched: list[Plan], limits: list[int | None], chosen: list[Plan]
) -> None:
    """For each cap, the best that was measured and the planner's."""
    for limit, plan in zip(limits, chosen, strict=True):
        fitting = [found[p] for p in searched if limit is None or found[p].size <= limit]
        best = min(fitting, key=lambda one: one.seconds)
        lost = found[plan].seconds / best.seconds - 1
        cap = "no cap" if limit is None else f"at most {limit / 1e6:.1f} MB"
        print(f"{cap}: {len(fitting)} candidates fit")
        print(f"  best measured  {best.seconds:7.3f} s  {describe(best)}")
        print(f"  planned        {found[plan].seconds:7.3f} s  {describe(found[plan])}")
        print(f"  planned loses {lost:+.1%} (goal: at most {TARGET:.0%})")


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
