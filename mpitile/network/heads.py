"""Which layers of a network detect boxes."""

from __future__ import annotations

from mpitile.network.spec import Layer, Network, Region, Yolo


def heads(network: Network) -> tuple[Layer, ...]:
    """The detection losses; the last of them, if any, ends the network."""
    return tuple(layer for layer in network.layers if isinstance(layer.operation, Region | Yolo))
