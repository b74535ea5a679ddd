"""A network in PyTorch, float32, in one of its two layouts, for benchmarks."""

import torch
import torch.nn.functional as F
from torch_region import RegionLoss

from mpitile.network import spec

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def available():
    """One thread, as ours."""
    torch.set_num_threads(1)
    return torch.__version__


class Layer:
    """One convolution: what its three operations cost alone."""

    def __init__(self, operation, images, channels, rows, columns, layout):
        size = operation.size
        make = {"memory_format": LAYOUTS[layout]}
        self.x = torch.randn(images, channels, rows, columns).to(**make)
        self.weights = torch.randn(operation.filters, channels, size, size).to(**make)
        self.biases = torch.randn(operation.filters)
        self.stride, self.padding = operation.stride, operation.padding
        self.dy = torch.randn_like(self.forward())

    def forward(self):
        with torch.no_grad():
            y = F.conv2d(self.x, self.weights, self.biases, self.stride, self.padding)
            return F.leaky_relu_(y, 0.1)

    def _backward(self, which):
        return torch.ops.aten.convolution_backward(
            self.dy,
            self.x,
            self.weights,
            None,
            (self.stride,) * 2,
            (self.padding,) * 2,
            (1, 1),
            False,
            (0, 0),
            1,
            which,
        )

    def backward_input(self):
        self._backward((True, False, False))

    def backward_weights(self):
        self._backward((False, True, False))


class Network:
    """All layers; a sum of squares takes the place of a loss other than ``[region]``."""

    def __init__(self, network, images, layout, truths):
        self.format = LAYOUTS[layout]
        shape = network.shapes[0]
        image = torch.randn(images, shape.channels, shape.height, shape.width)
        self.image = image.to(memory_format=self.format)
        self.loss = lambda output: (output**2).sum()
        last = network.layers[-1]
        if isinstance(last.operation, spec.Region):
            rows, columns = last.output_shape.height, last.output_shape.width
            self.loss = RegionLoss(last.operation, rows, columns, truths)
        self.layers = [layer for layer in network.layers if is_timed(layer.operation)]
        self.parameters = {}
        for layer in self.layers:
            operation = layer.operation
            if isinstance(operation, spec.Convolutional):
                channels = network.shapes[layer.inputs[0]].channels
                self.parameters[layer.index] = self._convolution(operation, channels)
            elif isinstance(operation, spec.Connected):
                source = network.shapes[layer.inputs[0]]
                cells = source.height * source.width * source.channels
                self.parameters[layer.index] = [
                    leaf(torch.randn(operation.outputs, cells) / cells**0.5),
                    leaf(torch.zeros(operation.outputs)),
                ]

    def _convolution(self, operation, channels):
        fan_in = channels * operation.size**2
        weights = torch.randn(operation.filters, channels, operation.size, operation.size)
        weights = (weights * (2 / fan_in) ** 0.5).to(memory_format=self.format)
        scales = [leaf(torch.ones(operation.filters))] if operation.batch_normalize else []
        return [leaf(weights), leaf(torch.zeros(operation.filters)), *scales]

    def step(self):
        """Forward and backward; the gradients of all parameters are made anew."""
        for group in self.parameters.values():
            for tensor in group:
                tensor.grad = None
        tensors = [self.image]
        for layer in self.layers:
            inputs = [tensors[tensor] for tensor in layer.inputs]
            tensors.append(self._forward(layer, inputs))
        self.loss(tensors[-1]).backward()

    def _forward(self, layer, inputs):
        operation, x = layer.operation, inputs[0]
        match operation:
            case spec.Convolutional(batch_normalize=True):
                weights, biases, scales = self.parameters[layer.index]
                y = F.conv2d(x, weights, None, operation.stride, operation.padding)
                y = F.batch_norm(y, None, None, scales, biases, training=True)
                return activate(y, operation.activation)
            case spec.Convolutional():
                y = F.conv2d(x, *self.parameters[layer.index], operation.stride, operation.padding)
                return activate(y, operation.activation)
            case spec.Connected():
                y = F.linear(x.flatten(1), *self.parameters[layer.index])
                return activate(y[:, :, None, None], operation.activation)
            case spec.MaxPool(size, stride, padding):
                rows, columns = layer.output_shape.height, layer.output_shape.width
                before = padding // 2
                after = [
                    max((cells - 1) * stride + size - before - side, 0)
                    for cells, side in ((columns, x.shape[3]), (rows, x.shape[2]))
                ]
                if before or any(after):
                    sides = (before, after[0], before, after[1])
                    x = F.pad(x, sides, value=float("-inf"))
                return F.max_pool2d(x, size, stride)
            case spec.AvgPool():
                return x.mean(dim=(2, 3), keepdim=True)
            case spec.Route():
                return torch.cat(inputs, dim=1)
            case spec.Shortcut(activation=activation):
                return activate(inputs[0] + inputs[1], activation)
        raise ValueError(f"not in this benchmark: {operation}")


def is_timed(operation):
    return not isinstance(operation, spec.Softmax | spec.Region | spec.Cost)


def leaf(tensor):
    return tensor.requires_grad_(True)


def activate(y, kind):
    if kind == "leaky":
        return F.leaky_relu(y, 0.1, inplace=True)
    if kind == "relu":
        return F.relu(y, inplace=True)
    return torch.sigmoid(y) if kind == "logistic" else y
