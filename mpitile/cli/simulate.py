"""``mpitile simulate``: the timeline of a step on a cluster that need not be there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import inf, isfinite

from mpitile.cli.options import add_override
from mpitile.cli.world import World
from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.clusters.wires import EAGER_BYTES
from mpitile.plan.costs.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.plan import check_ranks
from mpitile.plan.recording import Program, scaled
from mpitile.plan.search.request import first_ranks
from mpitile.plan.simulation.collectives import ALGORITHMS
from mpitile.plan.simulation.intervals import RankTotals, Timeline
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.recording_file import read_recording
from mpitile.plan.simulation.simulate import simulate
from mpitile.report.trace import write_trace
from mpitile.train.forecast import job_bytes
from mpitile.train.planning import ITEMSIZES, plan_keys, rank_keys, totals
from mpitile.train.recording import recorded_job
from mpitile.train.settings import read_settings
from mpitile.train.setup import Job, make_job

EXAMPLE = "mpitile simulate jobs/y16.toml --cluster jobs/clusters/pi3-100mbit.toml --trace y16.json"
_PARTS = ("compute_s", "halo_s", "reduce_s", "wait_s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN.toml", help="the run file; no images are read")
    parser.add_argument("--cluster", required=True, metavar="FILE", help="devices and links")
    parser.add_argument("--ranks", type=int, metavar="N", help="the cluster's first N ranks (all)")
    parser.add_argument(
        "--recording",
        metavar="FILE",
        help="take what ranks do, and their seconds, from mpitile record or train's output.trace",
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="all computing takes this many times as long (1), such as on a slower core than "
        "the recording's",
    )
    parser.add_argument(
        "--sums",
        choices=sorted(ALGORITHMS),
        default="sliced",
        help="how the sum of gradients travels (sliced, as mpitile does it)",
    )
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="as if large messages travelled while ranks compute; MPI moves them in waits",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--trace", metavar="OUT.json", help="a timeline for Chrome or Perfetto")
    add_override(parser)


def run(options: argparse.Namespace, world: World) -> None:
    world.alone("simulate")
    if not (options.speed > 0 and isfinite(options.speed)):
        raise InputError(f"--speed {options.speed}: expected a positive number")
    cluster = read_cluster(options.cluster)
    recording = read_recording(options.recording) if options.recording else None
    ranks = options.ranks
    if ranks is None:
        ranks = recording.ranks if recording else cluster.ranks
    if recording and ranks != recording.ranks:
        raise InputError(f"--ranks {ranks}, but {options.recording} has {recording.ranks}")
    cluster = _first_ranks(options, cluster, ranks)
    settings = read_settings(options.run, options.set)
    job = make_job(settings, ranks, cluster=cluster, limited=recording is None)
    if recording:
        job = recorded_job(job, recording, options.recording)
    check_ranks(job.plan, ranks)
    programs = recording.programs if recording else _predicted(job, cluster)
    timeline = simulate(
        scaled(programs, options.speed),
        cluster,
        options.sums,
        inf if options.overlap else EAGER_BYTES,
        keep=options.trace is not None,
    )
    if options.trace:
        write_trace(options.trace, _devices(cluster), timeline.intervals, timeline.transits)
    if options.json:
        sys.stdout.write(json.dumps(_report(job, cluster, timeline)) + "\n")
    else:
        _print(job, cluster, timeline)


def _first_ranks(options: argparse.Namespace, cluster: Cluster, ranks: int) -> Cluster:
    if not 1 <= ranks <= cluster.ranks:
        asked = (
            f"--ranks {ranks}"
            if options.ranks is not None
            else f"{options.recording}: {ranks} ranks"
        )
        raise InputError(f"{asked}, but {options.cluster} has {cluster.ranks}")
    return first_ranks(cluster, ranks)


def _devices(cluster: Cluster) -> list[str]:
    """By rank; several devices may have one name."""
    places = map(cluster.device_of, range(cluster.ranks))
    return [f"{place} {cluster.devices[place].name}" for place in places]


def _predicted(job: Job, cluster: Cluster) -> tuple[Program, ...]:
    size = StepSize(job.pass_images, job.subdivisions, job.optimizer, job.settings.train.overlap)
    cost = Cost(job.network, cluster, ITEMSIZES[job.settings.train.dtype])
    return step_programs(Partition(job.network, job.plan), cost, size)


def _report(job: Job, cluster: Cluster, timeline: Timeline) -> dict[str, object]:
    """As ``mpitile plan --json`` has it, with the simulated seconds and the timeline's totals."""
    return {
        **plan_keys(job.plan),
        "step_seconds": timeline.seconds,
        "ranks": [
            {
                **rank_keys(job.plan, rank),
                "device": cluster.device_of(rank),
                "bytes": kinds,
                "total_bytes": sum(kinds.values()),
            }
            for rank, kinds in enumerate(job_bytes(job))
        ],
        "timeline": [asdict(rank) for rank in timeline.ranks],
    }


def _print(job: Job, cluster: Cluster, timeline: Timeline) -> None:
    plan, ranks = job.plan, timeline.ranks
    busiest = max(range(len(ranks)), key=lambda rank: ranks[rank].compute_s)
    sys.stdout.write(
        f"{job.network.name} at {job.network.shape(0)}, batch {job.batch}: {len(ranks)} ranks on "
        f"{len(cluster.devices)} device(s), grid {plan.grid}, replicas {plan.replicas}, groups "
        f"{','.join(map(str, plan.groups))}\n"
        f"step {timeline.seconds:.4g} s, {job.batch / timeline.seconds:.4g} images/s\n"
        f"{'seconds of':16}{'computing':>11}{'halos':>11}{'sums':>11}{'waiting':>11}\n"
        f"{'the mean rank':16}{_row(ranks)}\n"
        f"{f'rank {busiest}':16}{_row([ranks[busiest]])} (most computing)\n"
        f"{_most(cluster, [rank.sent for rank in ranks]) / 1e6:.4g} MB are sent by the ranks of "
        "the busiest device\n"
        f"{_most(cluster, totals(job_bytes(job))) / 1e6:.4g} MB of memory on the fullest device\n"
    )


def _row(ranks: Sequence[RankTotals]) -> str:
    means = (sum(getattr(rank, part) for rank in ranks) / len(ranks) for part in _PARTS)
    return "".join(f"{mean:11.4g}" for mean in means)


def _most(cluster: Cluster, sizes: Sequence[int]) -> int:
    """The largest sum over the ranks of a device."""
    return max(
        sum(sizes[rank] for rank in cluster.ranks_of(device))
        for device in range(len(cluster.devices))
    )
