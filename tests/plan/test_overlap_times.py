"""Simulated and predicted steps whose sums and new values go on beside their passes."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_simulate import INFINITE, close, cluster, swap, work

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network, read_network
from mpitile.plan.clusters.cluster import Link
from mpitile.plan.clusters.cluster_file import read_cluster
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.predict import predict
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.recording import (
    ADDING,
    GRADIENTS,
    UPDATE,
    BeginBucket,
    BeginSum,
    BeginValues,
    Compute,
    EndBuckets,
    EndSum,
    EndValues,
    Recording,
    behind,
)
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request, first_ranks, without_limits
from mpitile.plan.simulation.intervals import FLIGHT
from mpitile.plan.simulation.program_check import check_programs
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.recording_file import read_recording, write_recording
from mpitile.plan.simulation.simulate import simulate
from mpitile.plan.sums.slices import IN_FLIGHT

LINK = Link(0.0, 100.0)
JOBS = Path(__file__).parents[2] / "jobs"
PI3, YOLO = JOBS / "clusters" / "pi3-100mbit.toml", JOBS / "cfg" / "yolov2.cfg"
NET = "[net]\nheight=64\nwidth=64\nchannels=3\n" + "".join(
    f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize=3\npad=1\nactivation=leaky\n"
    for filters in (8, 16, 64, 128)
)


def step(*before, buckets=(200,), after=1.0):
    return (*before, *map(BeginBucket, buckets), work(after), EndBuckets())


def forward(*seconds, values=(200, 200)):
    """Computing that waits for one more bucket each time."""
    works = [each for n, s in enumerate(seconds, 1) for each in (EndValues(n), work(s))]
    return (*map(BeginValues, values), *works)


def test_a_bucket_travels_while_its_ranks_compute():
    # Half of 200 bytes each way: a second on the link.
    machines = cluster(1, 1, between=LINK)
    late = simulate([step(work(1.0)), step(work(2.0))], machines)
    # Begun when both are there, at 2; summed at 3, when the later one is done, too.
    assert late.seconds == close(3.0)
    assert [rank.reduce_s for rank in late.ranks] == [close(1.0), 0.0]
    hidden = simulate([step(work(1.0), after=5.0), step(work(2.0), after=3.0)], machines)
    assert hidden.seconds == close(6.0)
    assert [rank.reduce_s for rank in hidden.ranks] == [0.0, 0.0]


def test_only_so_many_buckets_are_under_way():
    machines = cluster(1, 1, between=LINK)
    sizes = (200,) * (IN_FLIGHT + 2)
    program = step(buckets=sizes, after=100.0)
    timeline = simulate([program, program], machines)
    flights = sorted(
        (line.start, line.end)
        for line in timeline.intervals
        if (line.kind, line.rank) == (FLIGHT, 0)
    )
    assert len(flights) == len(sizes)
    for number, (start, _) in enumerate(flights):
        earlier = sorted(end for _, end in flights)
        assert sum(end > start + 1e-9 for end in earlier[:number]) < IN_FLIGHT
    # The link is never idle: a second for each.
    assert max(end for _, end in flights) == close(1.0 * len(sizes))


def test_new_values_travel_while_their_ranks_compute():
    # A second for each bucket: the first is waited for, the second is there by then.
    machines = cluster(1, 1, between=LINK)
    timeline = simulate([forward(3.0, 1.0)] * 2, machines)
    assert timeline.seconds == close(5.0)
    assert [rank.reduce_s for rank in timeline.ranks] == [close(1.0)] * 2
    flights = [line.name for line in timeline.intervals if (line.kind, line.rank) == (FLIGHT, 0)]
    assert flights == ["values 0", "values 1"]
    # With nothing to compute both are waited for.
    assert simulate([forward(0.0, 0.0)] * 2, machines).seconds == close(2.0)
    # What has no halves does all beside backward.
    assert simulate([forward(3.0, 1.0)] * 2, machines, "ring").seconds == close(4.0)


def test_early_values_travel_beside_backward_when_their_sum_is_there():
    machines = cluster(1, 1, between=LINK)

    def program(first, early):
        return (BeginBucket(200, early=early), BeginBucket(200), work(first), EndBuckets())

    # Both sums, a second each, and the values of one, which shares the link with the other sum.
    early = simulate([program(1.0, True)] * 2, machines)
    assert early.seconds == close(3.0)
    assert [rank.reduce_s for rank in early.ranks] == [close(2.0)] * 2
    assert simulate([program(1.0, False)] * 2, machines).seconds == close(2.0)
    assert simulate([program(5.0, True)] * 2, machines).seconds == close(5.0)
    flights = {line.name: line for line in early.intervals if line.kind == FLIGHT}
    assert flights["early values 0"].start == close(flights["bucket 0"].end)
    # What has no halves does the same with or without.
    ring = [simulate([program(1.0, each)] * 2, machines, "ring").seconds for each in (True, False)]
    assert ring[0] == ring[1]


def test_halos_and_buckets_share_a_link():
    machines = cluster(1, 1, between=LINK)
    alone = [(*swap(1 - rank, 100), work(1.0)) for rank in range(2)]
    both = [(BeginBucket(200), *program, EndBuckets()) for program in alone]
    slow = simulate(both, machines, eager=1000)
    assert simulate(alone, machines, eager=1000).seconds == close(2.0)
    # Two seconds of messages in all, and nothing waits for the work behind the halo.
    assert 2.0 <= slow.seconds <= 3.0 + 1e-9


def test_other_sums_pass_buckets():
    machines = cluster(1, 1, between=LINK, inside=INFINITE)
    program = (BeginBucket(2000), BeginSum(0, "statistics"), EndSum(), work(1.0), EndBuckets())
    timeline = simulate([program, program], machines)
    # Each way, the small messages stand behind one piece of the bucket, not behind its end.
    assert timeline.seconds == close(11.0)


def test_ranks_that_disagree_about_buckets_are_named():
    with pytest.raises(InputError, match="rank 1 takes"):
        check_programs([step(buckets=(8,)), step(buckets=(8, 8))])
    with pytest.raises(InputError, match="rank 1 takes"):
        check_programs([step(buckets=(8,)), (BeginBucket(8, early=True), EndBuckets())])
    with pytest.raises(InputError, match="never ends"):
        check_programs([(BeginBucket(8),)])
    with pytest.raises(InputError, match="rank 1 takes"):
        check_programs([forward(1.0, values=(8,)), forward(1.0, values=(16,))])
    with pytest.raises(InputError, match="waits for 1 of the 2 buckets"):
        check_programs([forward(1.0, values=(8, 8))])
    with pytest.raises(InputError, match="waits for 2 buckets of new values, of 1"):
        check_programs([forward(1.0, 1.0, values=(8,))])


def test_buckets_are_kept_in_a_file(tmp_path):
    program = step(*forward(1.0, 1.0), work(0.5), buckets=(8, 16))
    some = (BeginValues(8, (0, 1)), EndValues(1, (0, 1)))
    some += (BeginBucket(8, (0, 1), early=True), EndBuckets())
    recording = Recording(((*program, *some),) * 2, {"network": "net.cfg"})
    write_recording(recording, tmp_path / "recording.jsonl")
    assert read_recording(tmp_path / "recording.jsonl") == recording


@pytest.fixture(params=[(1, Grid(2, 4)), (2, Grid(2, 2))], ids=["tiles", "replicas"])
def problem(request):
    replicas, grid = request.param
    network = parse_network(NET, "net")
    plan = Plan(grid, (0, 2), replicas)
    return network, plan, Cost(network, first_ranks(read_cluster(PI3), 8))


@pytest.mark.parametrize("passes", [1, 2])
def test_both_kinds_of_prediction_agree(problem, passes):
    network, plan, cost = problem
    found = {}
    for overlap in (False, True):
        size = StepSize(8, passes, "sgd", overlap)
        line = simulate(step_programs(Partition(network, plan), cost, size), cost.cluster)
        told = predict(Partition(network, plan), cost, 8 * passes, "sgd", passes, overlap)
        assert told.step_seconds == pytest.approx(line.seconds, rel=0.1)
        found[overlap] = told, line
    for way in range(2):
        seconds = [
            getattr(found[overlap][way], "seconds", None) or found[overlap][way].step_seconds
            for overlap in (False, True)
        ]
        assert seconds[1] < seconds[0]
    exposed = [max(rank.reduce for rank in found[overlap][0].ranks) for overlap in (False, True)]
    assert exposed[1] < exposed[0]


@pytest.mark.parametrize("replicas", [1, 2])
def test_batch_norm_s_sums_take_turns_with_buckets(replicas):
    """Of forty small sums a pass, most of them beside gradients and new values."""
    where, network = without_limits(read_cluster(PI3)), read_network(YOLO)
    demand = Demand(8)
    planner = Planner(Request(network, where, where.ranks, demand, replicas=replicas))
    plan = planner.best().plan
    programs = step_programs(Partition(network, plan), planner.cost, StepSize(demand.images))
    simulated = simulate(programs, where, keep=False).seconds
    assert planner.predict(plan).step_seconds == pytest.approx(simulated, rel=0.05)


def test_inside_one_device_a_step_is_the_same():
    network, plan = parse_network(NET, "net"), Plan(Grid(2, 2), (0, 2))
    cost = Cost(network, first_ranks(read_cluster(PI3), 4))
    partition = Partition(network, plan)
    apart, beside = (
        step_programs(partition, cost, StepSize(8, overlap=on)) for on in (False, True)
    )
    assert beside == apart
    told = [predict(Partition(network, plan), cost, 8, overlap=on) for on in (False, True)]
    assert told[0] == told[1]


def test_what_goes_beside_passes_stands_behind_them_in_one_device():
    some = (0, 1)
    program = (
        *(BeginValues(8), work(1.0), EndValues(1)),
        *(BeginBucket(4, some), BeginBucket(200), work(2.0), BeginBucket(100)),
        *(Compute(3.0, ADDING), Compute(4.0, UPDATE), EndBuckets(), work(5.0)),
    )
    sums = (BeginSum(300, GRADIENTS), BeginSum(4, GRADIENTS, some), EndSum(), EndSum())
    alone = (work(1.0), work(2.0), *sums, Compute(4.0, UPDATE), work(5.0))
    assert behind(program) == alone
    assert behind(alone) == alone
    assert behind((BeginBucket(8), EndBuckets())) == (BeginSum(8, GRADIENTS), EndSum())
    machine = cluster(2, inside=LINK, adding=100.0)
    assert simulate([program] * 2, machine) == simulate([alone] * 2, machine)


def test_buckets_follow_the_last_pass_alone(problem):
    network, plan, cost = problem
    for program in step_programs(Partition(network, plan), cost, StepSize(8, 3)):
        begun = [n for n, event in enumerate(program) if isinstance(event, BeginBucket)]
        weights = [
            n
            for n, event in enumerate(program)
            if isinstance(event, Compute) and event.operation == "backward_weights"
        ]
        assert len(weights) == 3 * len(network.layers)
        assert begun[0] > weights[2 * len(network.layers)]
        assert sum(isinstance(event, EndBuckets) for event in program) == 1


def test_slices_are_added_up_inside_one_device_too():
    """Those of replicas that share it; nothing travels, but adding takes its time."""
    network, plan = parse_network(NET, "net"), Plan(Grid(1, 2), (0, 1, 2, 3), 2, filters=(2, 3))
    board = first_ranks(read_cluster(PI3), 4)
    (device,) = board.devices
    slow = replace(board, devices=(replace(device, speed=replace(device.speed, sum=1e6)),))
    cost = Cost(network, slow)
    line = simulate(step_programs(Partition(network, plan), cost, StepSize(8)), slow, keep=False)
    told = predict(Partition(network, plan), cost, 8)
    elements = 3 * 3 * (16 * 64 + 64 * 128) + 2 * (64 + 128)
    # A half of the slices each, of which a rank of either replica adds up one half.
    assert told.ranks[0].reduce > elements / 4 * 4 / 1e6
    assert told.step_seconds == pytest.approx(line.seconds, rel=0.1)
