"""The networks that come with mpitile have the shapes and sizes that are published."""

from math import prod
from pathlib import Path

import pytest

from mpitile.network.cfg import read_network
from mpitile.network.heads import heads
from mpitile.network.parameters import parameter_specs
from mpitile.network.shapes import resize
from mpitile.network.spec import Region, Shape, Softmax, Yolo

CFG = Path(__file__).parents[2] / "jobs" / "cfg"


def load(name):
    return read_network(CFG / f"{name}.cfg")


def count(network, keep=lambda spec: True):
    return sum(prod(spec.shape) for spec in parameter_specs(network) if keep(spec))


def gmac(network):
    return (
        sum(
            prod(spec.shape) * layer.output_shape.height * layer.output_shape.width
            for spec in parameter_specs(network)
            if spec.name == "weights"
            for layer in [network.layers[spec.layer]]
        )
        / 1e9
    )


def test_every_file_here_is_tested():
    names = {path.stem for path in CFG.glob("*.cfg")}
    assert names == {
        "bccd-tiny",
        "darknet19",
        "mobile-tiny",
        "mobilenet",
        "resnet18",
        "shapes-tiny",
        "vgg16",
        "y16",
        "yolov2",
        "yolov2-tiny",
        "yolov3-tiny",
    }


@pytest.mark.parametrize(
    ("name", "image", "layers", "output", "loss"),
    [
        ("yolov2", Shape(416, 416, 3), 32, Shape(13, 13, 125), Region),
        ("yolov2-tiny", Shape(416, 416, 3), 16, Shape(13, 13, 125), Region),
        ("bccd-tiny", Shape(416, 416, 3), 13, Shape(13, 13, 40), Region),
        ("shapes-tiny", Shape(96, 96, 3), 10, Shape(12, 12, 24), Region),
        ("yolov3-tiny", Shape(416, 416, 3), 24, Shape(26, 26, 255), Yolo),
        ("mobile-tiny", Shape(416, 416, 3), 31, Shape(26, 26, 75), Yolo),
        ("mobilenet", Shape(224, 224, 3), 30, Shape(1, 1, 1000), Softmax),
        ("darknet19", Shape(224, 224, 3), 26, Shape(1, 1, 1000), Softmax),
        ("vgg16", Shape(224, 224, 3), 24, Shape(1, 1, 1000), Softmax),
        ("resnet18", Shape(224, 224, 3), 35, Shape(1, 1, 1000), Softmax),
    ],
)
def test_shapes(name, image, layers, output, loss):
    network = load(name)
    assert network.shapes[0] == image
    assert len(network.layers) == layers
    assert network.shapes[-1] == output
    assert isinstance(network.layers[-1].operation, loss)


# Darknet's own files: yolov2-voc.weights and yolov2-tiny-voc.weights hold 16 bytes of
# header, yolov3-tiny.weights 20, and these many floats.
@pytest.mark.parametrize(
    ("name", "floats"),
    [
        ("yolov2", (202_704_260 - 16) // 4),
        ("yolov2-tiny", (63_471_556 - 16) // 4),
        ("yolov3-tiny", (35_434_956 - 20) // 4),
    ],
)
def test_as_many_numbers_as_in_darknets_weights_files(name, floats):
    assert count(load(name)) == floats


# The counts of torchvision's models.
@pytest.mark.parametrize(("name", "trained"), [("vgg16", 138_357_544), ("resnet18", 11_689_512)])
def test_as_many_parameters_as_torchvisions_models(name, trained):
    assert count(load(name), lambda spec: spec.trained) == trained


def test_y16_is_the_papers_network():
    network = load("y16")
    assert len(network.layers) == 16
    assert network.shapes[0] == Shape(608, 608, 3)
    assert network.shapes[-1] == Shape(38, 38, 256)
    assert count(network, lambda spec: spec.name == "weights") == 3_418_976
    assert count(network) == 3_418_976 + 2_592
    assert gmac(network) == pytest.approx(13.0, abs=0.01)
    assert all(
        layer.operation.activation == "leaky"
        for layer in network.layers
        if layer.kind == "convolutional"
    )


def test_mobilenet_is_the_papers_network():
    """Counts of Keras's model of width 1; 569 million multiplications, as in the paper."""
    network = load("mobilenet")
    assert count(network) == 4_253_864
    assert count(network, lambda spec: spec.trained) == 4_231_976
    assert gmac(network) == pytest.approx(0.569, abs=0.001)
    groups = [layer.operation.groups for layer in network.layers if layer.kind == "convolutional"]
    assert sum(number > 1 for number in groups) == 13


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("yolov3-tiny", [(13, 13), (26, 26)]), ("mobile-tiny", [(13, 13), (26, 26)])],
)
def test_two_heads_share_the_anchors(name, sizes):
    network = load(name)
    found = heads(network)
    assert [(h.output_shape.height, h.output_shape.width) for h in found] == sizes
    masks = [number for head in found for number in head.operation.mask]
    assert sorted(masks) == list(range(6))
    assert len({head.operation.anchors for head in found}) == 1


def test_yolov2_pass_through():
    network = load("yolov2")
    assert [layer.operation.layers for layer in network.layers if layer.kind == "route"] == [
        (16,),
        (27, 24),
    ]
    assert network.shape(17) == Shape(26, 26, 512)
    assert network.shape(28) == Shape(13, 13, 256)
    assert network.shape(29) == Shape(13, 13, 1280)


def test_yolov2_tiny_last_pool_keeps_the_map():
    network = load("yolov2-tiny")
    pool = network.layers[11]
    assert (pool.kind, pool.operation.stride) == ("maxpool", 1)
    assert pool.input_shapes[0] == pool.output_shape == Shape(13, 13, 512)


def test_resnet18_stages():
    network = load("resnet18")
    sums = [layer for layer in network.layers if layer.kind == "shortcut"]
    assert [str(layer.output_shape) for layer in sums] == [
        "56x56x64",
        "56x56x64",
        "28x28x128",
        "28x28x128",
        "14x14x256",
        "14x14x256",
        "7x7x512",
        "7x7x512",
    ]
    assert all(layer.input_shapes[0] == layer.input_shapes[1] for layer in sums)


def test_bccd_tiny_is_small_enough_for_one_core():
    network = load("bccd-tiny")
    assert 0.3 < gmac(network) < 1.0
    region = network.layers[-1].operation
    assert (region.classes, len(region.anchors)) == (3, 5)


def test_resize_to_another_size():
    network = load("yolov2")
    larger = resize(network, 608, 544)
    assert larger.shapes[0] == Shape(608, 544, 3)
    assert larger.shapes[-1] == Shape(19, 17, 125)
    assert (larger.options.height, larger.options.width) == (608, 544)
    assert [layer.line for layer in larger.layers] == [layer.line for layer in network.layers]
    assert resize(larger, 416, 416) == network
