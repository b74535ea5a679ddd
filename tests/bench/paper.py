"""The paper's experiment by recorded-run simulation: y16 on Pi 3s at 100 Mbit/s.

python tests/bench/paper.py [--devices 2,3,4,5,6] [--batches 1,2,4,8] [--rounds 3] [--size 608]
                            [--groupings "single;planned"] [--sgemm 5.4] [--profile FILE]
                            [--json FILE]

For 2 to 6 devices of 4 ranks and each batch: speedup over one core and bytes per device with
a single fused group, with every layer a group of its own, and with the planner's groups, also
where it may let teams share a batch, and with --groupings "at most 200MB" where a device may
take no more than that (recomputing what saves most). One core is the faster, and the smaller,
of both naive groupings on it.
Every rank's computing is measured on this machine (`mpitile record`: one rank at a time, CPU
time), multiplied by how much slower a Pi's core is, and put on the links of
jobs/clusters/pi3-100mbit.toml. Plans are made for the same cores and links: what layers take is
taken first from recordings of a few other grids and batches, and multiplied alike.

How much slower: the ratio of single-core sgemm rates, this machine's as measured now over
--sgemm GFLOP/s. 5.4 is a Cortex-A53 at the Pi 3's 1.2 GHz: OpenBLAS reaches 6.4 on one of a
RK3399's at 1.4 GHz for 1024 to 2048 rows (https://github.com/OpenMathLib/OpenBLAS/pull/2643),
and 56% of its peak of 8 operations a cycle here as there. What a Pi loses on memory beyond
that, four cores at a time, is not in it; speedups are of the same cores, one against many.

The paper (Rama, Threadgill, Gerstlauer, arXiv 2409.09083): 2x to 15x, up to 8x less memory.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from recorded_profile import recorded_profile
from shared import PARTS, PI3, ROOT, mean_shares, numbers, percentages

from mpitile.plan.clusters.cluster import Cluster, DeviceSpeed
from mpitile.plan.clusters.cluster_file import read_cluster, write_cluster
from mpitile.plan.plan import Plan
from mpitile.plan.recording import Program, scaled, total_seconds, typical_program
from mpitile.plan.search.request import first_ranks
from mpitile.plan.simulation.collectives import ALGORITHMS
from mpitile.plan.simulation.simulate import simulate
from mpitile.train.forecast import job_bytes
from mpitile.train.recording import record
from mpitile.train.settings import read_settings
from mpitile.train.setup import Job, make_job

RUN = ROOT / "jobs" / "y16.toml"
RANKS = 4
LAYERS = 16
EACH = list(range(LAYERS))
# What is recorded to plan by: devices, grid, batch, groups.
PROFILED = [
    (devices, grid, batch, groups)
    for devices, grid in ((6, "4x6"), (2, "2x4"))
    for batch in (1, 8)
    for groups in (EACH, [0, 2, 4, 8, 12])
]
PROFILED_STEPS = 1
TILED = ("tiling.recompute=none", "tiling.filters=none")
GROUPINGS = {
    "single": ["tiling.groups=[0]", *TILED],
    "every layer": [f"tiling.groups={EACH}", *TILED],
    "planned": ["tiling.groups=auto", *TILED],
    "planned, replicas": ["tiling.groups=auto", "tiling.replicas=auto", *TILED],
    "planned, all": ["tiling.groups=auto", "tiling.replicas=auto", "tiling.recompute=none"],
}
NAIVE = ("single", "every layer")
AT_MOST = "at most "


@dataclass(frozen=True)
class Row:
    """One simulated step, and the same batch on one core.

    `seconds` by algorithm of sums; `shares` of the mean rank's time with today's;
    bytes of the fullest device, and of the one rank.
    """

    batch: int
    devices: int
    grouping: str
    replicas: int
    grid: str
    groups: tuple[int, ...]
    alone: float
    seconds: dict[str, float]
    shares: dict[str, float]
    device_bytes: int
    alone_bytes: int


def sgemm_gflops(size=1024, repeats=9) -> float:
    """The best of some products on this core, by CPU time."""
    a, b = (np.random.default_rng(n).random((size, size), np.float32) for n in range(2))
    out = np.empty_like(a)
    best = np.inf
    for _ in range(repeats):
        start = time.thread_time()
        np.matmul(a, b, out=out)
        best = min(best, time.thread_time() - start)
    return 2e-9 * size**3 / best


def make(batch: int, cluster: Cluster, options: list[str], size: int) -> Job:
    """The job of a grouping on all of the cluster's ranks.

    Its memory is reported, not held to, where the options name no limit.
    """
    overrides = [f"train.batch={batch}", f"network.height={size}", f"network.width={size}"]
    settings = read_settings(RUN, [*overrides, "tiling.grid=auto", *options])
    limited = settings.tiling.memory_limit is not None
    return make_job(settings, cluster.ranks, cluster=cluster, limited=limited)


def grouping_options(name: str) -> list[str]:
    """The run file's keys of a grouping; "at most 200MB" plans within that much a device."""
    if name.startswith(AT_MOST):
        limit = name.removeprefix(AT_MOST)
        return ["tiling.groups=auto", "tiling.replicas=auto", f"tiling.memory_limit={limit}"]
    return GROUPINGS[name]


def pis(devices: int, speed: DeviceSpeed | None = None) -> Cluster:
    """So many Pi 3s, as estimated or with cores of this speed."""
    cluster = first_ranks(read_cluster(PI3), devices * RANKS)
    if speed is None:
        return cluster
    slow = tuple(replace(device, speed=speed) for device in cluster.devices)
    return replace(cluster, devices=slow)


def core(size: int) -> DeviceSpeed:
    """A core of this machine."""
    jobs = [
        make(batch, pis(devices), [f"tiling.groups={groups}", f"tiling.grid={grid}", *TILED], size)
        for devices, grid, batch, groups in PROFILED
    ]
    return recorded_profile(jobs, PROFILED_STEPS)


def known_core(options) -> DeviceSpeed:
    """As a file has it from an earlier run; measured, and written to it, where it is not there."""
    path = options.profile and Path(options.profile)
    if path and path.exists():
        return read_cluster(path).devices[0].speed
    speed = core(options.size)
    if path:
        write_cluster(
            pis(1, speed), path, "A core of this machine, as tests/bench/paper.py saw it."
        )
    return speed


class Recordings:
    """Of jobs in rounds, so that what disturbs this machine for a while disturbs all alike."""

    def __init__(self, rounds: int, factor: float) -> None:
        self._rounds, self._factor = rounds, factor
        self._known: dict[tuple[Plan, int], tuple[Program, ...]] = {}

    def take(self, jobs: list[Job]) -> None:
        """Record these, each of them once: one plan may have several names."""
        wanted = {(job.plan, job.batch): job for job in jobs}
        found = {key: [] for key in wanted if key not in self._known}
        for _ in range(self._rounds):
            for key, programs in found.items():
                programs.append(record(wanted[key], 1).programs)
        for key, programs in found.items():
            typical = tuple(map(typical_program, zip(*programs, strict=True)))
            self._known[key] = scaled(typical, self._factor)

    def programs(self, job: Job) -> tuple[Program, ...]:
        """What a job's ranks do on the slower cores."""
        return self._known[job.plan, job.batch]


def measure(job: Job, grouping: str, recordings: Recordings, alone: tuple[float, int]) -> Row:
    """Record a job's ranks and simulate them with each algorithm of sums."""
    cluster, devices = job.cluster, len(job.cluster.devices)
    programs = recordings.programs(job)
    lines = {name: simulate(programs, cluster, name, keep=False) for name in ALGORITHMS}
    return Row(
        job.batch,
        devices,
        grouping,
        job.plan.replicas,
        str(job.plan.grid),
        job.plan.groups,
        alone[0],
        {name: line.seconds for name, line in lines.items()},
        dict(zip(PARTS, mean_shares(lines["sliced"]), strict=True)),
        device_bytes(job),
        alone[1],
    )


def device_bytes(job: Job) -> int:
    """Of the fullest device."""
    totals = [sum(kinds.values()) for kinds in job_bytes(job)]
    cluster = job.cluster
    return max(
        sum(totals[rank] for rank in cluster.ranks_of(device))
        for device in range(len(cluster.devices))
    )


def one_core(batch: int, size: int, recordings: Recordings) -> tuple[float, int]:
    """Seconds and bytes of the whole batch on one core: the fewest of both naive groupings."""
    jobs = [make(batch, first_ranks(pis(1), 1), GROUPINGS[name], size) for name in NAIVE]
    recordings.take(jobs)
    seconds = [total_seconds(recordings.programs(job)[0]) for job in jobs]
    return min(seconds), min(sum(job_bytes(job)[0].values()) for job in jobs)


def say_grouping(rows: list[Row]) -> None:
    """Whether planned groups pay: against both naive groupings of the same batch and devices."""
    took = {row.grouping: row.seconds["sliced"] for row in rows}
    if not took.keys() >= set(NAIVE):
        return
    for name in [name for name in took if name not in NAIVE]:
        naive = [took[other] for other in NAIVE]
        print(
            f"{'':13}  {name}: {max(naive) / took[name]:.2f} times as fast as the slower of "
            f"{' and '.join(NAIVE)}, {min(naive) / took[name]:.3f} times as fast as the faster"
        )


def text(row: Row) -> str:
    """A line of the table."""
    speedups = "".join(f"{row.alone / row.seconds[name]:13.2f}" for name in ALGORITHMS)
    shares = percentages(list(row.shares.values()))
    return (
        f"{row.batch:5}{row.devices:8}  {row.grouping:21}{row.replicas} x {row.grid:4}{speedups}"
        f"{row.device_bytes / 1e6:9.0f}{row.alone_bytes / row.device_bytes:8.1f}   {shares}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=numbers, default=[2, 3, 4, 5, 6])
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--groupings", default="single;every layer;planned;planned, replicas")
    parser.add_argument("--rounds", type=int, default=3, help="of recordings, medians count (3)")
    parser.add_argument("--size", type=int, default=608, help="of the square images (608)")
    parser.add_argument("--sgemm", type=float, default=5.4, help="GFLOP/s of a Pi 3's core (5.4)")
    parser.add_argument("--profile", help="file to take a core's profile from, or to write it to")
    parser.add_argument("--json", help="write the rows to this file")
    options = parser.parse_args()
    here = sgemm_gflops()
    factor = here / options.sgemm
    print(f"sgemm {here:.1f} GFLOP/s here, {options.sgemm} on a Pi 3's core: factor {factor:.1f}")
    start = time.perf_counter()
    speed = known_core(options).slowed(factor)
    print(f"profiled what layers take in {time.perf_counter() - start:.0f} s")
    heads = "".join(f"{name:>13}" for name in ALGORITHMS)
    print(f"{'batch':>5}{'devices':>8}  {'groups':21}{'grid':8}{heads}{'MB':>9}{'less':>8}"
          "   % computing, halos, sums, waiting")  # fmt: skip
    print(f"{'':42}{'speedup over one core, by algorithm of sums':>{len(heads)}}"
          f"{'per device':>17}")  # fmt: skip
    recordings = Recordings(options.rounds, factor)
    rows = []
    for batch in options.batches:
        alone = one_core(batch, options.size, recordings)
        for devices in options.devices:
            jobs = {
                name: make(batch, pis(devices, speed), grouping_options(name), options.size)
                for name in options.groupings.split(";")
            }
            recordings.take(list(jobs.values()))
            own = [measure(job, name, recordings, alone) for name, job in jobs.items()]
            for row in own:
                print(text(row), flush=True)
            say_grouping(own)
            rows += own
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
