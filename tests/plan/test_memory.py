"""The arena: buffers in use together lie apart, and a pass needs no more than it must."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

from mpitile.network.kept import kept, reads_input_again, reads_output_again
from mpitile.network.merging import merged_pools
from mpitile.plan.memory.arena import ALIGNMENT, in_use, lay_out
from mpitile.plan.memory.lifetimes import DELTA, VALUE, Buffer, pass_buffers
from mpitile.plan.partition import Partition
from mpitile.plan.pass_order import pass_order
from mpitile.plan.recomputation import stages


@st.composite
def buffers(draw):
    result = []
    for tensor in range(draw(st.integers(0, 12))):
        events = sorted(draw(st.sets(st.integers(0, 11), min_size=2, max_size=4)))
        ends = [events[0], *events[1:-1], events[-1]]
        spans = tuple(zip(ends[::2], ends[1::2], strict=False))
        result.append(Buffer(VALUE, tensor, draw(st.integers(0, 1000)), spans))
    return result


def apart(layout, found):
    """Whether no byte serves two buffers at the same event."""
    last = max((span[1] for buffer in found for span in buffer.spans), default=0)
    for event in range(last + 1):
        places = sorted(
            (layout.offsets[buffer], buffer.size)
            for buffer in found
            if buffer.size and any(first <= event <= last for first, last in buffer.spans)
        )
        for (one, size), (other, _) in pairwise(places):
            if one + size > other:
                return False
    return True


@settings(deadline=None, max_examples=200)
@given(buffers())
def test_buffers_in_use_together_lie_apart(found):
    layout = lay_out(found)
    assert set(layout.offsets) == set(found)
    for buffer, offset in layout.offsets.items():
        assert offset % ALIGNMENT == 0
        assert 0 <= offset <= offset + buffer.size <= layout.size
    assert apart(layout, found)


def test_memory_is_used_again():
    early, late = Buffer(VALUE, 1, 640, ((0, 3),)), Buffer(DELTA, 1, 640, ((4, 6),))
    assert lay_out([early, late]).size == 640
    assert in_use([early, late], 3) == in_use([early, late], 4) == 640


def test_what_is_computed_again_leaves_its_place_in_between():
    twice = Buffer(VALUE, 1, 640, ((0, 1), (6, 7)))
    between = Buffer(VALUE, 2, 640, ((2, 5),))
    assert lay_out([twice, between]).size == 640
    assert not twice.used_at(2)
    assert not twice.events & between.events
    assert twice.events & Buffer(VALUE, 3, 64, ((5, 6),)).events


@settings(deadline=None, max_examples=60)
@given(cases(), st.booleans(), st.sampled_from([4, 8]))
def test_a_pass_has_room_for_all_its_buffers(case, merge, itemsize):
    found = case_buffers(case, merge, itemsize)
    layout = lay_out(found)
    assert apart(layout, found)
    most = max(in_use(found, event) for event in range(4 * len(case.network.layers) + 2))
    assert most <= layout.size


def case_buffers(case, merge, itemsize=8):
    network, plan = case.network, case.plan
    merged = merged_pools(network, plan.groups) if merge else frozenset()
    part = Partition(network, plan).part(0)
    return pass_buffers(
        network,
        part,
        2,
        itemsize,
        input_gradient=True,
        merged=merged,
        recompute=plan.recompute,
    )


@settings(deadline=None, max_examples=60)
@given(cases(), st.booleans())
def test_what_a_layer_reads_and_writes_is_in_use_when_it_does(case, merge):
    network, plan = case.network, case.plan
    merged = merged_pools(network, plan.groups) if merge else frozenset()
    cut = stages(network, plan.groups, plan.recompute, merged)
    time = pass_order(cut)
    by_name = {(buffer.name, buffer.tensor): buffer for buffer in case_buffers(case, merge)}

    def check(name, tensor, event):
        if tensor or name == DELTA:
            assert by_name[name, tensor].used_at(event), (name, tensor, event)

    for stage in cut:
        for piece in stage.pieces:
            first, last = network.layers[piece[0]], network.layers[piece[-1]]
            backward = time.backward[first.index]
            computed = [time.forward[first.index]]
            if piece in stage.again:
                computed.append(time.again[first.index])
            for event in computed:
                for tensor in (*first.inputs, last.output):
                    check(VALUE, tensor, event)
            for name in kept(last):
                for event in (*computed, backward):
                    check(name, last.output, event)
            for tensor in (*first.inputs, last.output):
                check(DELTA, tensor, backward)
            if reads_output_again(first):
                check(VALUE, last.output, backward)
            if reads_input_again(first):
                for tensor in first.inputs:
                    check(VALUE, tensor, backward)
            if len(piece) == 2:
                assert (VALUE, first.output) not in by_name
    check(VALUE, len(network.layers), time.loss)
