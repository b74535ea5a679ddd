"""What a layer keeps from forward to backward beside its output."""

from __future__ import annotations

from mpitile.network.spec import Layer, MaxPool

# One entry for each cell and channel of the layer's output.
PRODUCT = "product"
ARGMAX = "argmax"


def kept(layer: Layer) -> dict[str, bool]:
    """Names of the arrays that a layer keeps, shaped like its output.

    Returns
    -------
    For each name, whether its entries are of the network's dtype; single bytes else.
    """
    if isinstance(layer.operation, MaxPool):
        return {ARGMAX: False}
    if getattr(layer.operation, "batch_normalize", False):
        # The tensor before normalisation, which the gradient needs.
        return {PRODUCT: True}
    return {}
