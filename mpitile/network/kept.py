"""What a layer's backward pass wants of its forward pass."""

from __future__ import annotations

from mpitile.network.spec import (
    OUTPUT_HIDES,
    Connected,
    Convolutional,
    Cost,
    Layer,
    MaxPool,
    Region,
    Shortcut,
    Softmax,
    Yolo,
)

# One entry for each cell and channel of the layer's output.
PRODUCT = "product"
ARGMAX = "argmax"
GRADIENT = "gradient"


def kept(layer: Layer) -> dict[str, bool]:
    """Names of the arrays that a layer keeps, shaped like its output.

    Returns
    -------
    For each name, whether its entries are of the network's dtype; single bytes else.
    """
    if isinstance(layer.operation, MaxPool):
        return {ARGMAX: False}
    if isinstance(layer.operation, Region | Yolo):
        # Found together with the loss.
        return {GRADIENT: True}
    activation = getattr(layer.operation, "activation", None)
    if getattr(layer.operation, "batch_normalize", False) or activation in OUTPUT_HIDES:
        # The tensor before normalisation, or before activation without one: the gradient needs it.
        return {PRODUCT: True}
    return {}


def reads_input_again(layer: Layer) -> bool:
    """Whether the layer's backward pass reads the values of its inputs."""
    return isinstance(layer.operation, Convolutional | Connected | Cost)


def reads_output_again(layer: Layer) -> bool:
    """Whether the layer's backward pass reads the values of its output.

    They tell the derivative of an activation, and the gradient of a softmax.
    """
    operation = layer.operation
    if isinstance(operation, Convolutional | Connected | Shortcut):
        return operation.activation != "linear" and operation.activation not in OUTPUT_HIDES
    return isinstance(operation, Softmax)
