"""Which convolutions hand their output to a pool row by row, without storing it."""

from __future__ import annotations

from collections.abc import Collection

from mpitile.network.spec import Convolutional, MaxPool, Network


def merged_pools(network: Network, starts: Collection[int]) -> frozenset[int]:
    """Numbers of the max-pools that are computed together with the convolution before them.

    The convolution has no batch norm, which would have to see its whole output first,
    nobody else reads it, its pool's windows do not overlap, and both are in the
    same fused group.

    Parameters
    ----------
    starts : the first layers of the fused groups.
    """
    readers = [tensor for layer in network.layers for tensor in layer.inputs]
    found = set()
    for before, layer in zip(network.layers, network.layers[1:], strict=False):
        pool, convolution = layer.operation, before.operation
        if (
            isinstance(pool, MaxPool)
            and isinstance(convolution, Convolutional)
            and not convolution.batch_normalize
            and pool.size <= pool.stride
            and readers.count(before.output) == 1
            and layer.index not in starts
        ):
            found.add(layer.index)
    return frozenset(found)


def pieces(network: Network, merged: Collection[int]) -> tuple[tuple[int, ...], ...]:
    """Numbers of the layers that are computed together, in order; the last one's output is stored.

    Parameters
    ----------
    merged : the pools that are computed together with the convolution before them.
    """
    return tuple(
        (index - 1, index) if index in merged else (index,)
        for index in range(len(network.layers))
        if index + 1 not in merged
    )
