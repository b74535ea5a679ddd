"""The arena: buffers in use together lie apart, and a pass needs no more than it must."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import cases

from mpitile.network.merging import merged_pools
from mpitile.plan.lifetimes import DELTA, VALUE, Buffer, backward_event, pass_buffers
from mpitile.plan.memory import ALIGNMENT, in_use, lay_out
from mpitile.plan.partition import Partition


@st.composite
def buffers(draw):
    count = draw(st.integers(0, 12))
    result = []
    for tensor in range(count):
        first, last = sorted(draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
        result.append(Buffer(VALUE, tensor, draw(st.integers(0, 1000)), first, last))
    return result


def together(a, b):
    return a.first <= b.last and b.first <= a.last


@settings(deadline=None, max_examples=200)
@given(buffers())
def test_buffers_in_use_together_lie_apart(found):
    layout = lay_out(found)
    assert set(layout.offsets) == set(found)
    for buffer, offset in layout.offsets.items():
        assert offset % ALIGNMENT == 0
        assert 0 <= offset <= offset + buffer.size <= layout.size
    for a, b in combinations(found, 2):
        if together(a, b):
            start, other = layout.offsets[a], layout.offsets[b]
            assert start + a.size <= other or other + b.size <= start


def test_memory_is_used_again():
    early, late = Buffer(VALUE, 1, 640, 0, 3), Buffer(DELTA, 1, 640, 4, 6)
    assert lay_out([early, late]).size == 640
    assert in_use([early, late], 3) == in_use([early, late], 4) == 640


@settings(deadline=None, max_examples=60)
@given(cases(), st.booleans())
def test_what_a_layer_reads_and_writes_is_in_use_when_it_does(case, merge):
    network, plan = case.network, case.plan
    merged = merged_pools(network, plan.groups) if merge else frozenset()
    part = Partition(network, plan).part(0)
    by_name = {
        (buffer.name, buffer.tensor): buffer
        for buffer in pass_buffers(network, part, 2, 8, input_gradient=True, merged=merged)
    }
    never_stored = {pool for pool in merged}
    for layer in network.layers:
        events = [layer.index, backward_event(network, layer.index)]
        if layer.index + 1 in merged:
            assert (VALUE, layer.output) not in by_name
            continue
        if layer.index in merged:
            events += [layer.index - 1, backward_event(network, layer.index - 1)]
        for event in events:
            value = by_name[VALUE, layer.output]
            assert value.first <= event <= value.last
        delta = by_name[DELTA, layer.output]
        assert delta.first <= backward_event(network, layer.index) <= delta.last
        for tensor in layer.inputs:
            if tensor in never_stored:
                continue
            delta = by_name[DELTA, tensor]
            assert delta.first <= backward_event(network, layer.index) <= delta.last
            if tensor:
                value = by_name[VALUE, tensor]
                assert value.first <= layer.index <= value.last
                assert value.last >= backward_event(network, layer.index)
