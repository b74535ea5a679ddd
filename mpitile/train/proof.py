"""The same training steps on one rank and tiled, and how far they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from mpitile.comm.communicator import Communicator
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import Topology, make_topology
from mpitile.geometry.tiling import Grid
from mpitile.kernels.choice import Choices
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Step
from mpitile.network.heads import heads
from mpitile.network.spec import Network, Region, Yolo
from mpitile.plan.memory.bytes import most_shared
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.train.feeding import Passes
from mpitile.train.state import TrainState

# A step moves the weights by this part of their norm: enough to matter, too little to diverge.
STEP_LENGTH = 1e-3
_TRUTHS = 4


@dataclass(frozen=True)
class Problem:
    """What both runs compute.

    Attributes
    ----------
    network : at the size to check.
    images : (batch, height, width, channels), whole.
    truths : one entry per image.
    dtype, steps, seed : the seed draws weights and dropout.
    choices : of the convolutions' algorithms.
    ranks_per_device : see `mpitile.comm.devices.make_devices`.
    """

    network: Network
    images: np.ndarray
    truths: Sequence
    dtype: np.dtype
    steps: int
    seed: int
    choices: Choices
    ranks_per_device: int | str = "auto"


@dataclass
class Record:
    """What came out, as whole tensors: by step, by tensor or by parameter.

    Attributes
    ----------
    losses : of each step, summed over images.
    outputs, deltas, gradients : by step and tensor, or step and parameter name.
    weights : after the last step, running statistics included.
    """

    losses: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    deltas: dict[str, np.ndarray] = field(default_factory=dict)
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)


def random_problem(
    network: Network,
    batch: int,
    dtype: np.dtype,
    steps: int,
    seed: int,
    choices: Choices | None = None,
    ranks_per_device: int | str = "auto",
) -> Problem:
    """Images and truths drawn from a seed."""
    generator = np.random.default_rng([seed, 1])
    shape = network.shape(0)
    images = generator.random((batch, shape.height, shape.width, shape.channels))
    truths = random_truths(network, batch, generator)
    choices = choices or Choices(exact=True)
    images = images.astype(dtype)
    return Problem(network, images, truths, dtype, steps, seed, choices, ranks_per_device)


def random_truths(network: Network, count: int, generator: np.random.Generator) -> Sequence:
    """For each image boxes, or a class where the network detects none."""
    last = network.layers[-1]
    if isinstance(last.operation, Region | Yolo):
        return [_random_boxes(generator, last.operation.classes) for _ in range(count)]
    return generator.integers(last.output_shape.channels, size=count)


def _random_boxes(generator: np.random.Generator, classes: int) -> np.ndarray:
    boxes = generator.uniform(0.05, 0.95, (_TRUTHS, 5))
    boxes[:, 2:4] *= 0.6
    boxes[:, 4] = generator.integers(classes, size=_TRUTHS)
    return boxes


def draw_vectors(parameters: Parameters, seed: int) -> None:
    """Biases and scales that are not all zero and one; the same for the same seed.

    With those, a batch norm in front of an activation like relu, a depthwise convolution and
    another batch norm has a scale on which nothing depends: its gradient would be rounding alone.
    """
    for number, spec in enumerate(parameters.specs):
        generator = np.random.default_rng([seed, 2, number])
        outputs = parameters.network.layers[spec.layer].output_shape.channels
        channels = slice(*parameters.spans.get(spec.layer, (0, outputs)))
        if spec.name == "biases":
            parameters.view(spec)[...] = generator.normal(0, 0.3, outputs)[channels]
        elif spec.name == "scales":
            parameters.view(spec)[...] = generator.uniform(0.5, 1.5, outputs)[channels]


def run_alone(problem: Problem, groups: Sequence[int]) -> Record:
    """The steps on one rank."""
    return run_tile_by_tile(problem, Plan(Grid(1, 1), tuple(groups)))


def run_tile_by_tile(problem: Problem, plan: Plan) -> Record:
    """The steps of all ranks of a plan, in this process."""
    records = run_ranks(plan.ranks, lambda comm: run_tiled(problem, plan, comm))
    return records[0]


def run_tiled(problem: Problem, plan: Plan, world: Communicator) -> Record | None:
    """The steps of this rank of a plan; everything, put together, on rank 0. Collective."""
    topology = make_topology(world, plan)
    passes = Passes(len(problem.images), plan.replicas)
    own = passes.positions(0, topology.replica)
    partition = Partition(problem.network, plan)
    state = TrainState(
        problem.network,
        plan,
        problem.dtype,
        "sgd",
        topology,
        problem.ranks_per_device,
        most_shared(partition, len(own), problem.dtype.itemsize),
    )
    state.draw(problem.seed)
    parameters = state.parameters
    draw_vectors(parameters, problem.seed)
    program = Program(
        partition,
        topology,
        parameters,
        len(own),
        input_gradient=True,
        choices=problem.choices,
        group=state.group,
    )
    tile = program.values[0]
    tile.array[...] = problem.images[(slice(own.start, own.stop), *tile.box.slices())]
    record = Record()
    for number in range(problem.steps):
        step = Step(
            training=True,
            reduce=world.sum,
            images=passes.images,
            first_image=own.start,
            seen=(number + 1) * passes.images,
            key=problem.seed + number,
            truths=problem.truths[own.start : own.stop],
        )
        _take_step(f"step {number}", record, program, state, step, topology)
        state.update(_rate(state, passes.images, topology), passes.images, number + 1)
        state.begin_share()
        state.end_share()
    record.weights = _arrays(parameters, parameters.of_layer, topology)
    program.close()
    state.close()
    return record if world.rank == 0 else None


def _take_step(
    name: str,
    record: Record,
    program: Program,
    state: TrainState,
    step: Step,
    topology: Topology,
) -> None:
    """Forward and backward pass with summed gradients, all put into the record."""
    world, parameters = topology.world, program.parameters
    starts = {tensor for needs in program.part.groups for tensor in needs.fetched}
    partial: dict[int, Tile] = {}

    def observe(tensor: int, delta: Tile) -> None:
        if tensor in starts:
            partial[tensor] = replace(delta, array=delta.array.copy())

    for flat in (parameters.shared, parameters.slices):
        flat.gradients[...] = 0
    ends = {program.network.layers[-1].output, *(head.output for head in heads(program.network))}
    outputs: dict[int, Tile] = {}

    def keep(tensor: int, value: Tile) -> None:
        if tensor in ends:
            owned = program.part.owned[tensor]
            outputs[tensor] = replace(value, array=value.view(owned).copy(), box=owned)

    program.forward(step, keep)
    for tensor, tile in outputs.items():
        record.outputs[f"{name} tensor {tensor}"] = _whole(program, step, world, tensor, tile)
    loss = np.array([program.loss])
    program.backward(step, observe)
    world.sum(loss)
    state.begin_sum()
    state.end_sum()
    state.gather_gradients()
    record.losses[name] = loss
    for tensor, tile in sorted(partial.items()):
        record.deltas[f"{name} tensor {tensor}"] = _whole(program, step, world, tensor, tile)
    gradients = _arrays(parameters, parameters.gradients_of, topology)
    record.gradients |= {f"{name} {place}": array for place, array in gradients.items()}


def _whole(
    program: Program, step: Step, world: Communicator, tensor: int, tile: Tile
) -> np.ndarray:
    """The sum of all ranks' boxes and channels of a tensor, on rank 0; nothing elsewhere."""
    shape = program.network.shape(tensor)
    parts = world.gather((step.first_image, tile.box, tile.first_channel, tile.array))
    if parts is None:
        return np.zeros(0)
    whole = np.zeros((step.images, shape.height, shape.width, shape.channels), tile.array.dtype)
    for first, cells, channel, values in parts:
        channels = slice(channel, channel + values.shape[3])
        whole[(slice(first, first + len(values)), *cells.slices(), channels)] += values
    return whole


def _arrays(
    parameters: Parameters,
    of_layer: Callable[[int], Mapping[str, np.ndarray]],
    topology: Topology,
) -> dict[str, np.ndarray]:
    """Copies of all arrays of parameters, or of gradients, whole on rank 0. Collective."""
    found: dict[str, np.ndarray] = {}
    for layer in range(len(parameters.network.layers)):
        for name, view in of_layer(layer).items():
            place = f"layer {layer} {name}"
            found[place] = view.copy()
            if layer in parameters.spans:
                # In the order of tiles, which is that of channels.
                slices = topology.team.gather(view)
                if slices is not None:
                    found[place] = np.concatenate(slices, axis=-1)
    return found


def _rate(state: TrainState, images: int, topology: Topology) -> float:
    """What makes the step `STEP_LENGTH` long: the same on all ranks.

    None may change shared weights while others still look at them: collective.
    """
    slices = state.parameters.slices
    # Replicas have the same slices; the sums of gradients are in the first one's hands.
    first = topology.replica == 0
    squares = np.array(
        [np.vdot(array, array) * first for array in (slices.gradients, slices.values)]
    )
    topology.world.sum(squares)
    gradient = float(np.sqrt(np.vdot(state.total, state.total) + squares[0])) / images
    values = state.parameters.values
    length = STEP_LENGTH * float(np.sqrt(np.vdot(values, values) + squares[1]))
    rate = np.array([length / gradient if gradient else 0.0])
    topology.world.maximum(rate)
    return float(rate[0])


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest relative difference of one kind of result, and where it stands."""

    kind: str
    largest: float
    where: str


def compare(alone: Record, tiled: Record) -> list[Difference]:
    """For each kind of result, the largest difference relative to its tensor's largest entry.

    A network without weights has none of two kinds, which are left out. Deltas are compared where
    the tiled run has them: at the inputs of its groups.
    """
    found = []
    for kind in fields(Record):
        expected, given = getattr(alone, kind.name), getattr(tiled, kind.name)
        if not (expected or given):
            continue
        differences = {name: _relative(expected[name], given[name]) for name in given}
        where = max(differences, key=differences.__getitem__)
        found.append(Difference(kind.name, differences[where], where))
    return found


def _relative(expected: np.ndarray, given: np.ndarray) -> float:
    """NaN counts as infinitely far."""
    difference = float(np.max(np.abs(given - expected), initial=0))
    scale = float(np.max(np.abs(expected), initial=0))
    if not np.isfinite(difference):
        return float("inf")
    return difference / scale if scale else difference
