"""State of filter-parallel layers: the steps of the whole, saved and resumed in any way."""

import numpy as np
import pytest

from mpitile.checkpoint import shards
from mpitile.checkpoint.shards import Progress
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.network.parameters import parameter_specs
from mpitile.plan.filters import split_at_switches
from mpitile.plan.memory.state_bytes import flat_parts, state_bytes
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.train.optimizer import make_optimizer, optimizer_memory
from mpitile.train.state import TrainState

CFG = """
[net]
height=8
width=8
momentum=0.8
decay=0.03
[convolutional]
batch_normalize=1
filters=6
size=3
[convolutional]
batch_normalize=1
filters=11
size=3
[convolutional]
filters=2
size=1
[connected]
batch_normalize=1
output=13
"""
NETWORK = parse_network(CFG, "small")
STEPS, RATE = 3, 0.1
PROGRESS = Progress(STEPS, 0, 1, None, "settings")

# Grid, replicas, filter-parallel layers, relative widths of columns, ranks of a device.
PLACES = [
    ("1x1", 1, (), None, "auto"),
    ("1x1", 1, (1, 3), None, "auto"),
    ("1x3", 1, (1, 2, 3), None, 1),
    ("1x2", 2, (0, 3), (1.0, 2.0), "auto"),
    ("2x2", 1, (3,), None, 2),
    ("1x3", 2, (1, 2), (3.0, 1.0, 1.0), 4),
    ("1x2", 3, (0, 1, 2, 3), None, 2),
]


def plan_of(place):
    grid, replicas, filters, widths, _ = place
    rows, columns = map(int, grid.split("x"))
    groups = split_at_switches(NETWORK, (0,), filters)
    return Plan(Grid(rows, columns), groups, replicas, None, widths, filters=filters)


def gradient(spec, step):
    """Of a whole array, summed over all images."""
    random = np.random.default_rng([step, spec.layer, len(spec.name)])
    return random.normal(size=spec.shape)


def columns(parameters, spec):
    return slice(*parameters.spans.get(spec.layer, (0, spec.shape[-1])))


def part(parameters, spec, step, topology):
    """This rank's summand: teams, or all ranks, have unlike parts of the sum."""
    sliced = spec.layer in parameters.spans
    number, count = topology.world.rank, topology.world.size
    if sliced:
        number, count = topology.peers.rank, topology.peers.size
    weights = np.arange(1.0, count + 1)
    share = weights[number] / weights.sum()
    return share * gradient(spec, step)[..., columns(parameters, spec)]


def make(comm, place, kind, dtype=np.float64):
    plan = plan_of(place)
    topology = make_topology(comm, plan)
    state = TrainState(NETWORK, plan, dtype, kind, topology, place[4])
    arrays, scratch = optimizer_memory(kind, np.dtype(dtype).itemsize)
    itemsize = np.dtype(dtype).itemsize
    parts = flat_parts(NETWORK, plan, itemsize)[comm.rank % plan.grid.tiles]
    predicted = state_bytes(plan, state.group.devices, comm.rank, parts, itemsize, arrays)
    assert state.bytes == predicted
    assert state.scratch_bytes == scratch * (2 if plan.filters else 1)
    return state, topology


def trained(comm, place, kind, folder=None):
    """A rank's parameters after some steps; saved, where a folder is given."""
    state, topology = make(comm, place, kind)
    state.draw(1)
    parameters = state.parameters
    for step in range(1, STEPS + 1):
        for spec in parameter_specs(NETWORK):
            if spec.trained:
                target = parameters.gradients_of(spec.layer)[spec.name]
                target[...] = part(parameters, spec, step, topology)
        state.begin_sum()
        state.end_sum()
        state.update(RATE, 5, step)
        state.begin_share()
        state.end_share()
    for spec in parameter_specs(NETWORK):
        if not spec.trained:
            view = parameters.of_layer(spec.layer)[spec.name]
            view[...] = gradient(spec, 0)[..., columns(parameters, spec)]
    if folder:
        shards.save(folder, comm, state.arrays, PROGRESS, keep=1)
    found = held(parameters)
    state.close()
    return found


def held(parameters):
    """By layer and name, which columns a rank has, and their values."""
    return {
        (spec.layer, spec.name): (
            columns(parameters, spec),
            parameters.of_layer(spec.layer)[spec.name].copy(),
        )
        for spec in parameter_specs(NETWORK)
    }


def loaded(comm, place, kind, folder):
    """What a rank has after a checkpoint was read; and what is kept, saved once more."""
    state, _ = make(comm, place, kind)
    shards.load(shards.latest(folder, comm), comm, state.arrays, PROGRESS.fingerprint)
    shards.save(folder / "again", comm, state.arrays, PROGRESS, keep=1)
    found = held(state.parameters)
    state.close()
    return found


def plain(kind):
    """The same steps with everything whole: arrays by place, and moments."""
    parameters = Parameters(NETWORK, np.float64)
    parameters.draw(1)
    optimizer = make_optimizer(kind, parameters, NETWORK.options)
    for step in range(1, STEPS + 1):
        for spec in parameter_specs(NETWORK):
            if spec.trained:
                parameters.gradients_of(spec.layer)[spec.name][...] = gradient(spec, step)
        optimizer.update(RATE, 5, step)
    for spec in parameter_specs(NETWORK):
        if not spec.trained:
            parameters.of_layer(spec.layer)[spec.name][...] = gradient(spec, 0)
    return held(parameters), optimizer.state


def assert_parts(found, whole, exact):
    for rank in found:
        for place, (columns, values) in rank.items():
            expected = whole[place][1][..., columns]
            tolerance = 0 if exact else 1e-14 * abs(whole[place][1]).max()
            np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


def ranks_of(place):
    return plan_of(place).ranks


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("place", PLACES)
def test_slices_train_like_the_whole_and_are_resumed_by_any(tmp_path, place, kind):
    whole, moments = plain(kind)
    found = run_ranks(ranks_of(place), lambda comm: trained(comm, place, kind, tmp_path))
    assert_parts(found, whole, exact=False)

    # One rank that has everything finds exactly what all of them had, moments too.
    def alone(comm):
        state, _ = make(comm, PLACES[0], kind)
        arrays = state.arrays
        shards.load(shards.latest(tmp_path, comm), comm, arrays, PROGRESS.fingerprint)
        for name, moment in moments.items():
            (kept,) = arrays[name].parts
            scale = abs(moment).max()
            np.testing.assert_allclose(kept.array, moment, rtol=0, atol=1e-14 * scale)
        return held(state.parameters), {name: arrays[name].parts[0].array for name in moments}

    (saved, kept) = run_ranks(1, alone)[0]
    assert_parts(found, saved, exact=True)
    for other in PLACES[1:]:
        work = lambda comm, other=other: loaded(comm, other, kind, tmp_path)  # noqa: E731
        assert_parts(run_ranks(ranks_of(other), work), saved, exact=True)
        # What they keep is complete again.
        state = run_ranks(1, lambda comm: resaved(comm, kind, tmp_path / "again"))[0]
        for name, moment in kept.items():
            np.testing.assert_array_equal(state[name], moment)


def resaved(comm, kind, folder):
    state, _ = make(comm, PLACES[0], kind)
    arrays = state.arrays
    shards.load(shards.latest(folder, comm), comm, arrays, PROGRESS.fingerprint)
    return {name: sliced.parts[0].array for name, sliced in arrays.items()}


def test_a_rank_of_the_same_plan_needs_no_other_shard(tmp_path):
    place = PLACES[2]
    run_ranks(3, lambda comm: trained(comm, place, "adam", tmp_path))

    def work(comm):
        path = shards.latest(tmp_path, comm)
        own = tmp_path / f"of-{comm.rank}" / path.name
        own.mkdir(parents=True)
        for name in ("manifest.json", f"shard-{comm.rank:05d}.h5"):
            (own / name).write_bytes((path / name).read_bytes())
        state, _ = make(comm, place, "adam")
        shards.load(own, comm, state.arrays, PROGRESS.fingerprint)

    run_ranks(3, work)


def test_a_slice_is_kept_by_one_rank_alone(tmp_path):
    place = ("1x3", 2, (1, 2, 3), None, "auto")

    def kept(comm):
        state, _ = make(comm, place, "adam")
        return {
            name: sum(stop - start for part in sliced.parts for start, stop in part.spans)
            for name, sliced in state.arrays.items()
        }

    found = run_ranks(6, kept)
    whole = Parameters(NETWORK, np.float64)
    for name in ("values", "first_moment", "second_moment"):
        assert sum(rank[name] for rank in found) == whole.values.size
    assert sum(rank["running"] for rank in found) == whole.running.size
