"""Devices that are alike: each is counted once, and none stands for one that differs."""

from dataclasses import replace

from planner_cases import cluster

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.costs.alike import Alike, Crew, alike_devices
from mpitile.plan.costs.cost import Cost
from mpitile.plan.plan import Plan

NETWORK = parse_network(
    "[net]\nheight=16\nwidth=16\nchannels=3\n[convolutional]\nfilters=2\nsize=3\npad=1\n", "one"
)


def alike(devices, grid, replicas):
    machine = cluster(*devices)
    # Devices of one kind share their speed, as those of a cluster file do.
    same = tuple(replace(device, speed=machine.devices[0].speed) for device in machine.devices[:2])
    machine = replace(machine, devices=(*same, *machine.devices[2:]))
    return alike_devices(Cost(NETWORK, machine), Plan(grid, (0,), replicas))


def test_teams_that_fill_devices_alike_count_together():
    assert alike([(4, 1), (4, 1)], Grid(2, 2), 2) == [Alike(0, 2, (Crew((0, 1, 2, 3), 1),))]


def test_one_team_leaves_each_device_its_own_tiles():
    found = alike([(2, 1), (2, 1)], Grid(2, 2), 1)
    assert found == [Alike(0, 1, (Crew((0, 1), 2),)), Alike(0, 1, (Crew((2, 3), 2),))]


def test_teams_across_devices_are_told_from_teams_inside():
    first, second = alike([(4, 1), (2, 1)], Grid(1, 3), 2)
    assert first.crews == (Crew((0, 1, 2), 1), Crew((0,), 2))
    assert second.crews == (Crew((1, 2), 2),)


def test_devices_of_other_speed_are_not_alike():
    found = alike([(2, 1), (2, 1), (2, 2.5)], Grid(1, 2), 3)
    assert [(one.device, one.count) for one in found] == [(0, 2), (2, 1)]
    assert [list(one.tiles()) for one in found] == [[0, 1], [0, 1]]
