"""A whole network in PyTorch, float64, differentiated by autograd."""

import numpy as np
import torch
import torch.nn.functional as F
from oracles.network_numpy import EPSILON, MOMENTUM, Reference, layer_key, loss_of

from mpitile.kernels import reference
from mpitile.network import spec


def network_torch(network, parameters, images, truths, seen=0, key=0):
    """As `network_numpy`; tensors are kept (N, H, W, C) and turned for each operation.

    Of a region or yolo loss PyTorch differentiates only what lies before it.
    """
    leaves = {
        place: torch.tensor(array, dtype=torch.float64, requires_grad="rolling" not in place[1])
        for place, array in parameters.items()
    }
    tensors = [torch.tensor(images, dtype=torch.float64, requires_grad=True)]
    for layer in network.layers:
        mine = {name: leaf for (index, name), leaf in leaves.items() if index == layer.index}
        y = forward(layer, [tensors[tensor] for tensor in layer.inputs], mine, key)
        y.retain_grad()
        tensors.append(y)
    loss = differentiate(network, tensors, truths, seen)
    return Reference(
        loss,
        [array(tensor) for tensor in tensors],
        [gradient(tensor) for tensor in tensors],
        {place: gradient(leaf) for place, leaf in leaves.items() if leaf.requires_grad},
        {place: array(leaf) for place, leaf in leaves.items() if not leaf.requires_grad},
    )


def array(tensor):
    return tensor.detach().numpy()


def gradient(tensor):
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()


def differentiate(network, tensors, truths, seen):
    """Run autograd from the network's loss and return the loss."""
    operations = [layer.operation for layer in network.layers]
    if isinstance(operations[-1], spec.Region | spec.Yolo):
        values = [array(tensor) for tensor in tensors]
        loss, seeds = loss_of(network, values, truths, seen)
        torch.autograd.backward(
            [tensors[start] for start in seeds], [torch.tensor(delta) for delta in seeds.values()]
        )
        return loss
    softmax = [index for index, op in enumerate(operations) if isinstance(op, spec.Softmax)]
    if softmax:
        loss = F.cross_entropy(tensors[softmax[0]][:, 0, 0], torch.tensor(truths), reduction="sum")
    elif isinstance(operations[-1], spec.Cost):
        scores = tensors[-2][:, 0, 0]
        loss = ((scores - F.one_hot(torch.tensor(truths), scores.shape[1])) ** 2).sum()
        # Darknet's gradient is that of half its cost.
        (loss / 2).backward()
        return loss.item()
    else:
        loss = (tensors[-1] ** 2).sum()
    loss.backward()
    return loss.item()


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def forward(layer, inputs, parameters, key):
    operation, x = layer.operation, inputs[0]
    match operation:
        case spec.Convolutional():
            kernel = parameters["weights"].permute(3, 2, 0, 1)
            y = F.conv2d(
                channels_first(x),
                kernel,
                stride=operation.stride,
                padding=operation.padding,
                groups=operation.groups,
            )
            return activate(channels_last(offset(y, parameters, operation)), operation.activation)
        case spec.Connected(outputs):
            kernel = parameters["weights"].reshape(-1, outputs)
            y = F.linear(x.reshape(len(x), -1), kernel.T)[:, :, None, None]
            return activate(channels_last(offset(y, parameters, operation)), operation.activation)
        case spec.MaxPool(size, stride, padding):
            before = padding // 2
            sides = (before, padding - before)
            padded = F.pad(channels_first(x), sides * 2, value=-np.inf)
            return channels_last(F.max_pool2d(padded, size, stride))
        case spec.AvgPool():
            return x.mean(dim=(1, 2), keepdim=True)
        case spec.Route():
            return torch.cat(inputs, dim=3)
        case spec.Shortcut(activation=activation):
            return activate(shortcut(x, inputs[1]), activation)
        case spec.Reorg(stride):
            return channels_last(darknet_reorg(channels_first(x), stride))
        case spec.Upsample(stride, scale):
            return channels_last(scale * F.interpolate(channels_first(x), scale_factor=stride))
        case spec.Dropout(probability):
            mask = reference.dropout_mask(x.shape, probability, layer_key(key, layer.index), 0)
            return x * torch.tensor(mask)
        case spec.Softmax():
            return torch.softmax(x, dim=3)
        case spec.Cost() | spec.Region() | spec.Yolo():
            return x.clone()
    raise ValueError(f"no reference for {operation}")


def offset(y, parameters, operation):
    """Batch norm, which updates the running statistics, or bias; channels first."""
    if not operation.batch_normalize:
        return y + parameters["biases"][:, None, None]
    return F.batch_norm(
        y,
        parameters["rolling_mean"],
        parameters["rolling_variance"],
        parameters["scales"],
        parameters["biases"],
        training=True,
        momentum=MOMENTUM,
        eps=EPSILON,
    )


def activate(x, kind):
    if kind == "leaky":
        return F.leaky_relu(x, 0.1)
    # clone: every tensor is a node of its own, so that its gradient can be kept.
    functions = {"linear": torch.clone, "relu": torch.relu, "logistic": torch.sigmoid}
    return (functions | {"mish": F.mish})[kind](x)


def shortcut(previous, source):
    height, width = previous.shape[1:3]
    stride = source.shape[2] // width
    common = min(previous.shape[3], source.shape[3])
    sampled = source[:, ::stride, ::stride, :common][:, :height, :width]
    return previous + F.pad(sampled, (0, previous.shape[3] - common))


def darknet_reorg(x, stride):
    """Gather from the flat buffer by the index formula of Darknet's `reorg_cpu` (src/blas.c).

    Output element (k, j, i), counted in the input's shape, comes from the cell
    ``(j, i) * stride`` plus an offset that the high part of k gives, in a buffer read as
    C / stride**2 channels of stride * H rows and stride * W columns.
    """
    channels, height, width = x.shape[1:]
    k, j, i = np.indices((channels, height, width))
    offset, channel = np.divmod(k, channels // stride**2)
    down, across = np.divmod(offset, stride)
    row, column = j * stride + down, i * stride + across
    order = (channel * height * stride + row) * width * stride + column
    flat = x.reshape(len(x), -1)[:, torch.tensor(order.ravel())]
    return flat.reshape(len(x), channels * stride**2, height // stride, width // stride)
