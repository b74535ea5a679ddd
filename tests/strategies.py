"""Random networks, plans and cases for hypothesis.

What would make a comparison of two roundings meaningless is left out by construction:

- batch norm over few cells (with two, its output is plus or minus one whatever the input),
  or behind few weights (with one, its output does not depend on it; what a gradient has
  along the weights and along the mean input cancels): little is left but rounding;
- batch norm behind a layer without activation that has a bias of its own: the gradient of
  that bias is zero but for rounding;
- the mean, or the sum of squares, of what batch norm has scaled: a constant;
- a max-pool behind an overlapping one, or behind an upsampling: cells that copy one cell are
  equal, and so are their products with the same kernel but for rounding.
"""

from dataclasses import dataclass
from math import gcd

import hypothesis.strategies as st

from mpitile.geometry.tiling import Grid
from mpitile.network import spec
from mpitile.network.shapes import infer
from mpitile.plan.filters import divides_filters, keeps_channels, split_at_switches
from mpitile.plan.plan import Plan

MAX_CHANNELS = 16
FEWEST_NORMALIZED = 24
FEWEST_WEIGHTS = 8
LARGEST_UPSAMPLED = 24


@dataclass(frozen=True)
class Case:
    """A network, how it is cut, and from what its data are drawn."""

    network: spec.Network
    plan: Plan
    batch: int
    seed: int
    seen: int

    def _repr_pretty_(self, printer, cycle):
        operations = [layer.operation for layer in self.network.layers]
        printer.text(
            f"Case(image={self.network.shapes[0]}, operations={operations}, plan={self.plan}, "
            f"batch={self.batch}, seed={self.seed}, seen={self.seen})"
        )


class _Draft:
    """A network under construction."""

    def __init__(self, options, batch):
        self.options = options
        self.batch = batch
        self.operations = []
        self.shapes = [spec.Shape(options.height, options.width, options.channels)]
        self.overlapped = False
        # How many cells of a tensor may be copies of one.
        self.copies = 1
        self.linear = False

    @property
    def shape(self):
        return self.shapes[-1]

    def add(self, *operations):
        """Those that make sense only together, at once."""
        self.operations += operations
        self.shapes = list(self.network().shapes)

    def network(self):
        return infer(self.options, [(0, operation) for operation in self.operations], "random")


def _conv(draw, draft):
    shape = draft.shape
    size = draw(st.integers(1, 5))
    padding = draw(st.sampled_from([size // 2, 0, size - 1]))
    if min(shape.height, shape.width) + 2 * padding < size:
        padding = size // 2
        size = min(size, min(shape.height, shape.width) + 2 * padding)
    stride = draw(st.sampled_from([1, 1, 2, 3]))
    filters = draw(st.sampled_from([2, 3, 4, 8]))
    activation = draw(st.sampled_from(["leaky", "leaky", "relu", "logistic", "mish", "linear"]))
    common = gcd(shape.channels, filters)
    groups = draw(st.sampled_from([1, 1, *(n for n in range(2, common + 1) if common % n == 0)]))
    rows = (shape.height + 2 * padding - size) // stride + 1
    columns = (shape.width + 2 * padding - size) // stride + 1
    enough = (
        rows * columns * draft.batch >= FEWEST_NORMALIZED * draft.copies
        and size * size * shape.channels // groups >= FEWEST_WEIGHTS
    )
    normalize = enough and not draft.linear and draw(st.booleans())
    draft.linear = draft.linear or activation == "linear"
    draft.add(spec.Convolutional(filters, size, stride, padding, activation, normalize, groups))


def _maxpool(draw, draft):
    shape = draft.shape
    size = draw(st.integers(2, 3))
    padding = draw(st.sampled_from([size - 1, 0, 1]))
    if min(shape.height, shape.width) + padding < size:
        padding = size - 1
    stride = draw(st.integers(1, 3))
    draft.overlapped = draft.overlapped or stride < size
    draft.add(spec.MaxPool(size, stride, padding))


def _pooled(draw, draft):
    """A convolution whose pool's windows lie side by side: runs compute both together."""
    shape, linear = draft.shape, draft.linear
    enough = shape.height * shape.width * draft.batch >= FEWEST_NORMALIZED
    normalize = enough and not linear and draw(st.booleans())
    draft.add(spec.Convolutional(draw(st.sampled_from([2, 3, 4])), 3, 1, 1, "leaky", normalize))
    draft.add(spec.MaxPool(2, 2, 1))


def _shortcut_sources(draft):
    last = draft.shape
    return [
        index
        for index, shape in enumerate(draft.shapes[1:])
        if shape.height >= last.height
        and shape.height // last.height == shape.width // last.width
        and index < len(draft.operations)
    ]


def _shortcut(draw, draft):
    source = draw(st.sampled_from(_shortcut_sources(draft)))
    activation = draw(st.sampled_from(["linear", "leaky", "mish"]))
    draft.add(spec.Shortcut(source, activation))


def _route(draw, draft):
    first = draw(st.integers(0, len(draft.operations) - 1))
    layers, channels = [first], draft.shapes[first + 1].channels
    size = draft.shapes[first + 1].height, draft.shapes[first + 1].width
    for index, shape in draw(st.permutations(list(enumerate(draft.shapes[1:])))):
        fits = (shape.height, shape.width) == size and channels + shape.channels <= MAX_CHANNELS
        if fits and len(layers) < 3 and draw(st.booleans()):
            layers.append(index)
            channels += shape.channels
    draft.add(spec.Route(tuple(layers)))


def _reorg_strides(shape):
    return [
        stride
        for stride in (2, 3)
        if shape.height % stride == 0
        and shape.width % stride == 0
        and shape.channels % stride**2 == 0
        and shape.channels * stride**2 <= 2 * MAX_CHANNELS
    ]


def _reorg(draw, draft):
    draft.add(spec.Reorg(draw(st.sampled_from(_reorg_strides(draft.shape)))))


def _upsample(draw, draft):
    stride = draw(st.integers(2, 3))
    draft.overlapped = True
    draft.copies *= stride**2
    draft.add(spec.Upsample(stride, draw(st.sampled_from([1.0, 1.0, 0.5]))))


def _dropout(draw, draft):
    draft.add(spec.Dropout(draw(st.sampled_from([0.2, 0.5]))))


def _middle_layer(draw, draft):
    kinds = [_conv, _conv, _conv]
    if not draft.overlapped:
        kinds += [_maxpool, _pooled, _pooled]
    if draft.operations:
        kinds += [_route, _dropout]
        if _shortcut_sources(draft):
            kinds += [_shortcut]
        if max(draft.shape.height, draft.shape.width) <= LARGEST_UPSAMPLED:
            kinds += [_upsample, _upsample]
        if _reorg_strides(draft.shape):
            kinds += [_reorg, _reorg]
    draw(st.sampled_from(kinds))(draw, draft)


def _leave_normalized(draft):
    """A layer that is no batch norm, where the network's loss might be blind to one."""
    convolutions = [op for op in draft.operations if isinstance(op, spec.Convolutional)]
    if any(convolution.batch_normalize for convolution in convolutions):
        draft.add(spec.Convolutional(3, 1, activation="leaky"))


def _end_plain(draw, draft):
    _leave_normalized(draft)


def _end_average(draw, draft):
    _leave_normalized(draft)
    draft.add(spec.AvgPool())
    draft.add(spec.Softmax())
    if draw(st.booleans()):
        draft.add(spec.Cost())


def _end_connected(draw, draft):
    activation = draw(st.sampled_from(["linear", "leaky", "logistic"]))
    draft.add(spec.Connected(draw(st.integers(2, 6)), activation))
    draft.add(draw(st.sampled_from([spec.Softmax(), spec.Cost()])))


def _end_region(draw, draft):
    anchors = tuple((0.7 + 1.3 * n, 1.9 - 0.4 * n) for n in range(draw(st.integers(1, 3))))
    classes = draw(st.integers(1, 3))
    filters = len(anchors) * (classes + 5)
    draft.add(spec.Convolutional(filters, 1, activation="linear"))
    flags = [draw(st.booleans()) for _ in range(3)]
    draft.add(spec.Region(anchors, classes, *flags, thresh=0.4, object_scale=5, class_scale=0.8))


def _end_yolo(draw, draft):
    """Two or three heads, behind the last layer and behind routes to earlier ones."""
    heads, classes = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    anchors = tuple((6.0 + 9 * n, 14.0 - 2.5 * n) for n in range(4))
    thresholds = draw(st.sampled_from([(0.5, 1.0), (0.2, 0.4)]))
    stretch = draw(st.sampled_from([1.0, 1.2]))
    operations = []
    for number in range(heads):
        if number:
            source = draw(st.integers(0, len(draft.operations) - 1))
            operations.append(spec.Route((source,)))
            shape = draft.shapes[source + 1]
            if max(shape.height, shape.width) <= LARGEST_UPSAMPLED:
                operations.append(spec.Upsample(2))
        mask = draw(st.sets(st.integers(0, 3), min_size=1, max_size=3))
        operations.append(spec.Convolutional(len(mask) * (classes + 5), 1, activation="linear"))
        operations.append(spec.Yolo(anchors, tuple(mask), classes, *thresholds, stretch))
    draft.add(*operations)


@st.composite
def networks(draw, batch=1, layers=8):
    """Random networks of up to `layers` layers before their end."""
    options = spec.NetOptions(
        height=draw(st.integers(13, 64)),
        width=draw(st.integers(17, 48)),
        channels=draw(st.integers(2, 3)),
    )
    draft = _Draft(options, batch)
    for _ in range(draw(st.integers(1, layers))):
        _middle_layer(draw, draft)
    ends = [_end_plain, _end_average, _end_connected, _end_region, _end_yolo]
    draw(st.sampled_from(ends))(draw, draft)
    return draft.network()


@st.composite
def groups(draw, network):
    """The first layers of random fused groups."""
    starts = draw(st.sets(st.integers(1, len(network.layers))))
    return (0, *sorted(start for start in starts if start < len(network.layers)))


def recompute_flags(count):
    """None of the groups, or some."""
    return st.just(()) | st.lists(st.booleans(), min_size=count, max_size=count).map(tuple)


@st.composite
def filter_parallel(draw, network):
    """Some of the layers that can be divided by their filters."""
    chosen = []
    for layer in network.layers:
        behind = layer.index - 1 in chosen and layer.inputs == (layer.index,)
        possible = divides_filters(layer) or (keeps_channels(layer) and behind)
        if possible and draw(st.booleans()):
            chosen.append(layer.index)
    return tuple(chosen)


@st.composite
def plans(draw, network, replicas=1, filters=False):
    """Random grids from 1x1 to 3x3, groups, recomputation, and tile weights now and then.

    With `filters` some layers are filter-parallel, in three of four plans.
    """
    side = 2 if replicas == 3 else 3
    sides = draw(st.integers(1, side)), draw(st.integers(1, side))
    block = (draw(st.sampled_from([n for n in range(1, s + 1) if s % n == 0])) for s in sides)
    grid = Grid(*sides, tuple(block))

    def weights(parts):
        if draw(st.integers(0, 3)):
            return None
        return tuple(draw(st.integers(1, 4)) / 2 for _ in range(parts))

    starts, chosen = draw(groups(network)), ()
    if filters and draw(st.integers(0, 3)):
        chosen = draw(filter_parallel(network))
        starts = split_at_switches(network, starts, chosen)
    return Plan(
        grid,
        starts,
        replicas,
        weights(grid.rows),
        weights(grid.columns),
        draw(recompute_flags(len(starts))),
        chosen,
    )


@st.composite
def cases(draw, layers=8, filters=False):
    """A network with a plan, a batch of 1 to 4 images, which replicas divide, and a seed.

    Parameters
    ----------
    filters : whether plans may have filter-parallel layers.
    """
    replicas = draw(st.sampled_from([1, 1, 1, 2, 2, 3] if filters else [1, 1, 2]))
    batch = draw(st.sampled_from({1: [1, 2, 3], 2: [2, 4], 3: [3]}[replicas]))
    network = draw(networks(batch, layers))
    plan = draw(plans(network, replicas, filters))
    return Case(
        network, plan, batch, draw(st.integers(0, 2**16)), draw(st.sampled_from([0, 20000]))
    )
