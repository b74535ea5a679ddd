"""Grids, replicas and groups where the user names none, and errors where they do not fit."""

import pytest

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.by_rule import (
    choose_plan,
    default_groups,
    split_at_whole_inputs,
    squarest_grid,
)
from mpitile.plan.plan import Plan, check_ranks

PLAIN = """
[net]
height={height}
width={width}
[convolutional]
filters=4
size=3
pad=1
[maxpool]
size=2
stride=2
[convolutional]
filters=4
size=3
stride=2
pad=1
[convolutional]
filters=8
size=3
pad=1
"""
REORG = PLAIN + "[reorg]\nstride=2\n[convolutional]\nfilters=3\nsize=1\n"
CLASSIFIER = PLAIN + "[avgpool]\n[connected]\noutput=5\n[softmax]\n"
TWO_CONNECTED = PLAIN + "[connected]\noutput=5\n[connected]\noutput=3\n[softmax]\n"


def network(cfg=PLAIN, height=32, width=48):
    return parse_network(cfg.format(height=height, width=width), "small.cfg")


@pytest.mark.parametrize(
    ("tiles", "height", "width", "grid"),
    [
        (1, 10, 10, "1x1"),
        (4, 64, 64, "2x2"),
        (9, 64, 64, "3x3"),
        (6, 64, 96, "2x3"),
        (6, 96, 64, "3x2"),
        (12, 64, 64, "4x3"),  # a tie: the wider tile wins
        (2, 64, 64, "2x1"),
        (5, 64, 64, "5x1"),
        (7, 64, 80, "1x7"),
        (7, 80, 64, "7x1"),
        (4, 16, 200, "1x4"),
        (8, 416, 416, "4x2"),
        (13, 13, 13, "13x1"),
        (13, 12, 13, "1x13"),
        (6, 2, 100, "1x6"),
        (6, 2, 3, "2x3"),
        (4, 1, 4, "1x4"),
    ],
)
def test_the_border_between_tiles_is_shortest(tiles, height, width, grid):
    chosen = squarest_grid(tiles, height, width)
    assert str(chosen) == grid
    # No other grid of as many tiles that fits has fewer cells along its cuts.
    for rows in range(1, tiles + 1):
        if tiles % rows == 0 and rows <= height and tiles // rows <= width:
            border = (rows - 1) * width + (tiles // rows - 1) * height
            assert border >= (chosen.rows - 1) * width + (chosen.columns - 1) * height


@pytest.mark.parametrize(("tiles", "height", "width"), [(13, 12, 12), (22, 10, 10), (5, 2, 2)])
def test_too_many_tiles_are_named(tiles, height, width):
    with pytest.raises(InputError, match=f"{tiles} tiles do not fit .*{height}x{width} cells"):
        squarest_grid(tiles, height, width)


def test_ranks_are_replicas_times_tiles():
    plan = choose_plan(network(), 12, replicas=3)
    assert plan.grid == Grid(2, 2) and plan.replicas == 3 and plan.ranks == 12
    check_ranks(plan, 12)
    with pytest.raises(InputError, match=r"3 replica.* needs 12 ranks, but there are 4"):
        check_ranks(plan, 4)


@pytest.mark.parametrize(("ranks", "replicas"), [(4, 3), (4, 0), (4, 8), (4, -2)])
def test_replicas_divide_the_ranks(ranks, replicas):
    with pytest.raises(InputError, match=rf"replicas = {replicas}: .*divisor of the {ranks}"):
        choose_plan(network(), ranks, replicas=replicas)


def test_no_ranks_are_an_error():
    with pytest.raises(InputError, match="0 ranks"):
        choose_plan(network(), 0)


def test_a_named_grid_is_taken():
    plan = choose_plan(network(), 6, "3x2")
    assert plan.grid == Grid(3, 2)
    for text in ("3", "3x", "x2", "3x2x1", "-1x2", "0x2"):
        with pytest.raises(InputError, match="grid"):
            choose_plan(network(), 6, text)


def test_a_group_ends_with_each_loss_of_resolution():
    assert default_groups(network()) == (0, 2, 3)
    # A reduction in the last layer starts no group that would be empty.
    assert default_groups(network(PLAIN + "[maxpool]\nsize=2\nstride=2\n")) == (0, 2, 3)


@pytest.mark.parametrize(
    ("cfg", "groups"),
    [
        (PLAIN, (0, 2, 3)),
        # The reorganisation starts a group and, as it reduces, ends one.
        (REORG, (0, 2, 3, 4, 5)),
        # Behind the average there is one cell: its connected layer needs nothing more.
        (CLASSIFIER, (0, 2, 3, 4)),
        (TWO_CONNECTED, (0, 2, 3, 4)),
    ],
)
def test_layers_that_need_everything_start_a_group(cfg, groups):
    assert choose_plan(network(cfg), 4).groups == groups


def test_named_groups_are_split_before_whole_inputs():
    assert choose_plan(network(CLASSIFIER), 4, groups=[0]).groups == (0, 4)
    assert choose_plan(network(CLASSIFIER), 4, groups=[0, 1, 4]).groups == (0, 1, 4)
    assert choose_plan(network(), 4, groups=[0, 2]).groups == (0, 2)
    assert split_at_whole_inputs(network(REORG), (0, 5)) == (0, 4, 5)


@pytest.mark.parametrize(
    "groups", [[], [1], [2, 4], [0, 0], [0, 3, 2], [0, 2, 2], [0, 7], [0, 100], [-1, 0]]
)
@pytest.mark.parametrize("cfg", [CLASSIFIER, PLAIN])
def test_named_groups_must_cover_the_network(cfg, groups):
    # Merging in what is forced must not hide what was wrong before.
    with pytest.raises(InputError, match=r"groups .* do not cover the network"):
        choose_plan(network(cfg), 4, groups=groups)


def test_plans_are_plain_data():
    assert choose_plan(network(), 4) == Plan(Grid(2, 2), (0, 2, 3), 1)
    assert hash(choose_plan(network(), 4)) == hash(choose_plan(network(), 4))


def test_groups_that_recompute():
    def flags(wanted):
        return choose_plan(network(), 1, groups=[0, 1, 3], recompute=wanted).recompute

    assert flags("auto") == flags("none") == flags([]) == ()
    assert flags("all") == (True, True, True)
    assert flags([2, 0]) == (True, False, True)
    for wrong in ([3], [-1], [0, 7]):
        with pytest.raises(InputError, match=f"no group {wrong[-1]}: expected numbers from 0 to 2"):
            flags(wrong)
