"""A whole network in plain NumPy: every tensor, gradient and statistic of one pass.

No tiles, no ranks, no memory saved. Each layer's function returns its output and a
function from the output's gradient to those of its inputs and of its parameters.
"""

from dataclasses import dataclass

import numpy as np
from oracles.region_oracle import region_oracle
from oracles.yolo_oracle import yolo_oracle

from mpitile.kernels import reference
from mpitile.network import spec

EPSILON, MOMENTUM = 1e-5, 0.01
LOSSES = spec.Softmax | spec.Cost | spec.Region | spec.Yolo


@dataclass(frozen=True)
class Reference:
    """Attributes
    ----------
    loss : summed over images.
    tensors, deltas : by tensor number, values and gradients, (N, H, W, C).
    gradients : by (layer, name), of trained parameters.
    running : by (layer, name), updated running statistics.
    """

    loss: float
    tensors: list
    deltas: list
    gradients: dict
    running: dict


def network_numpy(network, parameters, images, truths, seen=0, key=0):
    """One forward and backward pass in training.

    Parameters
    ----------
    parameters : arrays by (layer, name).
    images : (N, H, W, C).
    truths : for each image its class, or its boxes (n, 5) for a region loss.
    seen, key : as in `mpitile.layers.base.Step`.
    """
    tensors, backwards, running = [np.asarray(images, np.float64)], [], {}
    for layer in network.layers:
        inputs = [tensors[tensor] for tensor in layer.inputs]
        mine = {name: array for (index, name), array in parameters.items() if index == layer.index}
        if isinstance(layer.operation, spec.Convolutional | spec.Connected):
            y, backward, statistics = convolution(layer.operation, inputs[0], mine)
            running |= {(layer.index, name): value for name, value in statistics.items()}
        else:
            y, backward = plain_layer(layer, inputs, key)
        tensors.append(y)
        backwards.append(backward)

    loss, seeds = loss_of(network, tensors, truths, seen)
    deltas = [np.zeros_like(tensor) for tensor in tensors]
    for tensor, delta in seeds.items():
        deltas[tensor] += delta
    gradients = {}
    for layer in reversed(network.layers):
        if isinstance(layer.operation, LOSSES):
            continue
        input_deltas, mine = backwards[layer.index](deltas[layer.output])
        for tensor, delta in zip(layer.inputs, input_deltas, strict=True):
            deltas[tensor] += delta
        gradients |= {(layer.index, name): value for name, value in mine.items()}
    return Reference(loss, tensors, deltas, gradients, running)


def loss_of(network, tensors, truths, seen):
    """The loss, and its gradients by the numbers of the tensors that it is taken of."""
    operations = [layer.operation for layer in network.layers]
    last = len(operations)
    if isinstance(operations[-1], spec.Cost) and isinstance(operations[-2:][0], spec.Softmax):
        last -= 1
    operation = operations[last - 1]
    if isinstance(operation, spec.Softmax):
        p = tensors[last]
        target = one_hot(truths, p.shape)
        return -np.log(p[target == 1]).sum(), {last - 1: p - target}
    if isinstance(operation, spec.Cost):
        difference = tensors[last - 1] - one_hot(truths, tensors[last].shape)
        return (difference**2).sum(), {last - 1: difference}
    if isinstance(operation, spec.Region):
        limit = operation.max_boxes or None
        cost, gradient = region_oracle(
            tensors[last - 1],
            [boxes[:limit] for boxes in truths],
            operation.anchors,
            operation.classes,
            operation.softmax,
            operation.bias_match,
            operation.rescore,
            operation.thresh,
            operation.object_scale,
            operation.noobject_scale,
            operation.class_scale,
            operation.coord_scale,
            seen,
        )
        return cost, {last - 1: gradient}
    if isinstance(operation, spec.Yolo):
        return heads_loss(network, tensors, truths)
    return (tensors[last] ** 2).sum(), {last: 2 * tensors[last]}


def heads_loss(network, tensors, truths):
    """The sum of all [yolo] losses."""
    total, seeds = 0.0, {}
    for layer in network.layers:
        head = layer.operation
        if isinstance(head, spec.Yolo):
            (source,) = layer.inputs
            cost, seeds[source] = yolo_oracle(
                tensors[source],
                [boxes[: head.max_boxes or None] for boxes in truths],
                tensors[0].shape[1:3],
                head.anchors,
                head.mask,
                head.classes,
                head.ignore_thresh,
                head.truth_thresh,
                head.scale_x_y,
            )
            total += cost
    return total, seeds


def one_hot(classes, shape):
    result = np.zeros(shape)
    for image, number in enumerate(classes):
        result[image, 0, 0, number] = 1
    return result


def convolution(operation, x, parameters):
    """Product, batch norm or bias, activation; a connected layer's kernel covers its input."""
    weights, biases = parameters["weights"], parameters["biases"]
    stride, padding, groups = 1, 0, 1
    if isinstance(operation, spec.Convolutional):
        stride, padding, groups = operation.stride, operation.padding, operation.groups
    product = reference.conv2d(x, weights, stride, padding, groups)
    statistics = {}
    if operation.batch_normalize:
        scales = parameters["scales"]
        before, mean, inverse = reference.batch_norm(product, scales, biases, EPSILON)
        statistics["rolling_mean"] = (1 - MOMENTUM) * parameters["rolling_mean"] + MOMENTUM * mean
        statistics["rolling_variance"] = (1 - MOMENTUM) * parameters[
            "rolling_variance"
        ] + MOMENTUM * product.var(axis=(0, 1, 2), ddof=1)
    else:
        before = product + biases
    y = reference.activation(before, operation.activation)

    def backward(dy):
        dy = dy * slope(before, y, operation.activation)
        gradients = {}
        if operation.batch_normalize:
            dy, gradients["scales"], gradients["biases"] = reference.batch_norm_backward(
                dy, product, scales, mean, inverse
            )
        else:
            gradients["biases"] = dy.sum(axis=(0, 1, 2))
        gradients["weights"] = reference.conv2d_backward_weights(
            x, dy, weights.shape[:2], stride, padding, groups
        )
        dx = reference.conv2d_backward_input(dy, weights, x.shape, stride, padding, groups)
        return [dx], gradients

    return y, backward, statistics


def slope(before, y, kind):
    """An activation's derivative from its input or its output."""
    if kind == "mish":
        return reference.mish_derivative(before)
    return reference.activation_derivative(y, kind)


def plain_layer(layer, inputs, key):
    """Output and backward function of a layer without parameters."""
    operation, x = layer.operation, inputs[0]
    match operation:
        case spec.MaxPool(size, stride, padding):
            y, argmax = reference.max_pool(x, size, stride, padding)
            return y, lambda dy: (
                [reference.max_pool_backward(dy, argmax, x.shape, size, stride, padding)],
                {},
            )
        case spec.AvgPool():
            return reference.average_pool(x), lambda dy: (
                [reference.average_pool_backward(dy, x.shape)],
                {},
            )
        case spec.Route():
            ends = np.cumsum([array.shape[3] for array in inputs])[:-1]
            return np.concatenate(inputs, axis=3), lambda dy: (np.split(dy, ends, axis=3), {})
        case spec.Shortcut(activation=activation):
            return shortcut(x, inputs[1], activation)
        case spec.Reorg(stride):
            return reference.reorg(x, stride), lambda dy: (
                [reference.reorg_backward(dy, stride)],
                {},
            )
        case spec.Upsample(stride, scale):
            return reference.upsample(x, stride, scale), lambda dy: (
                [reference.upsample_backward(dy, stride, scale)],
                {},
            )
        case spec.Dropout(probability):
            mask = reference.dropout_mask(x.shape, probability, layer_key(key, layer.index), 0)
            return x * mask, lambda dy: ([dy * mask], {})
        case spec.Softmax():
            powers = np.exp(x - x.max(axis=3, keepdims=True))
            return powers / powers.sum(axis=3, keepdims=True), no_gradient
        case spec.Cost() | spec.Region() | spec.Yolo():
            return x.copy(), no_gradient
    raise ValueError(f"no reference for {operation}")


def no_gradient(dy):
    raise AssertionError("the loss is differentiated at the layer's input")


def layer_key(key, index):
    """The key of a dropout layer in one pass."""
    return (key + 0x9E3779B97F4A7C15 * (index + 1)) % 2**64


def shortcut(previous, source, activation):
    """Every `stride`-th cell and the common channels of the source are added."""
    height, width = previous.shape[1:3]
    stride = source.shape[2] // width
    common = min(previous.shape[3], source.shape[3])
    sampled = np.s_[
        :, : (height - 1) * stride + 1 : stride, : (width - 1) * stride + 1 : stride, :common
    ]
    before = previous.copy()
    before[..., :common] += source[sampled]
    y = reference.activation(before, activation)

    def backward(dy):
        dy = dy * slope(before, y, activation)
        dsource = np.zeros_like(source)
        dsource[sampled] += dy[..., :common]
        return [dy, dsource], {}

    return y, backward
