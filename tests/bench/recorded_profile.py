"""What a core of this machine takes for a network's layers, as recordings of many ranks see it.

`mpitile profile` times a tile again and again, and what it works on stays in the processor's
caches where these are large: right for ranks that do the same. In a recording all ranks of a
cluster take turns in one process, and each finds its values in memory, as the ranks of a small
board always do. Plans for simulations of recordings are made from the latter.
"""

from collections import defaultdict
from dataclasses import replace

from mpitile.comm.local import LocalCommunicator, run_ranks
from mpitile.network.merging import merged_pools
from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import OPERATIONS, Cluster, DeviceSpeed, Point
from mpitile.plan.costs.layer_class import box_class, loss_class
from mpitile.plan.partition import Partition
from mpitile.plan.recording import Compute, Program
from mpitile.train.device_speed import Points, merged
from mpitile.train.profiling import profile
from mpitile.train.recording import record
from mpitile.train.setup import Job

# Of the rates that do not depend on layers.
RATES_SECONDS = 5.0
# The sum of squares behind a network without a loss.
NO_LAYER = -1


def recorded_profile(jobs: list[Job], steps: int) -> DeviceSpeed:
    """The speed of a core, its kernels as these jobs' recordings have them."""
    points = merged(recorded_points(job, record(job, steps).programs) for job in jobs)
    kernels: dict[str, dict[str, tuple[Point, ...]]] = defaultdict(dict)
    for (name, operation), values in points.items():
        kernels[name][operation] = tuple(values)
    return replace(core_rates(jobs[0].network), kernels=dict(kernels))


def core_rates(network: Network, seconds: float = RATES_SECONDS) -> DeviceSpeed:
    """What `mpitile profile` finds of one core in so many seconds, a whole one of it."""

    def measure(world: LocalCommunicator) -> Cluster:
        return profile(world, [network], seconds, lambda text: None)

    (cluster,) = run_ranks(1, measure)
    return replace(cluster.devices[0].speed, share=1.0)


def recorded_points(job: Job, programs: tuple[Program, ...]) -> Points:
    """Seconds by layer class and operation; of equal boxes the median."""
    partition = Partition(job.network, job.plan)
    pools = merged_pools(job.network, job.plan.groups)
    return merged(
        _rank_points(partition, pools, job.team_images, rank % job.plan.grid.tiles, program)
        for rank, program in enumerate(programs)
    )


def _rank_points(
    partition: Partition, pools: frozenset[int], images: int, tile: int, program: Program
) -> Points:
    """Of one rank."""
    part, layers = partition.part(tile), partition.network.layers
    last = len(layers) - 1
    seconds: dict[tuple[int, str], float] = defaultdict(float)
    for event in program:
        if isinstance(event, Compute) and event.operation in OPERATIONS:
            number = NO_LAYER if event.layer is None else event.layer
            seconds[number, event.operation] += event.seconds
    points: Points = defaultdict(list)
    for (number, operation), taken in seconds.items():
        layer = part.local(layers[number])
        box = part.computed(last if number == NO_LAYER else number)
        convolution = part.local(layers[number - 1]) if number in pools else None
        if number == NO_LAYER:
            name = loss_class(layer.output_shape)
        else:
            name = box_class(layer, box.width, convolution)
        if not box.empty and taken:
            points[name, operation].append(Point(images, box.height, box.width, taken))
    return dict(points)
