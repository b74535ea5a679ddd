"""Training steps of a plan on any communicator, with everything whole and looked at.

`run_tiled` runs ranks as threads; `run_rank` is one rank's part and takes any
communicator, so that tests under mpirun compare the same things.
"""

from dataclasses import dataclass

import numpy as np

from mpitile.comm.devices import make_devices
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.layers.base import Step
from mpitile.network.spec import Cost, Region, Softmax, Yolo
from mpitile.plan.filters import tile_spans
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program


@dataclass(frozen=True)
class Pass:
    """One step, put together from all ranks.

    Attributes
    ----------
    loss : summed over all images.
    tensors, deltas : by tensor number, values and gradients, (N, H, W, C).
    gradients : by (layer, name), of trained parameters.
    parameters : by (layer, name), the values after the step and running statistics.
    """

    loss: float
    tensors: list
    deltas: list
    gradients: dict
    parameters: dict


def run_tiled(network, plan, images, truths, **options):
    """All ranks of the plan as threads: the passes of each step. See `run_rank`."""
    return run_ranks(
        plan.ranks, lambda comm: run_rank(comm, network, plan, images, truths, **options)
    )[0]


def whole_plan(network):
    """One rank, one group."""
    return Plan(Grid(1, 1), (0,))


def run_rank(
    world,
    network,
    plan,
    images,
    truths,
    steps=3,
    seed=0,
    dtype=np.float64,
    rate=0.01,
    seen=0,
    key=1,
    merge_pools=False,
    ranks_per_device=None,
):
    """One rank's part of some steps of gradient descent on the same images. Collective.

    A step moves the weights by `rate` times the gradient over its largest entry, so that
    networks with large and small losses move equally far.

    Parameters
    ----------
    images : (N, H, W, C), the same on all ranks; each cuts out its part.
    truths : for each image.
    seed : of the initial parameters.
    seen, key : of the first step; the second has ``key + 1``.
    merge_pools : do without tensors that only a pool reads; they are None in the passes.
    ranks_per_device : how many ranks share memory, or "auto"; None for none.

    Returns
    -------
    Rank 0: a `Pass` for each step. Other ranks: None.
    """
    topology = make_topology(world, plan)
    parameters = Parameters(network, dtype, spans=tile_spans(network, plan, topology.tile))
    draw(parameters, seed)
    share = len(images) // plan.replicas
    mine = slice(topology.replica * share, (topology.replica + 1) * share)
    program = Program(
        Partition(network, plan),
        topology,
        parameters,
        share,
        input_gradient=True,
        merge_pools=merge_pools,
        group=None if ranks_per_device is None else make_devices(world, ranks_per_device),
    )
    image = program.values[0]
    image.array[...] = images[(mine, *image.box.slices())]

    passes = []
    for number in range(steps):
        step = Step(
            training=True,
            reduce=world.sum,
            images=len(images),
            first_image=mine.start,
            seen=seen + (number + 1) * len(images),
            key=key + number,
            overwrite=number % 2 == 0,
            truths=truths[mine],
        )
        passes.append(one_step(topology, program, step, mine, rate))
    check_same_everywhere(world, parameters.shared)
    check_same_everywhere(topology.peers, parameters.slices)
    return passes if world.rank == 0 else None


def one_step(topology, program, step, mine, rate):
    world, parameters = topology.world, program.parameters
    # Odd passes overwrite whatever stands there, even ones add to it.
    for flat in (parameters.shared, parameters.slices):
        flat.gradients[...] = np.nan if step.overwrite else 0
    boxes = program.part.owned
    owned = {0: (boxes[0], 0, program.values[0].view(boxes[0]).copy())}

    def keep(tensor, tile):
        owned[tensor] = (boxes[tensor], tile.first_channel, tile.view(boxes[tensor]).copy())

    program.forward(step, keep)
    partial = {}

    def observe(tensor, tile):
        if tensor in partial:
            raise AssertionError(f"tensor {tensor} was observed twice")
        partial[tensor] = (tile.box, tile.first_channel, tile.array.copy())

    program.backward(step, observe)
    loss = np.array([program.loss])
    world.sum(loss)
    world.sum(parameters.gradients)
    topology.peers.sum(parameters.slices.gradients)
    flats = (parameters.shared, parameters.slices)
    largest = np.array([max(np.abs(flat.gradients).max(initial=0) for flat in flats)])
    world.maximum(largest)
    gradients = whole_arrays(world, parameters, parameters.gradients_of)
    for flat in flats if largest[0] > 0 else ():
        flat.values -= rate / largest[0] * flat.gradients
    shapes = program.network.shapes
    return Pass(
        float(loss[0]),
        put_together(world, owned, shapes, mine, step.images),
        put_together(world, partial, shapes, mine, step.images),
        gradients,
        whole_arrays(world, parameters, parameters.of_layer),
    )


def whole_arrays(world, parameters, of_layer):
    """Copies of all layers' arrays by (layer, name), slices put together. Collective."""
    layers = range(len(parameters.network.layers))
    own = {(layer, name): view for layer in layers for name, view in of_layer(layer).items()}
    apart = {
        place: (parameters.spans[place[0]][0], view.copy())
        for place, view in own.items()
        if place[0] in parameters.spans
    }
    found = {place: view.copy() for place, view in own.items()}
    everywhere = world.allgather(apart)
    for place in apart:
        slices = dict(part[place] for part in everywhere if part[place][1].size)
        found[place] = np.concatenate([slices[first] for first in sorted(slices)], axis=-1)
    return found


def put_together(world, pieces, shapes, mine, images):
    """On rank 0, each whole tensor as the sum of all ranks' boxes; None elsewhere."""
    gathered = world.gather((mine, pieces))
    if gathered is None:
        return None
    wholes = []
    for tensor, shape in enumerate(shapes):
        if tensor not in pieces:
            wholes.append(None)
            continue
        whole = np.zeros((images, shape.height, shape.width, shape.channels))
        for part, boxes in gathered:
            box, first, array = boxes[tensor]
            if not box.empty:
                channels = slice(first, first + array.shape[3])
                whole[(part, *box.slices(), channels)] += array
        wholes.append(whole)
    return wholes


def check_same_everywhere(world, parameters):
    """Every rank's parameters are bit-identical."""
    state = parameters.values.tobytes() + parameters.running.tobytes()
    for rank, other in enumerate(world.allgather(state)):
        if other != state:
            raise AssertionError(f"parameters of rank {rank} differ from rank {world.rank}'s")


def draw(parameters, seed):
    """Initial parameters of which none is zero or one."""
    parameters.draw(seed)
    for number, spec in enumerate(parameters.specs):
        view = parameters.view(spec)
        filters = parameters.network.layers[spec.layer].output_shape.channels
        channels = slice(*parameters.spans.get(spec.layer, (0, filters)))
        random = np.random.default_rng([seed, 1, number])
        if spec.name in ("biases", "rolling_mean"):
            view[...] = random.normal(0, 0.3, filters)[channels]
        elif spec.name in ("scales", "rolling_variance"):
            view[...] = random.uniform(0.5, 1.5, filters)[channels]


def arrays(parameters):
    """Copies of all values and running statistics by (layer, name)."""
    return {(spec.layer, spec.name): parameters.view(spec).copy() for spec in parameters.specs}


def initial_arrays(network, seed, dtype=np.float64):
    """The parameters that `run_rank` starts with, by (layer, name)."""
    parameters = Parameters(network, dtype)
    draw(parameters, seed)
    return arrays(parameters)


def random_images(network, count, seed):
    """Standard normal images (N, H, W, C): no two values are equal."""
    shape = network.shapes[0]
    random = np.random.default_rng([seed, 2])
    return random.standard_normal((count, shape.height, shape.width, shape.channels))


def random_truths(network, count, seed):
    """Boxes for detection losses, classes for the others."""
    random = np.random.default_rng([seed, 3])
    operation = network.layers[-1].operation
    if isinstance(operation, Region | Yolo):
        return [random_boxes(random, operation.classes) for _ in range(count)]
    if isinstance(operation, Softmax | Cost):
        return [int(n) for n in random.integers(network.shapes[-1].channels, size=count)]
    return [0] * count


def random_boxes(random, classes):
    number = random.integers(0, 4)
    places = random.uniform(0.02, 0.98, (number, 2))
    sizes = random.uniform(0.05, 0.9, (number, 2))
    return np.column_stack([places, sizes, random.integers(classes, size=number)])


# Of a sum whose terms cancel to less, rounding leaves fewer digits than tests ask for.
CANCELLED = 1e-3


def assert_close(name, actual, expected, tolerance, floor=0.0):
    """Entries differ by at most `tolerance` of the largest entry expected, or of `floor`."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
    assert np.isfinite(expected).all(), f"{name}: not finite"
    scale = max(np.abs(expected).max(initial=0), floor)
    error = np.abs(actual - expected).max(initial=0)
    assert error <= tolerance * scale, (
        f"{name}: differs by {error:.3g}, {error / scale if scale else np.inf:.3g} of {scale:.3g}"
    )


def assert_same_pass(actual, expected, tolerance, network=None):
    """Loss, tensors, deltas and weight gradients agree to `tolerance` of each one's largest.

    Tensors that `actual` did without are left out.

    A bias gradient is a sum over all cells that may cancel, to nothing in front of a batch
    norm that takes the mean away. No rounding can be judged by what is left then, so it
    is held against the sum of the terms' magnitudes. With a `network`, so is a weight gradient
    whose terms cancel to less than a part `CANCELLED` of that.
    """
    assert_close("loss", actual.loss, expected.loss, tolerance)
    for kind in ("tensors", "deltas"):
        pairs = zip(getattr(actual, kind), getattr(expected, kind), strict=True)
        for number, (one, other) in enumerate(pairs):
            if one is not None:
                assert_close(f"{kind}[{number}]", one, other, tolerance)
    assert actual.gradients.keys() == expected.gradients.keys()
    for (layer, name), gradient in expected.gradients.items():
        floor = 0.0
        if name in ("biases", "weights"):
            terms = np.abs(expected.deltas[layer + 1]).sum(axis=(0, 1, 2)).max()
        if name == "biases":
            floor = terms
        elif name == "weights" and network:
            (source,) = network.layers[layer].inputs
            floor = CANCELLED * np.abs(expected.tensors[source]).max(initial=0) * terms
        place = f"gradient of {name} of layer {layer}"
        assert_close(place, actual.gradients[layer, name], gradient, tolerance, floor)


def assert_same_parameters(actual, expected, tolerance):
    """All parameters agree to `tolerance` of each array's largest entry."""
    for place, values in expected.items():
        assert_close(f"parameters {place}", actual[place], values, tolerance)
