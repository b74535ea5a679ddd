"""Programs of predicted steps: what ranks of mixed plans do, and how long that is simulated."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planner_cases import cluster, mixed_groupings
from strategies import networks

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.clusters.devices import cluster_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.predict import predict
from mpitile.plan.gathers import messages, part_sizes
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.recording import FORWARD, GRADIENTS, BeginExchange, BeginSum
from mpitile.plan.search.borders import Grouping
from mpitile.plan.simulation.gather_messages import with_messages
from mpitile.plan.simulation.program_check import check_programs
from mpitile.plan.simulation.programs import StepSize, step_programs
from mpitile.plan.simulation.simulate import simulate
from mpitile.plan.traffic import whole_parts

ITEMSIZE = 4
CFG = """
[net]
height=8
width=8
channels=1
[convolutional]
filters=2
size=3
pad=1
[convolutional]
filters=2
size=3
pad=1
"""


@st.composite
def steps(draw):
    """A small network under a mixed plan, on devices of unequal numbers of ranks."""
    network = draw(networks(layers=4))
    grid = Grid(*draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (1, 3)])))
    replicas = draw(st.integers(1, 3))
    groups = draw(st.sampled_from(list(mixed_groupings(network))[:256]))
    flags = tuple(draw(st.booleans()) for _ in groups)
    found = Grouping(0.0, groups, flags)
    plan = Plan(grid, found.starts, replicas, recompute=flags, filters=found.filters)
    first = draw(st.integers(1, plan.ranks))
    ranks = (first, plan.ranks - first) if first < plan.ranks else (first,)
    where = cluster(*((count, 1) for count in ranks), between=(1e-5, 1e8))
    try:
        return Partition(network, plan), where, 2 * replicas
    except InputError:
        assume(False)


@settings(max_examples=60, deadline=None)
@given(steps(), st.integers(1, 2))
def test_all_messages_of_mixed_plans_have_two_ends(step, passes):
    partition, where, images = step
    cost = Cost(partition.network, where, ITEMSIZE)
    programs = step_programs(partition, cost, StepSize(images, passes))
    check_programs(programs)
    timeline = simulate(programs, where, keep=False)
    predicted = predict(partition, cost, images * passes, subdivisions=passes)
    assert max(rank.compute_s for rank in timeline.ranks) >= 0.9 * max(
        rank.compute for rank in predicted.ranks
    )
    assert timeline.seconds > 0.5 * predicted.step_seconds


@settings(max_examples=30, deadline=None)
@given(steps())
def test_gathers_send_what_their_plan_says(step):
    partition, where, images = step
    plan = partition.plan
    assume(plan.replicas == 1)
    programs = step_programs(partition, Cost(partition.network, where), StepSize(images))
    programs = with_messages(programs, where)
    devices_of = [where.device_of(rank) for rank in range(plan.ranks)]
    for group in range(len(partition.ranges)):
        if not partition.gathers(group):
            continue
        sizes = part_sizes(whole_parts(partition, group), images)
        expected = {
            pair: ITEMSIZE * size for pair, size in messages(cluster_devices(where), sizes).items()
        }
        sent = {
            (rank, peer): size
            for rank, program in enumerate(programs)
            for event in program
            if isinstance(event, BeginExchange)
            and (event.group, event.direction) == (group, FORWARD)
            for peer, size in event.sends
            if devices_of[rank] != devices_of[peer]
        }
        assert sent == expected


def test_layers_divided_by_filters_take_no_part_in_sums():
    network = parse_network(CFG, "two.cfg")
    where = cluster((2, 1))

    def gradients(filters):
        partition = Partition(network, Plan(Grid(1, 2), (0, 1), filters=filters))
        program = step_programs(partition, Cost(network, where), StepSize(1, overlap=False))[0]
        return [e.size for e in program if isinstance(e, BeginSum) and e.purpose == GRADIENTS]

    # 3 x 3 weights and a bias of two filters, of one and of two channels.
    assert gradients(()) == [ITEMSIZE * (2 * 10 + 2 * 19)]
    assert gradients((1,)) == [ITEMSIZE * 2 * 10]
    assert gradients((0, 1)) == []
