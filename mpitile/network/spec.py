"""Frozen descriptions of layers and networks: what is computed, not how.

Tensors are numbered along the network: tensor 0 is the image, tensor ``i + 1``
is the output of layer ``i``. Layers are numbered from 0, as Darknet prints them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ACTIVATIONS = ("linear", "leaky", "relu", "logistic", "mish")
# Those whose derivative cannot be taken from their output.
OUTPUT_HIDES = frozenset({"mish"})


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows, columns and channels of one tensor of one image."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(frozen=True, slots=True)
class Convolutional:
    """Cross-correlation with square kernels, then batch norm or bias, then activation.

    Channels and filters are cut into as many `groups`; each group's filters see its channels.
    """

    filters: int
    size: int
    stride: int = 1
    padding: int = 0
    activation: str = "logistic"
    batch_normalize: bool = False
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Connected:
    """Every output sees the whole input tensor."""

    outputs: int
    activation: str = "logistic"
    batch_normalize: bool = False


@dataclass(frozen=True, slots=True)
class MaxPool:
    """`padding` is the sum of both sides; ``padding // 2`` of it lies before the first cell."""

    size: int
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class AvgPool:
    """The mean of each channel over the whole tensor."""


@dataclass(frozen=True, slots=True)
class Route:
    """Outputs of earlier layers (absolute numbers), concatenated along channels."""

    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """The previous layer's output plus that of layer `source` (absolute number).

    Where the source is larger, every `width // previous width`-th cell of it is
    taken; where channel counts differ, the common first ones are added.
    """

    source: int
    activation: str = "linear"


@dataclass(frozen=True, slots=True)
class Reorg:
    """Darknet's reorganisation of the flat channels-first buffer by `stride`."""

    stride: int


@dataclass(frozen=True, slots=True)
class Upsample:
    """Cell ``i // stride`` at every cell ``i`` of a tensor `stride` times as high and wide."""

    stride: int
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Dropout:
    """Zeroes a cell with `probability` while training and scales the others up."""

    probability: float


@dataclass(frozen=True, slots=True)
class Softmax:
    """Softmax over the channels of a 1x1 tensor; in training, cross-entropy loss."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Sum of squared differences to the truth; behind `Softmax` it adds nothing."""


@dataclass(frozen=True, slots=True)
class Region:
    """YOLOv2's detection loss. `anchors` are widths and heights in cells, in pairs."""

    anchors: tuple[tuple[float, float], ...]
    classes: int
    softmax: bool = False
    bias_match: bool = False
    rescore: bool = False
    thresh: float = 0.5
    object_scale: float = 1.0
    noobject_scale: float = 1.0
    class_scale: float = 1.0
    coord_scale: float = 1.0
    max_boxes: int = 0
    jitter: float = 0.2
    random: bool = False


@dataclass(frozen=True, slots=True)
class Yolo:
    """YOLOv3's detection loss, one of several in a network.

    `anchors` are widths and heights in cells of the image, in pairs, those of all the
    network's losses; `mask` has the numbers of this one's. `max_boxes` 0 is no limit.
    """

    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    classes: int
    ignore_thresh: float = 0.5
    truth_thresh: float = 1.0
    scale_x_y: float = 1.0
    max_boxes: int = 0
    jitter: float = 0.2
    random: bool = False


Operation = (
    Convolutional
    | Connected
    | MaxPool
    | AvgPool
    | Route
    | Shortcut
    | Reorg
    | Upsample
    | Dropout
    | Softmax
    | Cost
    | Region
    | Yolo
)


@dataclass(frozen=True, slots=True)
class NetOptions:
    """The ``[net]`` section: input size, schedule, optimiser and augmentation."""

    height: int
    width: int
    channels: int = 3
    batch: int = 1
    subdivisions: int = 1
    learning_rate: float = 0.001
    policy: str = "constant"
    burn_in: int = 0
    power: float = 4.0
    max_batches: int = 0
    steps: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    step: int = 1
    scale: float = 1.0
    gamma: float = 1.0
    momentum: float = 0.9
    decay: float = 0.0001
    adam: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-7
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    flip: bool = True


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with its place in the network.

    Attributes
    ----------
    index : the layer's number.
    line : line of its section header in the cfg, 0 where there is no file.
    operation : what it computes.
    inputs : numbers of the tensors that it reads, in the order of the operation.
    input_shapes, output_shape : shapes of those tensors and of its own.
    """

    index: int
    line: int
    operation: Operation
    inputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape

    @property
    def output(self) -> int:
        """The number of the tensor that the layer writes."""
        return self.index + 1

    @property
    def kind(self) -> str:
        return type(self.operation).__name__.lower()


@dataclass(frozen=True, slots=True)
class Network:
    """A network at one input size.

    Attributes
    ----------
    name : the cfg's path, or any name, for messages.
    options : the ``[net]`` section.
    layers : in the order of computing; a layer reads only earlier tensors.
    """

    name: str
    options: NetOptions
    layers: tuple[Layer, ...]
    shapes: tuple[Shape, ...] = field(repr=False, default=())

    def shape(self, tensor: int) -> Shape:
        """The shape of a tensor by its number."""
        return self.shapes[tensor]
