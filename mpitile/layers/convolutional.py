"""Convolution, batch norm or bias, activation; also fully connected layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
        fused = self._normalization is None
        conv.forward(
            site.inputs[0],
            site.parameters["weights"],
            self._product,
            site.box,
            self._stride,
            self._padding,
            site.workspace,
            biases=site.parameters["biases"] if fused else None,
            activation=self._activation if fused else "linear",
            algorithm=site.algorithms.get("forward"),
        )
        if self._normalization:
            self._normalization.forward(self._product, step)
            activation.forward(site.output, site.box, None, self._activation)

    def backward_input(self, step: Step) -> None:
        site = self.site
        if self._normalization:
            activation.backward(site.output_delta, site.output, site.box, self._activation)
            self._normalization.backward(self._product, step)
        if site.input_deltas[0] is not None:
            conv.backward_input(
                site.output_delta,
                site.box,
                site.parameters["weights"],
                site.input_deltas[0],
                self._stride,
                self._padding,
                site.workspace,
                accumulate=not site.fresh,
                algorithm=site.algorithms.get("backward_input"),
                **self._derivative(),
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
            algorithm=site.algorithms.get("backward_weights"),
            **(self._derivative() if site.input_deltas[0] is None else {}),
        )

    def _derivative(self) -> dict[str, Any]:
        """What whoever reads the output delta first has to do to it."""
        if self._normalization:
            return {}
        return {
            "output": self.site.output,
            "activation": self._activation,
            "bias_gradient": self.site.gradients["biases"],
        }
