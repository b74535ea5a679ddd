"""Simulated against measured steps on the emulated cluster, at three link rates.

    python tests/bench/live.py [--devices 2,4,6] [--ranks 1] [--rates 50mbit,100mbit,200mbit]
                               [--core-speed 0.25] [--size 608] [--batch 4] [--steps 5]
                               [--json FILE]                                       (as root)

Each measured run is one of real ranks over real TCP (jobs/emulate.py): training steps of y16 on
random images, of which the median counts, and then the links as `mpitile profile` measures them.
"Simulated" is the same job recorded in this process, one rank at a time by CPU time, and put on
these links; "predicted" is what the cost model says of it from a profile of other batches.
Two devices of one rank have a core each here, at full speed; more share the cores by quotas, and
what is measured is then multiplied by the pace that emulate.py says. Their emulated cores are a
quarter as fast as this machine's, so that a second of theirs takes about a second here: what
latency MPI and the system add to messages is then as it is. Other programs on the machine disturb
the measured runs, and the quotas most: the fastest step of each is printed beside the median.
"""

import argparse
import json
import os
import socket
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from shared import ROOT, emulated, mean_shares, numbers, percentages

from mpitile.plan.clusters.cluster import Cluster, Device, DeviceSpeed, Link
from mpitile.plan.recording import scaled
from mpitile.plan.simulation.intervals import Timeline
from mpitile.plan.simulation.simulate import simulate
from mpitile.train.forecast import job_seconds
from mpitile.train.recording import record
from mpitile.train.settings import read_settings
from mpitile.train.setup import Job, make_job

RUN = ROOT / "jobs" / "y16.toml"
GRIDS = {2: "1x2", 4: "2x2", 6: "2x3", 8: "2x4", 16: "4x4", 24: "4x6"}
GROUPINGS = {"by resolution": [0, 2, 4, 8, 12], "every layer": list(range(16))}
TARGET = 0.08
WARM_UP = 1
PROFILE_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """Steps to take on so many devices."""

    devices: int
    ranks: int
    rate: str
    grouping: str
    size: int
    batch: int
    steps: int
    core_speed: float

    def job(self) -> Job:
        """The same in every process."""
        ranks = self.devices * self.ranks
        overrides = [
            f"train.batch={self.batch}",
            f"network.height={self.size}",
            f"network.width={self.size}",
            f"tiling.grid={GRIDS[ranks]}",
            f"tiling.groups={GROUPINGS[self.grouping]}",
            "tiling.recompute=none",
        ]
        return make_job(read_settings(RUN, overrides), ranks)


def measure(run: Run) -> None:
    """Under mpirun: rank 0 prints the slowest rank's seconds of each step, and the links."""
    from mpitile.comm.mpi import MPI, MpiCommunicator
    from mpitile.comm.pingpong import measure_links
    from mpitile.comm.topology import make_topology
    from mpitile.train.profiling import host_ranks
    from mpitile.train.recording import RandomFeeder
    from mpitile.train.trainer import Trainer

    world = MpiCommunicator(MPI.COMM_WORLD)
    job = run.job()
    topology = make_topology(world, job.plan)
    trainer = Trainer(job, topology)
    feeder = RandomFeeder(job, topology, trainer.program.values[0])
    seconds = []
    for _ in range(WARM_UP + run.steps):
        metrics, _ = trainer.step(feeder)
        seconds.append(metrics.seconds)
    trainer.close()
    inside, between, _ = measure_links(world, host_ranks(world.allgather(socket.gethostname())))
    if world.rank == 0:
        links = [[link.latency, link.bandwidth] for link in (inside, between)]
        print(json.dumps({"seconds": seconds[WARM_UP:], "links": links}))


def measured(run: Run) -> tuple[list[float], tuple[Link, Link]]:
    """Device seconds of each step, and the links by device seconds."""
    role = [__file__, "--inside", json.dumps(asdict(run))]
    out, report = emulated(role, run.devices, run.ranks, run.rate, run.core_speed)
    pace, found = report["device_seconds_per_second"], json.loads(out.splitlines()[-1])
    inside, between = (Link(pace * wait, rate / pace) for wait, rate in found["links"])
    return [pace * seconds for seconds in found["seconds"]], (inside, between)


def foreseen(run: Run, links: tuple[Link, Link], speed: DeviceSpeed) -> tuple[Timeline, float]:
    """On these links, the timeline of the recorded job, and the cost model's seconds."""
    device = Device("emulated", run.ranks, None, speed.slowed(1 / run.core_speed))
    cluster = Cluster((device,) * run.devices, *links)
    job = replace(run.job(), cluster=cluster)
    programs = scaled(record(job, run.steps).programs, 1 / run.core_speed)
    return simulate(programs, cluster, keep=False), job_seconds(job).step_seconds


def compare(runs: list[Run]) -> list[dict]:
    """Measure, simulate, and print both."""
    from recorded_profile import core_rates

    speed = core_rates(runs[0].job().network, PROFILE_SECONDS)
    print(f"{'devices':>7}{'ranks':>6}{'rate':>9}  {'groups':14}{'measured':>10}{'fastest':>10}"
          f"{'simulated':>11}{'error':>8}{'predicted':>11}{'error':>8}"
          "   % computing, halos, sums, waiting; link")  # fmt: skip
    rows = []
    for run in runs:
        steps, links = measured(run)
        seconds = statistics.median(steps)
        line, predicted = foreseen(run, links, speed)
        text = percentages(mean_shares(line))
        link = f"{links[1].latency * 1e6:.0f} us, {links[1].bandwidth / 1e6:.3g} MB/s"
        print(
            f"{run.devices:7}{run.ranks:6}{run.rate:>9}  {run.grouping:14}{seconds:8.3f} s"
            f"{min(steps):8.3f} s{line.seconds:9.3f} s{line.seconds / seconds - 1:+8.1%}"
            f"{predicted:9.3f} s{predicted / seconds - 1:+8.1%}   {text}   {link}",
            flush=True,
        )
        found = {"measured": seconds, "fastest": min(steps)}
        found |= {"simulated": line.seconds, "predicted": predicted}
        rows.append({**asdict(run), **found})
    for way in ("simulated", "predicted"):
        errors = [abs(row[way] / row["measured"] - 1) for row in rows]
        print(
            f"{way}: mean error {statistics.mean(errors):.1%}, worst {max(errors):.1%} of "
            f"{len(errors)} runs (goal: mean {TARGET:.0%})"
        )
    return rows


def core_speed(options: argparse.Namespace, devices: int) -> float:
    """Of emulated cores: this machine's own where there is one for each rank."""
    return 1.0 if devices * options.ranks <= (os.cpu_count() or 1) else options.core_speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=numbers, default=[2, 4, 6])
    parser.add_argument("--ranks", type=int, default=1, help="of each device (1)")
    parser.add_argument("--rates", default="50mbit,100mbit,200mbit")
    parser.add_argument(
        "--core-speed",
        type=float,
        default=0.25,
        help="of emulated cores, where ranks have none to themselves (0.25)",
    )
    parser.add_argument("--groupings", default=";".join(GROUPINGS))
    parser.add_argument("--size", type=int, default=608, help="of the square images (608)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="of each run, after one more (5)")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        measure(Run(**json.loads(options.inside)))
        return
    sizes = (options.size, options.batch, options.steps)
    runs = [
        Run(devices, options.ranks, rate, grouping, *sizes, core_speed(options, devices))
        for devices in options.devices
        for rate in options.rates.split(",")
        for grouping in options.groupings.split(";")
    ]
    rows = compare(runs)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
