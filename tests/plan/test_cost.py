"""Seconds of layers, messages and sums, from measured points and from general rates."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpitile.network.cfg import parse_network
from mpitile.network.parameters import layer_parameters
from mpitile.plan.clusters.cluster import (
    KINDS,
    OPERATIONS,
    Cluster,
    Device,
    DeviceSpeed,
    Link,
    Point,
)
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.layer_class import box_class, has_loss, layer_class, layer_work

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
filters=16
size=1
activation=linear
[shortcut]
from=-2
activation=linear
[reorg]
stride=2
[route]
layers=-1
[dropout]
probability=0.5
[convolutional]
filters=4
size=3
stride=2
activation=leaky
[avgpool]
[connected]
output=5
activation=linear
[softmax]
"""
HEADS = """
[net]
height=32
width=32
[convolutional]
filters=16
size=3
stride=2
pad=1
activation=relu
[convolutional]
batch_normalize=1
filters=16
groups=16
size=3
stride=2
pad=1
activation=relu
[convolutional]
filters=14
groups=2
size=3
pad=1
activation=linear
[yolo]
mask=2,3
anchors=4,4,9,9,16,16,24,24
num=4
classes=2
[route]
layers=-3
[convolutional]
filters=16
size=1
activation=mish
[upsample]
stride=2
[upsample]
stride=2
scale=0.5
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=4,4,9,9,16,16,24,24
num=4
classes=2
"""
NETWORK = parse_network(TEXT, "net")
SEVERAL = parse_network(HEADS, "heads")
SPEED = DeviceSpeed(
    flops={(kind, operation): 1e9 for kind in KINDS for operation in OPERATIONS},
    bytes=1e9,
    call=1e-5,
    clear=4e9,
    copy=2e9,
    piece=1e-6,
    sum=5e8,
    update={"sgd": 1e-9, "adam": 2e-9},
)
INSIDE, BETWEEN = Link(1e-6, 1e9), Link(1e-4, 1e7)


def cluster(*ranks, medium="switched", **changes):
    devices = tuple(Device("d", count, None, replace(SPEED, **changes)) for count in ranks)
    return Cluster(devices, INSIDE, BETWEEN, medium)


def test_classes_say_what_decides_the_time():
    names = [layer_class(layer) for layer in NETWORK.layers]
    assert names == [
        "conv 3x3/1 3-8 leaky",
        "maxpool 2/2 8",
        "conv 3x3/1 8-16 relu bn",
        "conv 1x1/1 16-16 linear",
        "shortcut 16+16/1 linear",
        "reorg /2 16x16x16",
        "route 64",
        "dropout 64",
        "conv 3x3/2 64-4 leaky",
        "avgpool 3x3x4",
        "connected 1x1x4-5 linear",
        "softmax 5",
    ]
    assert layer_class(NETWORK.layers[1], NETWORK.layers[0]) == "conv 3x3/1 3-8 leaky + maxpool 2/2"


def test_classes_of_groups_upsampling_and_losses_inside():
    assert [layer_class(layer) for layer in SEVERAL.layers] == [
        "conv 3x3/2 3-16 relu",
        "depthwise 3x3/2 16 relu bn",
        "conv in 2 groups 3x3/1 16-14 linear",
        "yolo 14",
        "route 16",
        "conv 1x1/1 16-16 mish",
        "upsample *2 16",
        "upsample *2 16 scaled",
        "conv 1x1/1 16-14 linear",
        "yolo 14",
    ]
    assert has_loss(SEVERAL)
    # Only products of rows depend on whether these follow each other in memory.
    assert box_class(SEVERAL.layers[0], 16).endswith("whole rows")
    assert box_class(SEVERAL.layers[1], 8) == layer_class(SEVERAL.layers[1])


def test_groups_multiply_less():
    works = [layer_work(SEVERAL.layers[number], "forward") for number in (0, 1, 2)]
    assert [work.kind for work in works] == ["other", "depthwise", "other"]
    assert [work.flops for work in works] == [2 * 9 * 3 * 16, 2 * 9 * 16, 2 * 9 * 8 * 14]
    assert [work.fixed_elements for work in works] == [9 * 3 * 16, 9 * 16, 9 * 8 * 14]


def test_a_loss_inside_clears_its_own_gradient():
    """And its input's, which nobody else reads; upsampling a quarter of its output's cells."""
    free = cluster(1, bytes=1e30, call=0.0, clear=1.0)

    def cleared(layer):
        return Cost(SEVERAL, free).compute(0, layer, "backward_input", 1, 4, 4)

    assert cleared(3) == pytest.approx(4 * 16 * (14 + 14))
    assert cleared(6) == pytest.approx(4 * 16 * 16 / 4)


@given(
    layer=st.integers(0, len(NETWORK.layers) - 1),
    operation=st.sampled_from(OPERATIONS),
    box=st.tuples(*[st.integers(1, 20)] * 3),
    axis=st.integers(0, 2),
)
def test_more_cells_never_take_less_time(layer, operation, box, axis):
    cost = Cost(NETWORK, cluster(1))
    larger = [size + (place == axis) for place, size in enumerate(box)]
    first = cost.compute(0, layer, operation, *box)
    assert 0 <= first <= cost.compute(0, layer, operation, *larger)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_cells_take_no_time(operation):
    cost = Cost(NETWORK, cluster(1))
    for layer in range(len(NETWORK.layers)):
        assert cost.compute(0, layer, operation, 1, 0, 5) == 0
        assert cost.compute(0, layer, operation, 0, 5, 5) == 0


def test_a_product_by_hand():
    # 10x10 cells of 3x3 over 64 to 4 channels at stride 2, read four times as many.
    flops, elements, weights = 2 * 9 * 64 * 4 * 100, (4 * 64 + 4) * 100, 9 * 64 * 4
    expected = flops / 1e9 + 4 * (elements + weights) / 1e9 + 1e-5
    cost = Cost(NETWORK, cluster(1))
    assert cost.compute(0, 8, "forward", 1, 10, 10) == pytest.approx(expected)
    assert cost.compute(0, 8, "forward", 4, 5, 5) == pytest.approx(expected)
    half = Cost(NETWORK, cluster(1, share=0.5))
    assert half.compute(0, 8, "forward", 1, 10, 10) == pytest.approx(2 * expected)


def test_wider_numbers_take_longer():
    single, double = Cost(NETWORK, cluster(1), 4), Cost(NETWORK, cluster(1), 8)
    for operation in OPERATIONS:
        seconds = [c.compute(0, 2, operation, 1, 8, 8) for c in (single, double)]
        assert 1.8 * seconds[0] < seconds[1] <= 2 * seconds[0]
    assert double.update(0, 1000) == 2 * single.update(0, 1000)


def test_measured_points_come_first():
    kernels = {
        "conv 1x1/1 16-16 linear": {
            "forward": (Point(1, 4, 4, 2e-3), Point(1, 8, 8, 5e-3), Point(2, 8, 8, 9e-3))
        }
    }
    cost = Cost(NETWORK, cluster(1, kernels=kernels))
    at = {cells: cost.compute(0, 3, "forward", 1, 1, cells) for cells in (1, 16, 40, 64, 96, 256)}
    assert at[16] == pytest.approx(2e-3)
    assert at[40] == pytest.approx(3.5e-3)
    assert at[96] == pytest.approx(7e-3)
    # Beyond the last in proportion; below the first along the line through the first two.
    assert at[256] == pytest.approx(18e-3)
    assert at[1] == pytest.approx(2e-3 - 15 * 3e-3 / 48)
    # Another operation has no points.
    assert cost.compute(0, 3, "backward_weights", 1, 4, 4) < 1e-3


def test_a_slowed_device_takes_so_much_longer_for_everything():
    kernels = {"conv 1x1/1 16-16 linear": {"forward": (Point(1, 4, 4, 2e-3),)}}
    here = cluster(2, kernels=kernels)
    there = replace(here, devices=tuple(replace(d, speed=d.speed.slowed(3)) for d in here.devices))
    costs = [Cost(NETWORK, here), Cost(NETWORK, there)]
    for work in (
        lambda cost: cost.compute(0, 3, "forward", 1, 3, 3),
        lambda cost: cost.compute(0, 3, "backward_input", 1, 3, 3),
        lambda cost: cost.compute(0, 7, "backward_weights", 2, 3, 3),
        lambda cost: cost.pack(0, 1e6, 3),
        lambda cost: cost.update(0, 1000, "adam"),
        lambda cost: cost.overhead(0),
    ):
        fast, slow = map(work, costs)
        assert slow == pytest.approx(3 * fast)
    assert here.devices[0].speed.sum == pytest.approx(3 * there.devices[0].speed.sum)
    assert here.devices[0].speed.clear == pytest.approx(3 * there.devices[0].speed.clear)


def test_strided_convolutions_like_whole_rows():
    name = "conv 3x3/2 64-4 leaky"
    whole, part = {"forward": (Point(1, 4, 4, 1e-3),)}, {"forward": (Point(1, 4, 4, 3e-3),)}
    both = Cost(NETWORK, cluster(1, kernels={name: part, f"{name}, whole rows": whole}))
    width = NETWORK.layers[8].output_shape.width
    assert both.compute(0, 8, "forward", 1, 4, width) == pytest.approx(1e-3 * width / 4)
    assert both.compute(0, 8, "forward", 1, 4, width - 1) == pytest.approx(3e-3 * (width - 1) / 4)
    # The other kind of box is a better guess than general rates.
    for kernels in ({name: part}, {f"{name}, whole rows": part}):
        cost = Cost(NETWORK, cluster(1, kernels=kernels))
        for columns in (width - 1, width):
            expected = pytest.approx(3e-3 * columns / 4)
            assert cost.compute(0, 8, "forward", 1, 4, columns) == expected


def test_merged_pools_are_a_class_of_their_own():
    kernels = {
        "conv 3x3/1 3-8 leaky + maxpool 2/2": {
            "forward": (Point(1, 4, 4, 1e-3), Point(4, 4, 4, 4e-3))
        }
    }
    cost = Cost(NETWORK, cluster(1, kernels=kernels))
    assert cost.compute(0, 1, "forward", 6, 4, 4, merged=True) == pytest.approx(6e-3)
    assert cost.compute(0, 1, "forward", 1, 8, 8, merged=True) == pytest.approx(4e-3)
    # On its own the pool has no points.
    assert cost.compute(0, 1, "forward", 2, 8, 8) < 1e-3


def test_the_image_gets_no_gradient_but_batch_norm_counts():
    text = TEXT.replace("filters=8", "filters=8\nbatch_normalize=1")
    plain, normalized = (Cost(parse_network(t, "net"), cluster(1)) for t in (TEXT, text))
    for cost in (plain, normalized):
        assert cost.compute(0, 0, "backward_input", 1, 32, 32) == 0
    seconds = [c.compute(0, 0, "backward_weights", 1, 32, 32) for c in (plain, normalized)]
    assert seconds[1] - seconds[0] == pytest.approx(4 * (8 - 3) * 8 * 32 * 32 / 1e9)


def test_gradients_that_are_added_to_are_zeroed_before():
    fast, slow = (Cost(NETWORK, cluster(1, clear=rate)) for rate in (1e15, 1e9))

    def zeroing(layer, *box, merged=False):
        args = (0, layer, "backward_input", *box, merged)
        return slow.compute(*args) - fast.compute(*args)

    # A convolution overwrites; a shortcut, the last reader of both, adds.
    assert zeroing(3, 1, 16, 16) == 0
    assert zeroing(4, 1, 16, 16) == pytest.approx(2 * 16 * 256 * 4 / 1e9, rel=1e-3)
    assert zeroing(5, 1, 8, 8) == pytest.approx(16 * 256 * 4 / 1e9, rel=1e-3)
    # The last layer's own gradient is its loss's to add to.
    assert zeroing(11, 3, 1, 1) == pytest.approx(3 * (5 + 5) * 4 / 1e9, rel=1e-3)


def test_layers_without_weights_take_no_time_for_their_gradients():
    """Halos travel back beside weight gradients alone: what is zeroed is zeroed before."""
    cost = Cost(NETWORK, cluster(1))
    kinds = {layer.kind for layer in NETWORK.layers if layer_parameters(layer)}
    assert kinds == {"convolutional", "connected"}
    for layer in NETWORK.layers:
        seconds = cost.compute(0, layer.index, "backward_weights", 2, 4, 4)
        assert (seconds > 0) == bool(layer_parameters(layer)), layer.kind


def test_without_a_loss_the_last_layer_has_the_sum_of_squares():
    text = TEXT[: TEXT.index("[reorg]")]
    alone, behind = parse_network(text, "net"), NETWORK
    seconds = [Cost(n, cluster(1)).compute(0, 4, "forward", 1, 16, 16) for n in (alone, behind)]
    assert seconds[0] - seconds[1] == pytest.approx(1e-5 + 4 * 4 * 16 * 256 / 1e9)


def test_packing_and_updates_by_hand():
    cost = Cost(NETWORK, cluster(1))
    assert cost.pack(0, 2e6, 3) == pytest.approx(1e-3 + 3e-6)
    assert cost.update(0, 1000) == pytest.approx(1e-6)
    assert cost.update(0, 1000, "adam") == pytest.approx(2e-6)


def test_devices_share_their_link_in_each_direction():
    cost = Cost(NETWORK, cluster(2, 2, 2))
    # Both ranks of device 0 send to device 1, which sends back, and 4 sends to 5 inside.
    found = cost.exchange([(0, 2, 1e4), (1, 3, 2e4), (2, 0, 1e4), (4, 5, 1e6)])
    assert found[0] == found[1] == found[2] == found[3] == pytest.approx(1e-4 + 3e-3)
    assert found[4] == found[5] == pytest.approx(1e-6 + 1e-3)
    assert cost.exchange([]) == {}


def test_over_a_shared_medium_all_wait_for_all():
    cost = Cost(NETWORK, cluster(1, 1, 1, 1, medium="shared"))
    found = cost.exchange([(0, 1, 1e4), (2, 3, 1e4)])
    assert set(found) == {0, 1, 2, 3}
    assert all(seconds == pytest.approx(1e-4 + 2e-3) for seconds in found.values())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 10**6)), max_size=9))
def test_more_messages_never_take_less_time(messages):
    messages = [m for m in messages if m[0] != m[1]]
    for medium in ("switched", "shared"):
        cost = Cost(NETWORK, cluster(2, 2, 2, medium=medium))
        every = cost.exchange(messages)
        for some in (messages[1:], messages[:-1]):
            for rank, seconds in cost.exchange(some).items():
                assert seconds <= every[rank]


def test_a_sum_climbs_a_tree_and_descends():
    size = 4e5
    two = Cost(NETWORK, cluster(2)).reduction(size, 2)
    leg, adding = 1e-6 + size / 1e9, size / 5e8
    assert two == pytest.approx(2 * leg + adding)
    # Four ranks on two devices: down, both ranks of the first send to the other device.
    four = Cost(NETWORK, cluster(2, 2)).reduction(size, 4)
    up = 2 * adding + leg + (1e-4 + size / 1e7)
    down = leg + (1e-4 + 2 * size / 1e7)
    assert four == pytest.approx(up + down)


def test_gradients_travel_in_slices():
    """Each of two devices of two ranks sends half of them there, and half of the values back."""
    size = 400_000
    cost = Cost(NETWORK, cluster(2, 2))
    half, adding = 1e-4 + size / 2 / 1e7, (size / 2 + size / 4) / 5e8
    assert cost.gradient_sum(size, 4) == pytest.approx(2 * half + adding)
    assert cost.gradient_sum(size, 2) == pytest.approx(size / 2 / 5e8)
    assert cost.gradient_sum(size, 1) == 0
    assert cost.reduction(size, 1) == 0
