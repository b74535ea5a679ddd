"""By what measure the time of a layer's box is read between the measured ones."""

from __future__ import annotations

from mpitile.network.spec import Layer
from mpitile.plan.costs.layer_class import WINOGRAD, layer_class

# Winograd's algorithms compute squares of so many cells, from squares that are larger by the
# kernel's size less one.
_SQUARES, _KERNEL = (2, 4), 3
# Those of so many cells do not reach beyond the box. Few they are up to so many.
_CUT, _FEW = 4, 56
# In multiplications for one channel and one filter: what transforms cost at each place of a
# square, for each channel of it; reading the weights; and writing a place of their transform;
# both of these where squares are few; gradients of more weights than `_WIDE` cost as little there
# as the forward pass. Fewer channels than these are multiplied directly. As
# `mpitile.kernels.choice` weighs them.
_TRANSFORM, _WEIGHTS, _PLACE = 28, 400, 10
_NEAR = {"forward": 270, "backward_input": 350, "backward_weights": 460}
_WIDE = 2**18
_DIRECT_WEIGHTS, _FEWEST_CHANNELS = 330, 16


def effort(
    layer: Layer,
    operation: str,
    images: int,
    rows: int,
    columns: int,
    convolution: Layer | None = None,
) -> float:
    """What an operation's time follows on boxes of one layer class, in any unit.

    Cells, but for convolutions that Winograd's algorithms may compute: there it is the
    multiplications of the cheapest way, so that what its squares cover beyond the box counts.

    Parameters
    ----------
    rows, columns : of the layer's output.
    convolution : where the layer is a pool that is computed together with the convolution
        before it, the latter.
    """
    cells = images * rows * columns
    product = convolution or layer
    if not layer_class(product).startswith(WINOGRAD):
        return cells
    channels, filters = product.input_shapes[0].channels, product.output_shape.channels
    if min(channels, filters) < _FEWEST_CHANNELS:
        return cells
    if convolution is not None:
        stride = layer.operation.stride
        rows, columns = stride * rows, stride * columns
    # The input's gradient reaches over the box, but where it goes by the output's squares.
    reach = _KERNEL - 1 if operation == "backward_input" else 0
    ways = [float(_KERNEL**2 * images * (rows + reach) * (columns + reach) + _DIRECT_WEIGHTS)]
    transforms = 1 + _TRANSFORM * (1 / channels + 1 / filters)
    for cells in _SQUARES:
        if cells == _CUT and images * -(-rows // cells) * -(-columns // cells) <= _FEW:
            wide = operation == "backward_weights" and _KERNEL**2 * channels * filters > _WIDE
            near = _NEAR["forward" if wide else operation]
            ways.append(images * _line(rows, cells) * _line(columns, cells) * transforms + near)
            continue
        products = images * _line(rows + reach, cells) * _line(columns + reach, cells)
        ways.append(products * transforms + (cells + _KERNEL - 1) ** 2 * _PLACE + _WEIGHTS)
    return min(ways)


def _line(length: int, cells: int) -> int:
    """Places of a line of squares, the last of which may have what is left of the box."""
    whole, rest = divmod(length, cells)
    last = rest if cells == _CUT else cells
    return (cells + _KERNEL - 1) * whole + (last + _KERNEL - 1 if rest else 0)
