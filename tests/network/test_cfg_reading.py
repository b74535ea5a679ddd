"""What the cfg reader makes of good text: defaults, references, Darknet's quirks."""

import pytest

from mpitile.network.cfg import parse_network
from mpitile.network.spec import (
    Connected,
    Convolutional,
    Cost,
    Dropout,
    MaxPool,
    NetOptions,
    Region,
    Reorg,
    Route,
    Shortcut,
    Upsample,
    Yolo,
)

NET = "[net]\nheight=8\nwidth=8\n"


def operations(text):
    return [layer.operation for layer in parse_network(NET + text, "a.cfg").layers]


def options(text):
    return parse_network(NET + text + "[conv]\n", "a.cfg").options


def test_white_space_comments_and_line_ends_count_nowhere():
    text = (
        "\ufeff# a comment\r\n  [ net ]\r\n height = 8\r\n\twidth\t=\t8\r\n"
        "; another\r\n\r\n[conv]\r\n  # inner\r\n filters = 1 2\r\n"
    )
    layer = parse_network(text, "a.cfg").layers[0]
    assert layer.operation == Convolutional(12, 1)
    assert layer.line == 7


def test_defaults_of_darknet():
    text = "[convolutional]\n[maxpool]\n[connected]\n[dropout]\n[cost]\n"
    assert operations(text) == [
        Convolutional(1, 1, 1, 0, "logistic", False),
        MaxPool(1, 1, 0),
        Connected(1, "logistic", False),
        Dropout(0.5),
        Cost(),
    ]
    assert options("") == NetOptions(8, 8)


@pytest.mark.parametrize(
    ("keys", "padding"),
    [
        ("size=3\npad=1\n", 1),
        ("size=5\npad=1\n", 2),
        ("size=1\npad=1\n", 0),
        ("size=4\npad=1\npadding=7\n", 2),
        ("size=3\npadding=2\n", 2),
        ("size=3\npad=0\n", 0),
    ],
)
def test_convolution_padding(keys, padding):
    assert operations("[conv]\n" + keys)[0].padding == padding


@pytest.mark.parametrize(
    ("keys", "pool"),
    [
        ("size=2\nstride=2\n", MaxPool(2, 2, 1)),
        ("stride=2\n", MaxPool(2, 2, 1)),
        ("size=3\nstride=2\n", MaxPool(3, 2, 2)),
        ("size=2\nstride=2\npadding=0\n", MaxPool(2, 2, 0)),
        ("size=3\n", MaxPool(3, 1, 2)),
    ],
)
def test_pool_defaults(keys, pool):
    assert operations("[max]\n" + keys) == [pool]


def test_references_count_back_where_negative_and_from_zero_else():
    text = "[conv]\n" * 3 + "[route]\nlayers = -1, 0, -3\n[shortcut]\nfrom=-3\n[shortcut]\nfrom=1\n"
    network = parse_network(NET + text, "a.cfg")
    route, relative, absolute = network.layers[3:]
    assert route.operation == Route((2, 0, 0))
    assert route.inputs == (3, 1, 1)
    assert route.output_shape.channels == 3
    assert relative.operation == Shortcut(1, "linear")
    assert relative.inputs == (4, 2)
    assert absolute.operation == Shortcut(1, "linear")
    assert absolute.inputs == (5, 2)
    assert [layer.output for layer in network.layers] == [1, 2, 3, 4, 5, 6]


def test_layers_read_the_tensor_before_them():
    network = parse_network(NET + "[conv]\n[max]\n[dropout]\n", "a.cfg")
    assert [layer.inputs for layer in network.layers] == [(0,), (1,), (2,)]
    for layer in network.layers:
        assert layer.input_shapes == (network.shape(layer.index),)
        assert layer.output_shape == network.shape(layer.output)


def test_net_options():
    found = options(
        "channels=1\nbatch=8\nsubdivisions=4\nlearning_rate=.01\nmomentum=.5\ndecay=0\n"
        "policy=steps\nsteps=-1,100\nscales=.1,10\nburn_in=5\npower=2\nmax_batches=7\n"
        "adam=1\nB1=.8\nB2=.99\neps=1e-6\nhue=.1\nsaturation=1.5\nexposure=.75\nflip=0\n"
        "angle=7\naspect=.75\nmax_crop=448\nmin_crop=128\ntime_steps=1\n"
    )
    assert found == NetOptions(
        8,
        8,
        1,
        batch=8,
        subdivisions=4,
        learning_rate=0.01,
        momentum=0.5,
        decay=0.0,
        policy="steps",
        steps=(-1, 100),
        scales=(0.1, 10.0),
        burn_in=5,
        power=2.0,
        max_batches=7,
        adam=True,
        beta1=0.8,
        beta2=0.99,
        epsilon=1e-6,
        hue=0.1,
        saturation=1.5,
        exposure=0.75,
        flip=False,
    )


@pytest.mark.parametrize(
    ("keys", "policy"),
    [
        ("policy=sigmoid\ngamma=.1\nstep=3\n", "sig"),
        ("policy=step\nstep=3\nscale=.5\n", "step"),
        ("policy=exp\ngamma=.99\n", "exp"),
        ("policy=poly\nmax_batches=9\n", "poly"),
    ],
)
def test_policies(keys, policy):
    assert options(keys).policy == policy


def test_region():
    region = operations(
        "[conv]\nfilters=16\n[region]\nnum=2\nanchors=1,2, .5,4\nclasses=3\ncoords=4\n"
        "softmax=1\nbias_match=1\nrescore=1\nthresh=.6\nobject_scale=5\nnoobject_scale=.5\n"
        "class_scale=2\ncoord_scale=3\nmax=30\njitter=.3\nrandom=1\nabsolute=1\nmask_scale=1\n"
    )[1]
    assert region == Region(
        ((1.0, 2.0), (0.5, 4.0)),
        3,
        softmax=True,
        bias_match=True,
        rescore=True,
        thresh=0.6,
        object_scale=5.0,
        noobject_scale=0.5,
        class_scale=2.0,
        coord_scale=3.0,
        max_boxes=30,
        jitter=0.3,
        random=True,
    )


def test_yolo():
    yolo = operations(
        "[conv]\nfilters=16\n[yolo]\nnum=3\nmask=0,2\nanchors=10,14, 23,27, 37,58\nclasses=3\n"
        "ignore_thresh=.7\ntruth_thresh=.9\nscale_x_y=1.05\nmax=30\njitter=.3\nrandom=1\n"
        "iou_loss=mse\nobj_normalizer=1.0\n"
    )[1]
    assert yolo == Yolo(
        ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0)),
        (0, 2),
        3,
        ignore_thresh=0.7,
        truth_thresh=0.9,
        scale_x_y=1.05,
        max_boxes=30,
        jitter=0.3,
        random=True,
    )


def test_without_a_mask_all_anchors_are_a_yolos():
    yolo = operations("[conv]\nfilters=50\n[yolo]\nnum=2\nanchors=1,2,3,4\n")[1]
    assert yolo == Yolo(((1.0, 2.0), (3.0, 4.0)), (0, 1), 20)


def test_upsample_and_groups():
    found = operations(
        "[conv]\nfilters=4\n[conv]\nfilters=6\ngroups=2\nactivation=mish\n"
        "[upsample]\n[upsample]\nstride=3\nscale=.5\n"
    )
    assert found[1] == Convolutional(6, 1, activation="mish", groups=2)
    assert found[2:] == [Upsample(2), Upsample(3, 0.5)]


def test_values_at_which_unimplemented_keys_change_nothing_are_accepted():
    found = operations(
        "[conv]\nfilters=4\ngroups=1\nxnor=0\ndilation=1\n[reorg]\nstride=2\nreverse=0\n"
        "flatten=0\nextra=0\n[avg]\n[soft]\ngroups=1\ntemperature=1.0\nnoloss=0\nspatial=0\n"
        "[cost]\ntype=sse\nscale=1\n"
    )
    assert found[1] == Reorg(2)
