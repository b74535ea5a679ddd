"""Which layers can be filter-parallel, where groups start then, and who has which channels."""

import pytest

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.filters import check_filters, filter_spans, split_at_switches
from mpitile.plan.plan import Plan

CFG = """
[net]
height=16
width=16
channels=3
[convolutional]
filters=7
size=3
pad=1
[maxpool]
size=2
stride=2
[convolutional]
filters=3
size=3
pad=1
[route]
layers=-1
[convolutional]
filters=4
groups=1
size=1
[convolutional]
filters=4
groups=2
size=1
"""


@pytest.fixture
def network():
    return parse_network(CFG, "some.cfg")


@pytest.mark.parametrize("filters", [(), (0,), (0, 1), (0, 1, 2), (2, 4)])
def test_accepts_products_and_pools_behind_them(network, filters):
    check_filters(network, filters)


@pytest.mark.parametrize(
    ("filters", "number"), [((1,), 1), ((3,), 3), ((5,), 5), ((6,), 6), ((-1,), -1)]
)
def test_names_the_layer_that_cannot_be_divided(network, filters, number):
    with pytest.raises(InputError, match=f"layer {number}\\b"):
        check_filters(network, filters)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [((), (0, 3)), ((0,), (0, 1, 3)), ((0, 1, 2), (0, 2, 3)), ((2, 4), (0, 2, 3, 4, 5))],
)
def test_starts_groups_at_switches(network, filters, expected):
    assert split_at_switches(network, (0, 3), filters) == expected


def test_a_pool_that_goes_on_with_a_slice_starts_no_group(network):
    assert split_at_switches(network, (0, 1), (0, 1)) == (0, 2)


def test_every_channel_has_one_owner_also_where_filters_are_few(network):
    plan = Plan(Grid(2, 2), (0, 2, 3), row_weights=(1.0, 2.0), filters=(0, 1, 2))
    spans = filter_spans(network, plan)
    assert spans[0] == spans[1] == ((0, 1), (1, 2), (2, 4), (4, 7))
    assert spans[2] == ((0, 0), (0, 1), (1, 2), (2, 3))
