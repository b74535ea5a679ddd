"""Slices of filter-parallel layers hold what the whole layer holds there."""

import numpy as np
import pytest

from mpitile.geometry.tiling import Grid
from mpitile.network.parameters import divided_specs
from mpitile.network.shapes import infer
from mpitile.network.spec import Connected, Convolutional, MaxPool, NetOptions
from mpitile.plan.filters import tile_spans
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters, trained_elements

OPERATIONS = [
    Convolutional(6, 3, padding=1, batch_normalize=True),
    Convolutional(7, 3, padding=1, batch_normalize=True),
    MaxPool(2, 2, 0),
    Connected(5),
    Connected(2),
]
NETWORK = infer(NetOptions(6, 6, 3), [(0, operation) for operation in OPERATIONS], "n")
FILTERS = (1, 2, 4)


def of_tile(tile, tiles=3):
    plan = Plan(Grid(1, tiles), (0, 1, 3, 4), filters=FILTERS)
    return Parameters(NETWORK, np.float64, spans=tile_spans(NETWORK, plan, tile))


@pytest.mark.parametrize("block", [1, 50, 1 << 16])
def test_slices_draw_the_numbers_of_the_whole(monkeypatch, block):
    whole = Parameters(NETWORK, np.float64)
    whole.draw(3)
    monkeypatch.setattr("mpitile.runtime.parameters._BLOCK", block)
    seen = 0
    for tile in range(3):
        sliced = of_tile(tile)
        sliced.draw(3)
        for one, other in zip(sliced.specs, whole.specs, strict=True):
            first, stop = sliced.spans.get(one.layer, (0, other.shape[-1]))
            np.testing.assert_array_equal(sliced.view(one), whole.view(other)[..., first:stop])
            seen += one.layer == 4 and sliced.view(one).size
    # Two outputs for three ranks: nothing is held twice, nothing left out.
    assert seen == sum(whole.view(spec).size for spec in whole.specs if spec.layer == 4)


def test_slices_lie_apart_from_what_all_ranks_share():
    sliced = of_tile(1)
    shared, slices = divided_specs(NETWORK, sliced.spans)
    assert (sliced.values.size, sliced.decaying) == trained_elements(shared)
    assert (sliced.slices.values.size, sliced.slices.decaying) == trained_elements(slices)
    assert sliced.running.size == 12
    assert sliced.slices.running.size == 2 * 2
    assert sliced.slices.decaying == 3 * 3 * 6 * 2 + sliced.of_layer(4)["weights"].size
    assert sliced.of_layer(1)["weights"].base is not sliced.values
    assert np.shares_memory(sliced.of_layer(1)["scales"], sliced.slices.values)
    assert np.shares_memory(sliced.gradients_of(1)["scales"], sliced.slices.gradients)
    assert np.shares_memory(sliced.gradients_of(0)["scales"], sliced.gradients)


def test_arrays_are_used_where_they_are_given():
    size = of_tile(0).slices.values.size
    values, gradients = np.zeros(size), np.zeros(size)
    plan = Plan(Grid(1, 3), (0, 1, 3, 4), filters=FILTERS)
    spans = tile_spans(NETWORK, plan, 0)
    sliced = Parameters(
        NETWORK, np.float64, spans=spans, slice_values=values, slice_gradients=gradients
    )
    sliced.of_layer(1)["weights"][...] = 1
    assert values.sum() == sliced.of_layer(1)["weights"].size
    assert sliced.slices.gradients is gradients
