"""Steps that are recorded and counted, and what their programs say that they send, for tests."""

from collections import Counter
from dataclasses import replace

from planner_cases import cluster

from mpitile.comm.recorded import RecordedCommunicator
from mpitile.comm.recorder import Recorder
from mpitile.comm.topology import make_topology
from mpitile.plan.clusters.devices import cluster_devices, group_ranks, team_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.gathers import messages
from mpitile.plan.partition import Partition
from mpitile.plan.recording import (
    FORWARD,
    GRADIENTS,
    BeginBucket,
    BeginExchange,
    BeginGather,
    BeginSum,
    Compute,
)
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.sums.slices import covered, share
from mpitile.train.planning import ITEMSIZES
from mpitile.train.recording import RandomFeeder
from mpitile.train.trainer import Trainer


def devices_of(job):
    """Where a job's ranks run, all on this host, and how fast."""
    ranks_per_device = job.settings.tiling.ranks_per_device
    devices = group_ranks([range(job.plan.ranks)], ranks_per_device)
    return cluster(*((len(ranks), 1) for ranks in devices.ranks))


def planned(job, where, overlap=None):
    """The programs of its plan on a cluster; with sums beside backward or not, as told."""
    train = job.settings.train
    overlap = train.overlap if overlap is None else overlap
    cost = Cost(job.network, where, ITEMSIZES[train.dtype])
    size = StepSize(job.pass_images, job.subdivisions, job.optimizer, overlap)
    return step_programs(Partition(job.network, job.plan), cost, size)


def take_step(job, comm):
    """One rank's recorder of the second step, and the bytes that its channels sent to others."""
    frozen = replace(job.network.options, learning_rate=0.0, policy="constant", burn_in=0)
    job = replace(job, network=replace(job.network, options=frozen))
    recorder = Recorder(comm.rank, first=1, most=1)
    topology = make_topology(RecordedCommunicator(comm, recorder), job.plan)
    trainer = Trainer(job, topology, recorder)
    feeder = RandomFeeder(job, topology, trainer.program.values[0])
    trainer.step(feeder)
    trainer.settle()
    before = comm.sent.copy()
    trainer.step(feeder)
    trainer.settle()
    sent = (comm.sent - before).tolist()
    trainer.close()
    return recorder, {peer: size for peer, size in enumerate(sent) if size}


def communication(program):
    """A program without computing; purposes of sums are words for the reader."""
    events = [event for event in program if not isinstance(event, Compute)]
    return [replace(event, purpose="") if hasattr(event, "purpose") else event for event in events]


def channel_bytes(program, rank, where, itemsize):
    """What a rank's channels have to send for its program with overlap, by receiver.

    Without it, the same. Other sums and the meetings of a device's ranks do not go by channels.
    """
    devices = cluster_devices(where)
    sent = Counter()
    for event in program:
        match event:
            case BeginExchange(sends=sends):
                sent.update(dict(sends))
            case BeginGather(direction=direction, first=first, parts=parts):
                team = team_devices(devices, range(first, first + len(parts)))
                for pair, size in messages(team, parts).items():
                    source, target = pair if direction == FORWARD else pair[::-1]
                    if first + source == rank:
                        sent[first + target] += size
            case BeginBucket(size=size, ranks=ranks):
                sent.update(_sliced(devices, rank, size // itemsize, ranks, itemsize))
    return {peer: size for peer, size in sent.items() if size}


def gradient_bytes(program):
    """Of all sums of gradients, by who takes part."""
    found = Counter()
    for event in program:
        sums = isinstance(event, BeginSum) and event.purpose == GRADIENTS
        if sums or isinstance(event, BeginBucket):
            found[event.ranks] += event.size
    return found


def _sliced(devices, rank, elements, ranks, itemsize):
    """There and back."""
    ranks = ranks or range(devices.rank_count)
    part = share(team_devices(devices, ranks), list(ranks).index(rank), (0, elements))
    sent = Counter()
    for parcel in (*part.sends, *part.receives):
        # What came from a rank for its sum goes back to it; both are of one size.
        sent[ranks[parcel.rank]] += itemsize * covered([parcel.span])
    return sent
