"""Convolution, batch norm or bias, activation; also fully connected layers."""

from __future__ import annotations

from dataclasses import replace

from mpitile.kernels import activation, conv
from mpitile.layers.base import Site, Step
from mpitile.layers.normalization import Normalization
from mpitile.network.kept import PRODUCT
from mpitile.network.spec import Convolutional


class Convolution:
    """A connected layer is the convolution whose kernel covers the whole input."""

    def __init__(self, site: Site) -> None:
        self.site = site
        operation = site.layer.operation
        self._activation = operation.activation
        self._stride, self._padding = 1, 0
        if isinstance(operation, Convolutional):
            self._stride, self._padding = operation.stride, operation.padding
        self._normalization = None
        self._product = site.output
        if operation.batch_normalize:
            self._normalization = Normalization(site)
            # The gradient needs the tensor before normalisation.
            self._product = replace(site.output, array=site.kept[PRODUCT])

    def forward(self, step: Step) -> None:
        site = self.site
        weights = site.parameters["weights"]
        conv.forward(
            site.inputs[0],
            weights,
            self._product,
            site.box,
            self._stride,
            self._padding,
            site.workspace,
        )
        biases = site.parameters["biases"]
        if self._normalization:
            self._normalization.forward(self._product, step)
            biases = None
        activation.forward(site.output, site.box, biases, self._activation)

    def backward_input(self, step: Step) -> None:
        site = self.site
        delta = site.output_delta
        activation.backward(delta, site.output, site.box, self._activation)
        if self._normalization:
            self._normalization.backward(self._product, step)
        else:
            activation.bias_gradient(delta, site.box, site.gradients["biases"])
        if site.input_deltas[0] is not None:
            conv.backward_input(
                delta,
                site.box,
                site.parameters["weights"],
                site.input_deltas[0],
                self._stride,
                self._padding,
                site.workspace,
            )

    def backward_weights(self, step: Step) -> None:
        site = self.site
        conv.backward_weights(
            site.inputs[0],
            site.output_delta,
            site.box,
            site.gradients["weights"],
            self._stride,
            self._padding,
            site.workspace,
        )
