"""Networks whose layers are those of common detectors, to measure machines with."""

from __future__ import annotations

from mpitile.network.shapes import infer
from mpitile.network.spec import Convolutional, MaxPool, NetOptions, Network, Operation

# Filters and kernel sizes of YOLOv2's first 16 layers, and of YOLOv2-tiny's; 0 is a max-pool.
_LARGE = (32, 0, 64, 0, 128, (64, 1), 128, 0, 256, (128, 1), 256, 0, 512, (256, 1), 512)
_TINY = (16, 0, 32, 0, 64, 0, 128, 0, 256, 0, 512, 1024, (125, 1))
# Filters and strides of MobileNet's first pairs of a depthwise and a 1x1 convolution.
_PAIRS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


def common_networks() -> tuple[Network, ...]:
    """Plain convolutions merged with pools, others with batch norm, and depthwise ones."""
    return (
        _network("YOLOv2 up to layer 16", 608, _LARGE, False),
        _network("YOLOv2-tiny", 416, _TINY, True),
        _pairs("MobileNet up to layer 14", 224),
    )


def _network(
    name: str, size: int, words: tuple[int | tuple[int, int], ...], normalize: bool
) -> Network:
    operations: list[tuple[int, Operation]] = []
    for word in words:
        filters, kernel = word if isinstance(word, tuple) else (word, 3)
        if filters:
            operations.append(
                (0, Convolutional(filters, kernel, 1, kernel // 2, "leaky", normalize))
            )
        else:
            operations.append((0, MaxPool(2, 2, 1)))
    return infer(NetOptions(height=size, width=size), operations, name)


def _pairs(name: str, size: int) -> Network:
    operations: list[tuple[int, Operation]] = [(0, Convolutional(32, 3, 2, 1, "relu", True))]
    channels = 32
    for filters, stride in _PAIRS:
        depthwise = Convolutional(channels, 3, stride, 1, "relu", True, groups=channels)
        operations += [(0, depthwise), (0, Convolutional(filters, 1, 1, 0, "relu", True))]
        channels = filters
    return infer(NetOptions(height=size, width=size), operations, name)
