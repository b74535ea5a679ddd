"""Convolution, batch norm or bias, activation; also fully connected layers."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from mpitile.kernels import activation, conv
from mpitile.kernels.prepared import Run, in_turn
from mpitile.layers.bands import images_of
from mpitile.layers.base import Site, Step, kept_tile
from mpitile.layers.normalized import NormalizedProduct
from mpitile.network.kept import PRODUCT
from mpitile.network.spec import OUTPUT_HIDES, Convolutional


class Convolution:
    """A connected layer is the convolution whose kernel covers the whole input."""

    def __init__(self, site: Site) -> None:
        self.site = site
        operation = site.layer.operation
        self._activation = operation.activation
        self._stride, self._padding, self._groups = 1, 0, 1
        if isinstance(operation, Convolutional):
            self._stride, self._padding = operation.stride, operation.padding
            self._groups = operation.groups
        self._normalized = self._before = None
        if operation.batch_normalize:
            self._normalized = NormalizedProduct(site, self._stride, self._padding, self._groups)
        elif operation.activation in OUTPUT_HIDES:
            self._before = kept_tile(site, PRODUCT)

    def forward(self, step: Step) -> None:
        site, normalized = self.site, self._normalized
        if normalized:
            normalized.forward(step)
            self._apply()
            return
        self._forward()
        if self._before:
            site.output.view(site.box)[...] = self._before.view(site.box)
            activation.forward(site.output, site.box, None, self._activation)

    @cached_property
    def _forward(self) -> Run:
        site = self.site
        return conv.prepare_forward(
            site.inputs[0],
            site.parameters["weights"],
            self._before or site.output,
            site.box,
            self._stride,
            self._padding,
            site.workspace,
            biases=site.parameters["biases"],
            activation="linear" if self._before else self._activation,
            algorithm=site.algorithms.get("forward"),
            groups=self._groups,
        )

    def backward_input(self, step: Step) -> None:
        site = self.site
        if self._normalized:
            self._normalized_backward(self._normalized, step)
        if self._before:
            activation.backward_before(site.output_delta, self._before, site.box, self._activation)
        if site.input_deltas[0] is not None:
            self._backward_input()

    @cached_property
    def _backward_input(self) -> Run:
        site = self.site
        return conv.prepare_backward_input(
            site.output_delta,
            site.box,
            site.parameters["weights"],
            site.input_deltas[0],
            self._stride,
            self._padding,
            site.workspace,
            accumulate=not site.fresh,
            algorithm=site.algorithms.get("backward_input"),
            groups=self._groups,
            **self._derivative(),
        )

    @cached_property
    def _apply(self) -> Run:
        """Normalises the product, and activates it."""
        normalized, output = self._normalized, self.site.output
        return in_turn(
            *(normalized.prepare_apply(band, images_of(output, band)) for band in normalized.bands)
        )

    def _normalized_backward(self, normalized: NormalizedProduct, step: Step) -> None:
        """Turn the output delta into that of the product, in place."""
        normalized.normalization.begin_backward()
        self._sum()
        normalized.normalization.agree_backward(step)
        self._differentiate()

    @cached_property
    def _sum(self) -> Run:
        """Turns the delta into that of the normalised product, and adds it up."""
        normalized, site = self._normalized, self.site
        runs = []
        for band in normalized.bands:
            delta, output = images_of(site.output_delta, band), images_of(site.output, band)
            runs.append(normalized.prepare_activation_backward(band, delta, output))
            runs.append(normalized.prepare_sum(band, delta))
        return in_turn(*runs)

    @cached_property
    def _differentiate(self) -> Run:
        """Turns it into that of the product."""
        normalized, delta = self._normalized, self.site.output_delta
        prepare = normalized.prepare_differentiate
        return in_turn(*(prepare(band, images_of(delta, band)) for band in normalized.bands))

    def backward_weights(self, step: Step) -> None:
        self._backward_weights[step.overwrite]()

    @cached_property
    def _backward_weights(self) -> tuple[Run, Run]:
        """What adds to the gradient, and what overwrites it."""
        adds, overwrites = (self._prepare_weights(accumulate) for accumulate in (True, False))
        return adds, overwrites

    def _prepare_weights(self, accumulate: bool) -> Run:
        site = self.site
        return conv.prepare_backward_weights(
            site.inputs[0],
            site.output_delta,
            site.box,
            site.gradients["weights"],
            self._stride,
            self._padding,
            site.workspace,
            accumulate=accumulate,
            algorithm=site.algorithms.get("backward_weights"),
            groups=self._groups,
            **(self._derivative() if site.input_deltas[0] is None else {}),
        )

    def _derivative(self) -> dict[str, Any]:
        """What whoever reads the output delta first has to do to it."""
        if self._normalized:
            return {}
        if self._before:
            return {"bias_gradient": self.site.gradients["biases"]}
        return {
            "output": self.site.output,
            "activation": self._activation,
            "bias_gradient": self.site.gradients["biases"],
        }
