"""The paper's experiment, live: y16 trained on emulated Pi 3s at 100 Mbit/s. Wants root.

    python tests/bench/paper_live.py [--devices 2,4,6] [--batches 1,8] [--steps 4] [--size 608]
                                     [--groupings "single;every layer;planned, replicas"]
                                     [--sgemm 5.4] [--profile FILE]

Real training runs of `mpitile train` under mpirun, over real TCP between devices of 4 ranks
(jobs/emulate.py). Cores are made as slow as tests/bench/paper.py says that a Pi's are, which also
makes the plans; what one core takes is measured at this machine's full speed, and counted as
slow. Seconds of the fastest step but the first; memory is what processes grow by beyond
interpreter and libraries, shared pages counted once. The simulated step beside it is of planned
programs, not of recorded ones. Where all the devices' ranks share few cores, their caches are
shared, too: computing takes longer than on cores of their own.
"""

import argparse
import tempfile
from pathlib import Path

from live_run import Where, held_to, train, train_alone
from memory import Case, draw_data
from paper import GROUPINGS, NAIVE, RANKS, grouping_options, known_core, make, pis, sgemm_gflops
from shared import numbers

from mpitile.plan.costs.cost import Cost
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.search.request import first_ranks
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate

RATE = "100mbit"


def simulated(job) -> float:
    """Seconds of a step by the cost model's programs."""
    cost = Cost(job.network, job.cluster)
    programs = step_programs(Partition(job.network, job.plan), cost, StepSize(job.batch))
    return simulate(programs, job.cluster, keep=False).seconds


def plan_keys(plan: Plan) -> dict:
    """As `mpitile plan --json` prints them."""
    lists = {key: list(getattr(plan, key)) for key in ("groups", "filters", "recompute")}
    return {"grid": str(plan.grid), "replicas": plan.replicas, **lists}


def one_core(batch: int, options, out: Path, core_speed: float) -> tuple[float, float]:
    """Seconds and megabytes of a step: the fewest of both naive groupings."""
    found = []
    for name in NAIVE:
        job = make(batch, first_ranks(pis(1), 1), GROUPINGS[name], options.size)
        case = Case("y16", options.size, batch, 1, {"train.steps": options.steps}, f"one {name}")
        found.append(train_alone(held_to(case, plan_keys(job.plan)), out, core_speed))
    return min(one.seconds for one in found), min(one.megabytes for one in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=numbers, default=[2, 4, 6])
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--groupings", default="single;every layer;planned, replicas")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=608, help="of the square images (608)")
    parser.add_argument("--sgemm", type=float, default=5.4, help="GFLOP/s of a Pi 3's core (5.4)")
    parser.add_argument("--profile", help="file to take a core's profile from, or to write it to")
    options = parser.parse_args()
    factor = sgemm_gflops() / options.sgemm
    speed = known_core(options).slowed(factor)
    print(f"a Pi's core is {factor:.1f} times as slow as this machine's")
    print("batch devices  groups              replicas x grid    step s  simulated  speed-up"
          "  % computing, halos, sums     MB a device  less")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder).resolve()
        draw_data(out / "data")
        for batch in options.batches:
            alone, alone_mb = one_core(batch, options, out, 1 / factor)
            print(f"{batch:5}       1 core {alone:38.2f} {'':52} {alone_mb:8.0f}", flush=True)
            for devices in options.devices:
                where = Where(devices, RANKS, RATE, round(1 / factor, 4))
                for name in options.groupings.split(";"):
                    job = make(batch, pis(devices, speed), grouping_options(name), options.size)
                    settings = {"train.steps": options.steps}
                    case = Case("y16", options.size, batch, devices * RANKS, settings, name)
                    found = train(held_to(case, plan_keys(job.plan)), out, where)
                    shares = (found.compute, found.halo, found.reduce)
                    spent = " ".join(f"{100 * part / found.seconds:3.0f}" for part in shares)
                    place = f"{job.plan.replicas} x {job.plan.grid}"
                    print(
                        f"{batch:5} {devices:7}  {name:20}{place:16} {found.seconds:8.2f} "
                        f"{simulated(job):10.2f} {alone / found.seconds:9.1f}  {spent} {'':13}"
                        f"{found.megabytes:10.0f} {alone_mb / found.megabytes:6.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
