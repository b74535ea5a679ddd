"""What recomputing groups give up, and the little that they compute again."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import read_network
from mpitile.network.kept import reads_input_again, reads_output_again
from mpitile.network.merging import merged_pools, pieces
from mpitile.network.shapes import infer
from mpitile.network.spec import Convolutional, MaxPool, NetOptions, Route
from mpitile.plan.memory.arena import lay_out
from mpitile.plan.memory.lifetimes import pass_buffers
from mpitile.plan.partition import Partition
from mpitile.plan.pass_order import pass_order
from mpitile.plan.plan import Plan
from mpitile.plan.recomputation import stages

Y16 = Path(__file__).parents[2] / "jobs" / "cfg" / "y16.cfg"


def cut_of(network, groups, flags):
    merged = merged_pools(network, groups)
    return stages(network, groups, flags, merged)


def arena(network, groups, flags):
    merged = merged_pools(network, groups)
    part = Partition(network, Plan(Grid(1, 1), groups)).part(0)
    return lay_out(pass_buffers(network, part, 1, 4, merged=merged, recompute=flags)).size


def test_the_paper_network_in_one_group():
    """Recomputing drops a third of the arena; most layers are computed once."""
    network = read_network(Y16)
    stored, again = (arena(network, (0,), (flag,)) for flag in (False, True))
    assert again < 0.65 * stored
    found = cut_of(network, (0,), (True,))
    # The first convolution with its pool; not the last stage, whose backward comes at once.
    assert (0, 1) in found[0].again
    assert not found[-1].again
    assert not found[-1].dropped


def test_what_a_group_hands_on_is_not_computed_again():
    """A group of two convolutions and a pool: the pool's output and argmax stay."""
    network = read_network(Y16)
    found = cut_of(network, (0, 4, 8), (False, True, False))
    assert [stage.pieces for stage in found if stage.again] == [((4,), (5,))]
    assert {tensor for stage in found for tensor in stage.dropped} == {5}


def test_no_flags_no_recomputation():
    network = read_network(Y16)
    for flags in ((), (False, False)):
        found = cut_of(network, (0, 4), flags)
        assert len(found) == 2
        assert not any(stage.again or stage.dropped for stage in found)
    with pytest.raises(ValueError, match="zip"):
        cut_of(network, (0, 4), (True,))


def test_tensors_that_an_exchange_may_touch_are_kept():
    """Layer 1's output is read in its own group and, with its halo, by a later one."""
    operations = [
        Convolutional(4, 3, 1, 1, "leaky"),
        Convolutional(4, 3, 1, 1, "leaky"),
        Convolutional(4, 3, 1, 1, "leaky"),
        Convolutional(4, 3, 1, 1, "leaky"),
        MaxPool(2, 2, 1),
        Route((1,)),
        Convolutional(4, 3, 1, 1, "leaky"),
    ]
    network = infer(NetOptions(height=16, width=16), [(0, op) for op in operations], "routed")
    cut = stages(network, (0, 5), (True, True))
    dropped = {tensor for stage in cut for tensor in stage.dropped}
    again = {piece for stage in cut for piece in stage.again}
    assert 1 in dropped
    assert (0,) in again
    assert dropped.isdisjoint({2, 3})
    assert again.isdisjoint({(1,), (2,)})


@settings(deadline=None, max_examples=150)
@given(cases(layers=12), st.booleans())
def test_what_is_dropped_and_needed_is_computed_again_from_what_is_there(case, merge):
    network, groups = case.network, case.plan.groups
    merged = merged_pools(network, groups) if merge else frozenset()
    flags = (True,) * len(groups)
    cut = stages(network, groups, flags, merged)
    assert [piece for stage in cut for piece in stage.pieces] == list(pieces(network, merged))
    for stage in cut:
        there, lost = set(range(stage.pieces[0][0] + 1)), set(stage.dropped)
        for piece in stage.pieces:
            if piece[-1] + 1 not in lost:
                there.add(piece[-1] + 1)
        for piece in stage.again:
            first = network.layers[piece[0]]
            assert set(first.inputs) <= there
            there.add(piece[-1] + 1)
        for piece in stage.pieces:
            first, last = network.layers[piece[0]], network.layers[piece[-1]]
            if reads_output_again(first):
                assert last.output in there
            if reads_input_again(first):
                assert set(first.inputs) <= there
        for tensor in lost:
            readers = [layer.index for layer in network.layers if tensor in layer.inputs]
            assert all(reader <= stage.pieces[-1][-1] for reader in readers)
    assert not cut[-1].again


@settings(deadline=None, max_examples=50)
@given(cases(layers=12))
def test_every_layer_has_its_events_in_order(case):
    network, groups = case.network, case.plan.groups
    merged = merged_pools(network, groups)
    cut = stages(network, groups, (True,) * len(groups), merged)
    time = pass_order(cut)
    layers = range(len(network.layers))
    events = {*time.forward.values(), *time.again.values(), *time.backward.values(), time.loss}
    assert events == set(range(time.end))
    assert set(time.forward) == set(time.backward) == set(layers)
    for layer in layers:
        assert time.forward[layer] < time.loss < time.backward[layer]
        if layer in time.again:
            assert time.loss < time.again[layer] < time.backward[layer]
    for stage in cut:
        backward = [time.backward[piece[0]] for piece in stage.pieces]
        assert backward == sorted(backward, reverse=True)
        assert all(time.again[piece[0]] < min(backward) for piece in stage.again)
