"""CPU seconds that planning takes, for YOLOv2 on 24 ranks and others.

python tests/bench/planning.py
"""

import time
from dataclasses import replace
from pathlib import Path

from mpitile.layers.registry import workspace_elements
from mpitile.network.cfg import read_network
from mpitile.network.parameters import parameter_specs
from mpitile.plan.bytes import Demand
from mpitile.plan.cluster_file import read_cluster
from mpitile.plan.planner import Planner
from mpitile.plan.request import Request, without_limits

JOBS = Path(__file__).parents[2] / "jobs"
SHARES = (None, 0.95, 0.85)


def main():
    cluster = without_limits(read_cluster(JOBS / "clusters" / "pi3-100mbit.toml"))
    print("network      images  replicas  cap of free plan  CPU s    chosen")
    for name, images in (("yolov2", 8), ("yolov2", 64), ("y16", 8), ("resnet18", 32)):
        network = read_network(JOBS / "cfg" / f"{name}.cfg")
        demand = Demand(images, kernel_elements=workspace_elements(parameter_specs(network)))
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
                    text += f", {sum(plan.recompute)} recomputed"
                print(
                    f"{name:12} {images:6}  {replicas:>8}  {share or 'none':>16}  "
                    f"{seconds:7.2f}  {text}"
                )


if __name__ == "__main__":
    main()
