"""The input size of every step of multi-scale training."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from small_jobs import box_images, classifier, detector, small_settings

from mpitile.comm.local import run_ranks
from mpitile.errors import InputError
from mpitile.network.cfg import parse_network
from mpitile.train.loop import train
from mpitile.train.scales import Scales


def varying(height=32, width=32, max_batches=0):
    network = parse_network(detector(height, width, random=1), "varying.cfg")
    options = replace(network.options, max_batches=max_batches)
    return replace(network, options=options)


def size(network):
    return network.shapes[0].height, network.shapes[0].width


def test_sizes_are_ten_to_nineteen_cells_and_all_of_them_come():
    sizes = {size(Scales(varying(), 1).at(step)) for step in range(0, 3000, 10)}
    # A cell of the last tensor is 4x4 pixels.
    assert sizes == {(4 * cells, 4 * cells) for cells in range(10, 20)}


def test_the_proportion_is_kept():
    for step in range(0, 300, 10):
        height, width = size(Scales(varying(40, 80), 3).at(step))
        assert height % 4 == width % 4 == 0
        assert 40 <= width <= 76 and abs(height - width / 2) <= 2
    tall = size(Scales(varying(80, 40), 3).at(0))
    assert tall == size(Scales(varying(40, 80), 3).at(0))[::-1]


def test_it_changes_every_ten_steps_and_not_between():
    scales = Scales(varying(), 5)
    sizes = [size(scales.at(step)) for step in range(400)]
    for first in range(0, 400, 10):
        assert len(set(sizes[first : first + 10])) == 1
    changes = sum(sizes[first] != sizes[first - 1] for first in range(10, 400, 10))
    assert changes > 25


def test_stretches_cover_all_steps_wherever_they_begin():
    scales = Scales(varying(), 2)
    for first in (0, 3, 9, 10, 11, 37):
        stretches = list(scales.stretches(first, 45))
        steps = [step for part in stretches for step in range(part.first, part.stop)]
        assert steps == list(range(first, 45))
        for part in stretches:
            assert part.stop % 10 == 0 or part.stop == 45
            for step in range(part.first, part.stop):
                assert size(part.network) == size(scales.at(step))
    assert not list(scales.stretches(45, 45))


def test_it_is_a_function_of_seed_and_step():
    steps = range(0, 300, 10)
    one = [size(Scales(varying(), 1).at(step)) for step in steps]
    assert one == [size(Scales(varying(), 1).at(step)) for step in reversed(steps)][::-1]
    assert one != [size(Scales(varying(), 2).at(step)) for step in steps]


@pytest.mark.parametrize("last", [500, 505, 509])
def test_the_largest_size_comes_last(last):
    scales, other = Scales(varying(max_batches=last), 1), Scales(varying(), 1)
    # Darknet asks at the beginning of ten steps whether less than 200 are left.
    for step in range(310):
        assert size(scales.at(step)) == size(other.at(step))
    assert {size(scales.at(step)) for step in range(310, last)} == {(76, 76)}
    assert size(other.at(300)) != (76, 76)


def test_a_stretch_that_is_taken_up_again_has_its_size():
    scales = Scales(varying(max_batches=505), 1)
    (whole,) = scales.stretches(300, 310)
    (rest,) = scales.stretches(307, 310)
    assert size(rest.network) == size(whole.network)


def test_weights_and_options_stay():
    network = varying(max_batches=500)
    other = Scales(network, 1).at(0)
    assert [layer.operation for layer in other.layers] == [
        layer.operation for layer in network.layers
    ]
    assert other.options == replace(network.options, height=size(other)[0], width=size(other)[1])


@pytest.mark.parametrize("cfg", [detector(), classifier(3)])
def test_other_networks_stay_as_they_are(cfg):
    network = parse_network(cfg, "fixed.cfg")
    (stretch,) = Scales(network, 1).stretches(4, 1000)
    assert stretch.network is network and (stretch.first, stretch.stop) == (4, 1000)


def test_a_connected_layer_refuses_other_sizes():
    cfg = """
[net]
height=16
width=16
[convolutional]
filters=3
size=3
stride=4
pad=1
[connected]
output=14
activation=linear
[region]
anchors=1,1, 2,2
num=2
classes=2
random=1
"""
    scales = Scales(parse_network(cfg, "fixed.cfg"), 1)
    with pytest.raises(InputError, match=r"fixed\.cfg:13: random=1 .*\[connected\].*random=0"):
        scales.at(0)


class Losses:
    """A console that keeps the losses."""

    def __init__(self):
        self.losses = []

    def message(self, text):
        pass

    def update(self, step, loss, images_per_second):
        self.losses.append(loss)


def trained_losses(settings, ranks):
    def work(comm):
        console = Losses()
        train(settings, comm, False, lambda steps, done: contextlib.nullcontext(console))
        return console.losses

    results = run_ranks(ranks, work)
    assert all(losses == results[0] for losses in results)
    return results[0]


def test_training_over_two_sizes_is_the_same_on_four_ranks(tmp_path):
    cfg = detector(normalize=1, random=1)
    data = box_images(tmp_path / "data", 5, (40, 50))
    options = {"steps": 12, "batch": 2, "seed": 4, "learning_rate": 0.001}
    settings = small_settings(
        tmp_path, cfg, data, train=options, data={"augment": True, "shuffle": True}
    )
    scales = Scales(parse_network(cfg, "net.cfg"), 4)
    assert size(scales.at(0)) != size(scales.at(10))
    alone = trained_losses(settings, 1)
    tiled = trained_losses(settings, 4)
    assert len(alone) == 12
    np.testing.assert_allclose(tiled, alone, rtol=1e-9)
