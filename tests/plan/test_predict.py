"""A step's seconds, by hand for two ranks, and what more ranks and recomputation change."""

from dataclasses import replace

import pytest

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.clusters.cluster import KINDS, OPERATIONS, Cluster, Device, DeviceSpeed, Link
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.predict import predict
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan

NET = """
[net]
height=8
width=8
channels=1
"""
CONVOLUTION = """
[convolutional]
filters=2
size=3
pad=1
activation=linear
"""
# Two layers of 3x3, and a loss that costs next to nothing: only products take time.
PLAIN = NET + CONVOLUTION + CONVOLUTION
NORMALIZED = PLAIN.replace("filters=2", "filters=2\nbatch_normalize=1", 1)
FLOPS = 1e6
SPEED = DeviceSpeed(
    flops={(kind, operation): FLOPS for kind in KINDS for operation in OPERATIONS},
    bytes=1e15,
    call=0.0,
    clear=1e15,
    copy=1e5,
    piece=1e-5,
    sum=1e15,
    update={"sgd": 1e-5, "adam": 2e-5},
)
LINK = Link(1e-3, 1e4)


def cluster(*ranks, **changes):
    devices = tuple(Device("d", count, None, replace(SPEED, **changes)) for count in ranks)
    return Cluster(devices, Link(1e-9, 1e15), LINK)


def step(text, plan, machines, images=1, **options):
    network = parse_network(text, "net")
    return predict(Partition(network, plan), Cost(network, machines), images, **options)


def test_one_rank_computes_and_updates():
    network = parse_network(PLAIN, "net")
    found = step(PLAIN, Plan(Grid(1, 1), (0,)), cluster(1), images=3)
    # Forward and weights of both, input of the second.
    flops = 3 * 64 * 18 * 2 * (2 * 1 + 3 * 2)
    weights = 18 + 2 + 36 + 2
    assert found.step_seconds == pytest.approx(flops / FLOPS + 1e-5 * weights)
    (rank,) = found.ranks
    assert rank.compute == pytest.approx(found.step_seconds)
    assert (rank.halo, rank.reduce, rank.wait) == (0, 0, 0)
    adam = predict(Partition(network, Plan(Grid(1, 1), (0,))), Cost(network, cluster(1)), 3, "adam")
    assert adam.step_seconds - found.step_seconds == pytest.approx(1e-5 * weights)


def test_two_devices_by_hand():
    found = step(PLAIN, Plan(Grid(1, 2), (0, 1)), cluster(1, 1), overlap=False)
    # Each updates half of the weights.
    compute = 32 * 18 * 2 * (2 * 1 + 3 * 2) / FLOPS + 1e-5 * 29
    # A column of 8 cells and 2 channels goes each way, forward and back: packed, sent, unpacked.
    halo = 8 * 2 * 4
    exchange = 2 * (halo / 1e5 + 1e-5) + LINK.latency + halo / LINK.bandwidth
    # Half of the gradients goes to the other device, and as many values come back.
    total = 2 * (LINK.latency + 29 * 4 / LINK.bandwidth)
    # The adjoint is small enough to leave while the first layer's weights are computed.
    hidden = min(32 * 18 * 2 * 2 / FLOPS, LINK.latency + halo / LINK.bandwidth)
    expected = compute + 2 * exchange - hidden + total
    assert found.step_seconds == pytest.approx(expected, rel=1e-6)
    for rank in found.ranks:
        assert rank.compute == pytest.approx(compute)
        assert rank.reduce == pytest.approx(total)
        assert sum((rank.compute, rank.halo, rank.reduce, rank.wait)) == pytest.approx(
            found.step_seconds
        )


def test_a_filter_parallel_layer_by_hand():
    plan = Plan(Grid(1, 2), (0, 1), filters=(1,))
    found = step(PLAIN, plan, cluster(1, 1), overlap=False)
    # The first layer on half of the cells, the second with half of the filters.
    compute = (32 * 18 * 2 * 2 + 64 * 36 * 3) / FLOPS + 1e-5 * (10 + 19)
    # Half of the 512 bytes of the whole is sent, all of it is copied.
    part, whole = 256, 512
    link = LINK.latency + part / LINK.bandwidth
    forward = part / 1e5 + 1e-5 + link + whole / 1e5 + 2e-5
    # Back all of it goes into the device's memory, and half of that on to the owner.
    adjoint = whole / 1e5 + 2e-5 + link - min(64 * 36 / FLOPS, link)
    # The gradients of the first layer alone, half of them to the other device, and back.
    total = 2 * (LINK.latency + 10 * 4 / LINK.bandwidth)
    assert found.step_seconds == pytest.approx(compute + forward + adjoint + total, rel=1e-6)
    for rank in found.ranks:
        assert rank.compute == pytest.approx(compute)
        assert rank.reduce == pytest.approx(total)


def test_slices_are_summed_over_replicas_alone():
    plan = Plan(Grid(1, 2), (0, 1), 2, filters=(0, 1))
    found = step(PLAIN, plan, cluster(2, 2), images=2)
    # Both devices have the same slices: 9 + 1 and 18 + 1 numbers a rank, which share the link.
    size = 2 * 29 * 4 / 2
    total = 2 * (LINK.latency + size / LINK.bandwidth)
    assert found.ranks[0].reduce == pytest.approx(total, rel=0.05)
    assert step(PLAIN, replace(plan, replicas=1), cluster(2)).ranks[0].reduce == 0


def test_batch_norm_of_slices_needs_no_sums():
    def reduce(text):
        return step(text, Plan(Grid(1, 2), (0, 1), filters=(0, 1)), cluster(1, 1)).ranks[0].reduce

    assert reduce(NORMALIZED) == reduce(PLAIN) == 0


def test_a_fused_group_computes_more_and_sends_nothing():
    apart = step(PLAIN, Plan(Grid(1, 2), (0, 1)), cluster(1, 1))
    fused = step(PLAIN, Plan(Grid(1, 2), (0,)), cluster(1, 1))
    assert fused.ranks[0].halo == 0 < apart.ranks[0].halo
    extra = 8 * 18 * 2 * 2 / FLOPS
    assert fused.ranks[0].compute - apart.ranks[0].compute == pytest.approx(extra)


def test_batch_norm_adds_three_sums():
    plain, normalized = (
        step(text, Plan(Grid(1, 2), (0,)), cluster(1, 1)) for text in (PLAIN, NORMALIZED)
    )
    sums = 3 * LINK.latency + (1 + 1 + 2) * 16 / LINK.bandwidth
    gradients = 2 * 2 * 4 / LINK.bandwidth / 2  # half of the scales, each way
    assert normalized.ranks[0].reduce - plain.ranks[0].reduce == pytest.approx(sums + gradients)


def test_who_is_slow_is_waited_for():
    machines = cluster(1, 1)
    slow = replace(machines.devices[1], speed=replace(SPEED, share=0.5))
    machines = replace(machines, devices=(machines.devices[0], slow))
    found = step(PLAIN, Plan(Grid(1, 2), (0,)), machines)
    fast, slow = found.ranks
    assert slow.compute == pytest.approx(2 * fast.compute)
    assert slow.wait == pytest.approx(0, abs=1e-9)
    assert fast.wait == pytest.approx(fast.compute, rel=1e-3)


def test_layers_computed_again_go_forward_twice():
    """The first layer's output is dropped; the second's is the next group's input and stays."""
    plan = Plan(Grid(1, 1), (0, 2))
    stored = step(PLAIN + CONVOLUTION, plan, cluster(1))
    again = step(PLAIN + CONVOLUTION, replace(plan, recompute=(True, False)), cluster(1))
    assert again.step_seconds - stored.step_seconds == pytest.approx(64 * 18 * 2 / FLOPS)


def test_replicas_share_images_and_subdivisions_take_turns():
    whole = step(PLAIN, Plan(Grid(1, 1), (0,)), cluster(1), images=4)
    two = step(PLAIN, Plan(Grid(1, 1), (0,), replicas=2), cluster(1, 1), images=4)
    assert two.ranks[0].halo == 0
    assert two.ranks[1].compute == pytest.approx(whole.step_seconds / 2)
    parts = step(PLAIN, Plan(Grid(1, 1), (0,)), cluster(1), images=4, subdivisions=2)
    assert parts.step_seconds == pytest.approx(whole.step_seconds)
