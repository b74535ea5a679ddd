"""Timing the layers of a tile, and general rates from such times."""

import numpy as np
import pytest

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.network.common import common_networks
from mpitile.network.spec import Convolutional
from mpitile.plan.clusters.cluster import KINDS, OPERATIONS
from mpitile.plan.costs.layer_class import Work, layer_work
from mpitile.plan.plan import Plan
from mpitile.runtime.fitting import Sample, fit_rates
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.profiling import middle_tile, time_tile

TEXT = """
[net]
height=32
width=32
[convolutional]
filters=8
size=3
pad=1
activation=leaky
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=16
size=3
pad=1
activation=relu
[convolutional]
filters=14
size=1
activation=linear
"""
REGION = "[region]\nanchors=1,1,2,2\nnum=2\nclasses=2\n"


YOLO = "[yolo]\nmask={}\nanchors=4,4,9,9,16,16,24,24\nnum=4\nclasses=2\n"
HEADS = f"""{TEXT}{YOLO.format("2,3")}
[route]
layers=-3
[convolutional]
batch_normalize=1
filters=16
groups=16
size=3
pad=1
activation=mish
[upsample]
stride=2
[convolutional]
filters=14
size=1
activation=linear
{YOLO.format("0,1")}"""


def times(text, grid, groups, images=1):
    parameters = Parameters(parse_network(text, "net"), np.float32)
    parameters.draw(1)
    paces = [1.0] * 4
    found = time_tile(parameters, Plan(grid, groups), images, repeats=2, pace=paces.pop)
    assert not paces and found.pace == 1
    return found


def test_every_class_of_a_tile_is_timed():
    found = times(TEXT + REGION, Grid(2, 2), (0, 2))
    assert {name for name, _ in found.points} == {
        "conv 3x3/1 3-8 leaky + maxpool 2/2",
        "conv 3x3/1 8-16 relu bn",
        "conv 1x1/1 16-14 linear",
        "region 14",
    }
    assert {name for name, operation in found.points if operation == "backward_weights"} == {
        "conv 3x3/1 3-8 leaky + maxpool 2/2",
        "conv 3x3/1 8-16 relu bn",
        "conv 1x1/1 16-14 linear",
    }
    points = found.points["conv 1x1/1 16-14 linear", "forward"]
    assert [(point.images, point.rows, point.columns) for point in points] == [(1, 8, 8)]
    assert all(point.seconds > 0 for values in found.points.values() for point in values)
    assert found.wall > 0 < found.cpu
    # Halos of the second group: from three neighbours, and to them, forward and back.
    assert found.exchange.pieces == 2 * (3 + 3)
    assert found.exchange.bytes == 2 * 2 * 4 * 8 * (8 + 8 + 1)


def test_points_share_what_a_pass_takes_beside_its_layers():
    found = times(TEXT, Grid(1, 1), (0, 2))
    points = sum(point.seconds for every in found.points.values() for point in every)
    # Of two passes; nothing is exchanged, and three operations' worth is none.
    assert found.cpu / 4 < points < found.cpu


def test_times_are_those_at_the_mean_pace(monkeypatch):
    class Core:
        """Every look at its clock takes it as long as the pace is, which changes all the time."""

        def __init__(self, paces):
            self.paces, self.seconds = paces, 0.0

        def thread_time(self):
            self.seconds += (self.paces[0] + self.paces[1]) / 2 if len(self.paces) > 1 else 0.0
            return self.seconds

        perf_counter = thread_time

        def take(self):
            self.paces = self.paces[1:]
            return self.paces[0]

    parameters = Parameters(parse_network(TEXT, "net"), np.float32)
    parameters.draw(1)

    def times_of(*paces):
        core = Core((0.0, *paces))
        monkeypatch.setattr("mpitile.runtime.profiling.time", core)
        return time_tile(parameters, Plan(Grid(2, 2), (0, 2)), 1, repeats=3, pace=core.take)

    steady, varied = times_of(1.0, 1.0, 1.0, 1.0, 1.0), times_of(1.0, 2.0, 5.0, 1.0, 3.0)
    assert steady.pace == 1 and varied.pace == pytest.approx(2.5)
    assert varied.cpu != pytest.approx(2.5 * steady.cpu)
    for found, factor in ((varied, 2.5), (varied.at(1.0), 1.0)):
        assert found.exchange.seconds == pytest.approx(factor * steady.exchange.seconds)
        assert found.points.keys() == steady.points.keys()
        for key, points in found.points.items():
            seconds = [point.seconds / factor for point in points]
            assert seconds == pytest.approx([point.seconds for point in steady.points[key]])


def test_losses_inside_a_network_are_timed():
    found = times(HEADS, Grid(2, 2), (0, 5))
    sizes = {
        name: {(point.rows, point.columns) for point in points}
        for (name, operation), points in found.points.items()
        if operation == "backward_input"
    }
    assert sizes["yolo 14"] == {(8, 8), (16, 16)}
    assert sizes["upsample *2 16"] == {(16, 16)}
    assert sizes["depthwise 3x3/1 16 mish bn"] == {(8, 8)}
    assert ("depthwise 3x3/1 16 mish bn", "backward_weights") in found.points


def test_layers_of_their_own_are_not_merged_and_squares_are_timed():
    found = times(TEXT, Grid(1, 1), (0, 1, 2, 3), images=2)
    names = {name for name, _ in found.points}
    assert {"conv 3x3/1 3-8 leaky", "maxpool 2/2 8", "squares 14"} <= names
    (point,) = found.points["maxpool 2/2 8", "backward_input"]
    assert (point.images, point.rows, point.columns) == (2, 16, 16)
    assert found.exchange.bytes == 0


def test_the_middle_of_a_grid_has_all_neighbours():
    assert middle_tile(Plan(Grid(3, 5), (0,))) == 7
    assert middle_tile(Plan(Grid(1, 1), (0,))) == 0


def test_common_networks_have_all_kinds_of_layers():
    plain, normalized, pairs = common_networks()
    assert plain.layers[-1].output_shape.height == 38
    assert normalized.layers[-1].output_shape.height == 13
    assert pairs.layers[-1].output_shape.height == 14
    assert [n.layers[0].operation.batch_normalize for n in (plain, normalized)] == [False, True]
    works = [
        layer_work(layer, "forward")
        for network in common_networks()
        for layer in network.layers
        if isinstance(layer.operation, Convolutional)
    ]
    assert {work.kind for work in works} == set(KINDS)


def test_rates_are_found_again():
    bytes_, call, rate = 2e9, 3e-5, {"forward": 5e10, "backward_weights": 4e10}
    samples = []
    for cells in (10, 100, 1000, 10000):
        pool = Work(elements=24)
        samples.append(Sample("forward", pool, cells, 4 * 24 * cells / bytes_ + call))
        product = Work("3x3", 20000, 48, 1000)
        for operation, flops in rate.items():
            seconds = 20000 * cells / flops + 4 * (48 * cells + 1000) / bytes_ + call
            samples.append(Sample(operation, product, cells, seconds))
    rates = fit_rates(samples, 4)
    assert rates.bytes == pytest.approx(bytes_)
    assert rates.call == pytest.approx(call)
    assert set(rates.flops) == {(k, o) for k in KINDS for o in OPERATIONS}
    for operation, flops in rate.items():
        assert rates.flops["3x3", operation] == pytest.approx(flops)
    assert rates.flops["1x1", "forward"] == min(rates.flops.values())


def test_rates_stay_sensible_without_samples_or_with_odd_ones():
    for samples in ([], [Sample("forward", Work("1x1", 10), 5, 1e-9)]):
        rates = fit_rates(samples, 4)
        assert all(np.isfinite(value) and value > 0 for value in rates.flops.values())
        assert rates.bytes > 0 < rates.call


def test_layers_of_nothing_but_calls_say_little_of_bytes():
    pool = Work(elements=24)
    samples = [Sample("forward", pool, cells, 2e-5) for cells in (10, 100, 1000)]
    rates = fit_rates(samples, 4)
    assert rates.call == pytest.approx(2e-5)
    # The largest took no longer than that.
    assert rates.bytes > 4 * 24 * 1000 / 2e-5


def test_layers_of_nothing_but_bytes_say_little_of_calls():
    pool = Work(elements=24)
    samples = [Sample("forward", pool, cells, 1e-9 * cells) for cells in (10, 100, 1000)]
    rates = fit_rates(samples, 4)
    assert rates.bytes == pytest.approx(4 * 24 / 1e-9)
    assert 0 < rates.call < 10e-9
