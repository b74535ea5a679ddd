"""Every kernel once more in plain NumPy, on whole tensors (N, H, W, C) in float64.

Written to be read, not to be fast: the compiled kernels are held against these.
"""

from __future__ import annotations

import numpy as np


def _padded(x: np.ndarray, before: int, after: int, value: float) -> np.ndarray:
    sides = (before, after)
    return np.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=value)


def _shifted(padded: np.ndarray, ky: int, kx: int, rows: int, columns: int, stride: int):
    """View of the cell (ky, kx) of every window: (N, rows, columns, C)."""
    return padded[
        :,
        ky : ky + (rows - 1) * stride + 1 : stride,
        kx : kx + (columns - 1) * stride + 1 : stride,
    ]


def conv_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output cells along one side; the padding is that of one side."""
    return (size + 2 * padding - kernel) // stride + 1


def conv2d(
    x: np.ndarray, weights: np.ndarray, stride: int, padding: int, groups: int = 1
) -> np.ndarray:
    """Cross-correlation with weights (kh, kw, C / groups, K), without bias."""
    if groups > 1:
        pairs = zip(_parts(x, groups), _parts(weights, groups), strict=True)
        return np.concatenate([conv2d(*pair, stride, padding) for pair in pairs], axis=3)
    kernel_height, kernel_width, _, filters = weights.shape
    rows = conv_size(x.shape[1], kernel_height, stride, padding)
    columns = conv_size(x.shape[2], kernel_width, stride, padding)
    padded = _padded(x.astype(np.float64), padding, padding, 0)
    y = np.zeros((len(x), rows, columns, filters))
    for ky in range(kernel_height):
        for kx in range(kernel_width):
            y += _shifted(padded, ky, kx, rows, columns, stride) @ weights[ky, kx]
    return y


def _parts(array: np.ndarray, groups: int) -> list[np.ndarray]:
    return np.split(array, groups, axis=3)


def conv2d_backward_input(
    dy: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, ...],
    stride: int,
    padding: int,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of the input, whose shape is `shape`."""
    if groups > 1:
        pairs = zip(_parts(dy, groups), _parts(weights, groups), strict=True)
        part = (*shape[:3], shape[3] // groups)
        parts = [conv2d_backward_input(*pair, part, stride, padding) for pair in pairs]
        return np.concatenate(parts, axis=3)
    _, rows, columns, _ = dy.shape
    padded = _padded(np.zeros(shape), padding, padding, 0)
    for ky in range(weights.shape[0]):
        for kx in range(weights.shape[1]):
            _shifted(padded, ky, kx, rows, columns, stride)[...] += dy @ weights[ky, kx].T
    return padded[:, padding : padding + shape[1], padding : padding + shape[2]]


def conv2d_backward_weights(
    x: np.ndarray,
    dy: np.ndarray,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    groups: int = 1,
) -> np.ndarray:
    """Gradient of the weights (kh, kw, C / groups, K)."""
    if groups > 1:
        pairs = zip(_parts(x, groups), _parts(dy, groups), strict=True)
        parts = [conv2d_backward_weights(*pair, kernel, stride, padding) for pair in pairs]
        return np.concatenate(parts, axis=3)
    _, rows, columns, filters = dy.shape
    padded = _padded(x.astype(np.float64), padding, padding, 0)
    dweights = np.zeros((*kernel, x.shape[3], filters))
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            cells = _shifted(padded, ky, kx, rows, columns, stride)
            dweights[ky, kx] = np.einsum("nyxc,nyxk->ck", cells, dy)
    return dweights


def activation(x: np.ndarray, kind: str) -> np.ndarray:
    """The activation `kind` of every element."""
    x = x.astype(np.float64)
    if kind == "linear":
        return x
    if kind == "leaky":
        return np.where(x > 0, x, 0.1 * x)
    if kind == "relu":
        return np.where(x > 0, x, 0)
    if kind == "logistic":
        return 1 / (1 + np.exp(-x))
    if kind == "mish":
        return x * np.tanh(np.logaddexp(0, x))
    raise ValueError(f"activation: expected linear, leaky, relu, logistic or mish, got {kind!r}")


def mish_derivative(x: np.ndarray) -> np.ndarray:
    """The derivative of mish, whose output does not tell it, where its input is `x`."""
    x = x.astype(np.float64)
    inner = np.tanh(np.logaddexp(0, x))
    return inner + x * (1 - inner**2) * 0.5 * (1 + np.tanh(x / 2))


def activation_derivative(y: np.ndarray, kind: str) -> np.ndarray:
    """The derivative where the activation's output is `y`."""
    y = y.astype(np.float64)
    if kind == "linear":
        return np.ones_like(y)
    if kind == "leaky":
        return np.where(y > 0, 1, 0.1)
    if kind == "relu":
        return np.where(y > 0, 1, 0)
    if kind == "logistic":
        return y * (1 - y)
    raise ValueError(f"activation: expected linear, leaky, relu or logistic, got {kind!r}")


def upsample(x: np.ndarray, stride: int, scale: float) -> np.ndarray:
    """Each cell as a square of `stride` by `stride` cells, times `scale`."""
    return scale * x.astype(np.float64).repeat(stride, axis=1).repeat(stride, axis=2)


def upsample_backward(dy: np.ndarray, stride: int, scale: float) -> np.ndarray:
    """Gradient of the input of `upsample`."""
    images, height, width, channels = dy.shape
    squares = dy.reshape(images, height // stride, stride, width // stride, stride, channels)
    return scale * squares.sum(axis=(2, 4))


def pool_size(size: int, window: int, stride: int, padding: int) -> int:
    """Output cells along one side; the padding is the sum of both sides."""
    return (size + padding - window) // stride + 1


def max_pool(x: np.ndarray, size: int, stride: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Each window's largest value, and ``ky * size + kx`` of the first cell that has it."""
    rows = pool_size(x.shape[1], size, stride, padding)
    columns = pool_size(x.shape[2], size, stride, padding)
    before = padding // 2
    padded = _padded(x.astype(np.float64), before, padding - before, -np.inf)
    windows = np.stack(
        [
            _shifted(padded, ky, kx, rows, columns, stride)
            for ky in range(size)
            for kx in range(size)
        ]
    )
    return windows.max(axis=0), windows.argmax(axis=0)


def max_pool_backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    shape: tuple[int, ...],
    size: int,
    stride: int,
    padding: int,
) -> np.ndarray:
    """Gradient of the input, whose shape is `shape`."""
    dx = np.zeros(shape)
    for (n, i, j, k), place in np.ndenumerate(argmax):
        row = i * stride - padding // 2 + place // size
        column = j * stride - padding // 2 + place % size
        dx[n, row, column, k] += dy[n, i, j, k]
    return dx


def average_pool(x: np.ndarray) -> np.ndarray:
    """Each channel's mean over the tensor: (N, 1, 1, C)."""
    return x.astype(np.float64).mean(axis=(1, 2), keepdims=True)


def average_pool_backward(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Gradient of the input, whose shape is `shape`."""
    return np.broadcast_to(dy / (shape[1] * shape[2]), shape).astype(np.float64)


def batch_norm(
    x: np.ndarray, scales: np.ndarray, biases: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, mean and inverse deviation ``1 / sqrt(variance + epsilon)`` of each channel.

    The variance is the biased one (Ioffe and Szegedy 2015, algorithm 1).
    """
    x = x.astype(np.float64)
    mean = x.mean(axis=(0, 1, 2))
    inverse_deviation = 1 / np.sqrt(x.var(axis=(0, 1, 2)) + epsilon)
    return scales * (x - mean) * inverse_deviation + biases, mean, inverse_deviation


def batch_norm_backward(
    dy: np.ndarray,
    x: np.ndarray,
    scales: np.ndarray,
    mean: np.ndarray,
    inverse_deviation: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of the input, the scales and the biases."""
    xhat = (x.astype(np.float64) - mean) * inverse_deviation
    dbiases = dy.sum(axis=(0, 1, 2))
    dscales = (dy * xhat).sum(axis=(0, 1, 2))
    cells = x.size // x.shape[3]
    dx = scales * inverse_deviation * (dy - dbiases / cells - xhat * dscales / cells)
    return dx, dscales, dbiases


def _flat(x: np.ndarray) -> np.ndarray:
    """Each image as Darknet stores it: flat, channels first."""
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def _channels_last(flat: np.ndarray, height: int, width: int) -> np.ndarray:
    return flat.reshape(len(flat), -1, height, width).transpose(0, 2, 3, 1)


def _reorg_order(height: int, width: int, channels: int, stride: int) -> np.ndarray:
    """Number of the flat input element that each flat output element copies.

    The input is seen as (C / s**2, H, s, W, s) and put in the order (s, s, C / s**2, H, W).
    """
    numbers = np.arange(height * width * channels)
    wide = numbers.reshape(channels // stride**2, height, stride, width, stride)
    return wide.transpose(2, 4, 0, 1, 3).ravel()


def reorg(x: np.ndarray, stride: int) -> np.ndarray:
    """Darknet's [reorg] of the flat channels-first buffer."""
    _, height, width, channels = x.shape
    flat = _flat(x)[:, _reorg_order(height, width, channels, stride)]
    return _channels_last(flat, height // stride, width // stride)


def reorg_backward(dy: np.ndarray, stride: int) -> np.ndarray:
    """Gradient of the input of `reorg`."""
    height, width = dy.shape[1] * stride, dy.shape[2] * stride
    channels = dy.shape[3] // stride**2
    flat = np.zeros((len(dy), height * width * channels))
    flat[:, _reorg_order(height, width, channels, stride)] = _flat(dy)
    return _channels_last(flat, height, width)


def _splitmix64(state: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """Output number `counter` of the generator at `state` (Steele, Lea and Flood 2014)."""
    z = state + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def dropout_mask(
    shape: tuple[int, ...], probability: float, key: int, first_image: int
) -> np.ndarray:
    """What dropout multiplies each cell by: 0 or ``1 / (1 - probability)``."""
    state = np.full((1, 1, 1, 1), key, np.uint64)
    starts = (first_image, 0, 0, 0)
    for axis, (start, size) in enumerate(zip(starts, shape, strict=True)):
        counter = np.arange(start, start + size, dtype=np.uint64)
        state = _splitmix64(state, counter.reshape([-1 if a == axis else 1 for a in range(4)]))
    uniform = (state >> np.uint64(11)) * 2.0**-53
    return np.where(uniform >= probability, 1 / (1 - probability), 0.0)


def resample(
    image: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
) -> np.ndarray:
    """Mixtures of four pixels of a uint8 (H, W, 3) each, over 255, in the weights' precision.

    Source cells and their weights are (2, n) along each axis.
    """
    upper, lower = (row_weights[i][:, None, None] * image[rows[i]] for i in range(2))
    mixed = upper + lower
    left, right = (column_weights[i][:, None] * mixed[:, columns[i]] for i in range(2))
    return (left + right) / 255


def change_colours(
    pixels: np.ndarray, hue: float, saturation: float, exposure: float
) -> np.ndarray:
    """RGB (..., 3) with another hue, saturation and value in HSV, in the precision of `pixels`."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    value = pixels.max(axis=-1)
    spread = value - pixels.min(axis=-1)
    largest = pixels.argmax(axis=-1)
    differences = np.choose(largest, [green - blue, blue - red, red - green])
    sixths = differences / np.where(spread == 0, 1, spread) + 2 * largest.astype(pixels.dtype)
    sixths += 6 * hue % 6
    sixths[sixths < 0] += 6
    sixths[sixths >= 6] -= 6
    value *= exposure
    spread *= exposure * saturation
    parts = (2 - np.abs(sixths - 3), np.abs(sixths - 2) - 1, np.abs(sixths - 4) - 1)
    channels = [value - part.clip(0, 1) * spread for part in parts]
    return np.stack(channels, axis=-1).clip(0, 1)
