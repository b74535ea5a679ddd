"""What the cost model says of layers is what they do."""

import pytest

from mpitile.layers import registry
from mpitile.network.spec import (
    Connected,
    Convolutional,
    Dropout,
    MaxPool,
    Reorg,
    Route,
    Upsample,
    Yolo,
)
from mpitile.plan.costs.layer_class import overwrites


@pytest.mark.parametrize(
    "operation",
    [
        Convolutional(4, 3),
        Connected(3),
        MaxPool(2, 2, 1),
        Dropout(0.5),
        Reorg(2),
        Route((1,)),
        Upsample(2),
        Yolo(((4, 4),), (0,), 1),
    ],
)
def test_the_runtime_and_the_cost_agree_on_what_is_overwritten(operation):
    assert overwrites(operation) == registry.overwrites(operation)
