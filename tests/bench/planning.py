"""CPU seconds that planning takes, and what it gains by dividing layers by their filters.

python tests/bench/planning.py [--switch]

Without the option: planning YOLOv2 on 24 ranks, and others. With it: YOLOv2 at 416x416, batch 4,
on six Pi 3s of four ranks at 100 Mbit/s, tiled throughout and as planned, without a limit and
within 400 MB a device; seconds of a step by the planner's closed form and simulated.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from mpitile.network.cfg import read_network
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.partition import Partition
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request, without_limits
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.train.planning import network_demand

JOBS = Path(__file__).parents[2] / "jobs"
SHARES = (None, 0.95, 0.85, 0.7, 0.5)


LIMIT = 400_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--switch", action="store_true", help="what filter-parallel layers gain")
    (switch if parser.parse_args().switch else planning)()


def switch():
    cluster = without_limits(read_cluster(JOBS / "clusters" / "pi3-100mbit.toml"))
    network = read_network(JOBS / "cfg" / "yolov2.cfg")
    demand = network_demand(4, "float32", "sgd")
    print("filters  limit MB  MB a device  predicted s  simulated s  filter-parallel layers")
    for filters, limit in (("none", None), ("auto", None), ("auto", LIMIT)):
        request = Request(
            network, cluster, cluster.ranks, demand, filters=filters, memory_limit=limit
        )
        planner = Planner(request)
        chosen = planner.best()
        partition = Partition(network, chosen.plan)
        programs = step_programs(partition, planner.cost, StepSize(demand.images))
        print(
            f"{filters:7}  {limit / 1e6 if limit else 'none':>8}  {max(chosen.devices) / 1e6:11.1f}"
            f"  {planner.predict(chosen.plan).step_seconds:11.2f}"
            f"  {simulate(programs, cluster, keep=False).seconds:11.2f}"
            f"  {' '.join(map(str, chosen.plan.filters)) or 'none'}"
        )


def planning():
    cluster = without_limits(read_cluster(JOBS / "clusters" / "pi3-100mbit.toml"))
    print("network      images  replicas  cap of free plan  CPU s    chosen")
    for name, images in (("yolov2", 8), ("yolov2", 64), ("y16", 8), ("resnet18", 32)):
        network = read_network(JOBS / "cfg" / f"{name}.cfg")
        demand = network_demand(images, "float32", "sgd")
        for replicas in (1, "auto"):
            request = Request(network, cluster, cluster.ranks, demand, replicas=replicas)
            largest = max(Planner(request).best().devices)
            for share in SHARES:
                limit = None if share is None else int(share * largest)
                start = time.process_time()
                chosen = Planner(replace(request, memory_limit=limit)).best()
                seconds = time.process_time() - start
                text = "nothing fits"
                if chosen:
                    plan = chosen.plan
                    text = f"{plan.replicas} x {plan.grid}, {len(plan.groups)} groups"
                    text += f", {sum(plan.recompute)} recomputed, {len(plan.filters)} by filters"
                print(
                    f"{name:12} {images:6}  {replicas:>8}  {share or 'none':>16}  "
                    f"{seconds:7.2f}  {text}"
                )


if __name__ == "__main__":
    main()
