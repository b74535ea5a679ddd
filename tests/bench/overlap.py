"""What overlap hides: halos and sums that ranks wait for, as a share of the step, on and off.

    python tests/bench/overlap.py [--batches 4,8] [--live "2x1;6x4"] [--simulated 6] [--size 608]
                                  [--steps 5] [--sgemm 5.4] [--network yolov2]

y16, or another network of jobs/, on Pi 3s at 100 Mbit/s, as planned for them. Live: real MPI over
real TCP between emulated devices (as root; see jobs/emulate.py), of cores as much slower than
this machine's as links are slowed down with them. Simulated: each rank's computing recorded one
by one on this machine and put on the Pis of jobs/clusters/pi3-100mbit.toml (see
tests/bench/paper.py), both ways from one recording. Live shares are those of the rank that waits
longest, for ranks that come late as well; simulated ones the mean rank's, without such waits.
"polled": no thread moves messages, but each rank itself between two parts of its work.
"""

import argparse
import json
import os
import sys
from statistics import median

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from shared import PI3, ROOT, emulated, numbers

WAYS = {"off": "false", "on": "true", "polled": "true"}


def job_of(network: str, batch: int, ranks: int, overlap: str, size: int):
    """The planned job on so many ranks of Pis; its memory is not held to theirs."""
    from mpitile.plan.clusters.cluster_file import read_cluster
    from mpitile.plan.search.request import first_ranks
    from mpitile.train.settings import read_settings
    from mpitile.train.setup import make_job

    settings = read_settings(
        ROOT / "jobs" / f"{network}.toml",
        [
            f"train.batch={batch}",
            "train.subdivisions=1",
            f"train.overlap={WAYS[overlap]}",
            f"network.height={size}",
            f"network.width={size}",
            "tiling.grid=auto",
            "tiling.groups=auto",
            "tiling.replicas=auto",
            "tiling.recompute=none",
        ],
    )
    cluster = first_ranks(read_cluster(PI3), ranks)
    return make_job(settings, ranks, cluster=cluster, limited=False), cluster


def rank_steps(network: str, batch: str, size: str, steps: str) -> None:
    """On each rank: steps with and without overlap; rank 0 prints the medians."""
    from mpitile.comm.mpi import MPI, MpiCommunicator
    from mpitile.comm.topology import make_topology
    from mpitile.train.recording import RandomFeeder
    from mpitile.train.trainer import Trainer

    world = MpiCommunicator(MPI.COMM_WORLD)
    found = {}
    for way in WAYS:
        # Both take the same plan: what differs is overlap alone.
        job, _ = job_of(network, int(batch), world.size, way, int(size))
        world.threaded = way != "polled"
        topology = make_topology(world, job.plan)
        trainer = Trainer(job, topology)
        feeder = RandomFeeder(job, topology, trainer.program.values[0])
        metrics = [trainer.step(feeder)[0] for _ in range(1 + int(steps))][1:]
        found[way] = {
            name: median(getattr(step, name) for step in metrics)
            for name in ("seconds", "halo_s", "reduce_s")
        }
        found[way]["plan"] = f"{job.plan.replicas} x {job.plan.grid} {list(job.plan.groups)}"
        trainer.close()
    if world.rank == 0:
        print(json.dumps(found))


def live(place: str, batch: int, options, factor: float) -> None:
    """One emulated cluster."""
    devices, ranks = map(int, place.split("x"))
    sizes = [str(number) for number in (batch, options.size, options.steps)]
    role = [__file__, "--rank", options.network, *sizes]
    out, report = emulated(role, devices, ranks, "100mbit", round(1 / factor, 4), timeout=1800)
    found = json.loads(out.splitlines()[-1])
    for way, step in found.items():
        print_row("live", place, batch, way, step, report["device_seconds_per_second"])


def simulated(devices: int, batch: int, options, factor: float) -> None:
    """One recording, played on the Pis both ways."""
    from mpitile.plan.recording import behind, scaled
    from mpitile.plan.simulation.simulate import simulate
    from mpitile.train.recording import record

    job, cluster = job_of(options.network, batch, 4 * devices, "on", options.size)
    beside = scaled(record(job, 3).programs, factor)
    for way, programs in (("off", tuple(map(behind, beside))), ("on", beside)):
        line = simulate(programs, cluster, keep=False)
        count = len(line.ranks)
        step = {
            "seconds": line.seconds,
            "halo_s": sum(rank.halo_s for rank in line.ranks) / count,
            "reduce_s": sum(rank.reduce_s for rank in line.ranks) / count,
            "plan": f"{job.plan.replicas} x {job.plan.grid} {list(job.plan.groups)}",
        }
        print_row("simulated", f"{devices}x4", batch, way, step, 1.0)


def print_row(kind: str, place: str, batch: int, way: str, step: dict, pace: float) -> None:
    shares = [100 * step[name] / step["seconds"] for name in ("halo_s", "reduce_s")]
    print(
        f"{kind:10}{place:>6}{batch:6}  {way:8}{pace * step['seconds']:7.2f} s"
        f"{shares[0]:8.1f}%{shares[1]:8.1f}%{sum(shares):8.1f}%  {step['plan']}",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["--rank"]:
        rank_steps(*sys.argv[2:])
        return
    from paper import sgemm_gflops

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=numbers, default=[4, 8])
    parser.add_argument("--live", default="2x1;6x4", help="devices x ranks (2x1;6x4)")
    parser.add_argument("--simulated", type=numbers, default=[6], help="devices of 4 ranks (6)")
    parser.add_argument("--size", type=int, default=608, help="of the square images (608)")
    parser.add_argument("--network", default="y16", help="a run file of jobs/ (y16)")
    parser.add_argument("--steps", type=int, default=5, help="live steps of each way (5)")
    parser.add_argument("--sgemm", type=float, default=5.4, help="GFLOP/s of a Pi 3's core (5.4)")
    options = parser.parse_args()
    own = sgemm_gflops()
    factor = own / options.sgemm
    print(f"sgemm {own:.1f} GFLOP/s here, {options.sgemm} on a Pi 3's core: factor {factor:.1f}")
    print(f"{'':10}{'ranks':>6}{'batch':>6}  {'overlap':8}{'step':>9}{'halos':>9}{'sums':>9}"
          f"{'both':>9}  plan")  # fmt: skip
    for batch in options.batches:
        for devices in options.simulated:
            simulated(devices, batch, options, factor)
        for place in options.live.split(";"):
            if place:
                live(place, batch, options, factor)


if __name__ == "__main__":
    main()
