"""Which convolutions hand their output to a pool row by row, without storing it."""

from __future__ import annotations

from collections.abc import Collection

from mpitile.network.spec import OUTPUT_HIDES, Convolutional, Layer, MaxPool, Network


def merged_pools(network: Network, starts: Collection[int]) -> frozenset[int]:
    """Numbers of the max-pools that are computed together with the convolution before them.

    Nobody else reads the convolution, its pool's windows do not overlap, its activation's
    derivative can be taken from the pool's output, and both are in the same fused group. With
    batch norm, whose statistics run over all cells, the windows cover them all.

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
            and pool.size <= pool.stride
            and convolution.activation not in OUTPUT_HIDES
            and (not convolution.batch_normalize or _covers(layer, before))
            and readers.count(before.output) == 1
            and layer.index not in starts
        ):
            found.add(layer.index)
    return frozenset(found)


def _covers(pooling: Layer, before: Layer) -> bool:
    """Whether windows from the first cell on, side by side, cover the input."""
    pool, given, taken = pooling.operation, before.output_shape, pooling.output_shape
    return (
        pool.size == pool.stride
        and pool.padding // 2 == 0
        and taken.height * pool.stride >= given.height
        and taken.width * pool.stride >= given.width
    )


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
