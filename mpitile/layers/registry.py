"""From a layer's description to the code that does it."""

from __future__ import annotations

from mpitile.layers.base import LayerWork, Site
from mpitile.layers.classification import SoftmaxCrossEntropy, SquaredError
from mpitile.layers.convolutional import Convolution
from mpitile.layers.detection import RegionLoss
from mpitile.layers.dropping import Dropping
from mpitile.layers.joining import Addition, Routing
from mpitile.layers.pooling import AveragePooling, MaxPooling
from mpitile.layers.reorganization import Reorganization
from mpitile.layers.upsampling import Upsampling
from mpitile.layers.yolo import YoloLoss
from mpitile.network import spec

_WORK: dict[type, type] = {
    spec.Convolutional: Convolution,
    spec.Connected: Convolution,
    spec.MaxPool: MaxPooling,
    spec.AvgPool: AveragePooling,
    spec.Route: Routing,
    spec.Shortcut: Addition,
    spec.Reorg: Reorganization,
    spec.Upsample: Upsampling,
    spec.Dropout: Dropping,
    spec.Softmax: SoftmaxCrossEntropy,
    spec.Region: RegionLoss,
}


def make_layer(site: Site, network: spec.Network) -> LayerWork:
    """The work of one layer at its site."""
    operation = site.layer.operation
    if isinstance(operation, spec.Cost):
        behind = site.layer.index > 0 and network.layers[site.layer.index - 1].operation
        return SquaredError(site, isinstance(behind, spec.Softmax))
    if isinstance(operation, spec.Yolo):
        return YoloLoss(site, network.shape(0))
    return _WORK[type(operation)](site)


def is_loss(operation: spec.Operation) -> bool:
    """Whether a layer of this kind gives the network its loss."""
    return isinstance(operation, spec.Softmax | spec.Region | spec.Yolo | spec.Cost)


def overwrites(operation: spec.Operation) -> bool:
    """Whether a layer of this kind can overwrite its input delta, being the first to write."""
    return isinstance(operation, spec.Convolutional | spec.Connected | spec.MaxPool)
