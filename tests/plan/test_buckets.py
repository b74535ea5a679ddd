"""Buckets are the whole flat array, and each is complete with the layer that it names."""

from itertools import accumulate, pairwise
from math import prod

import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.network.parameters import parameter_specs
from mpitile.plan.plan import Plan
from mpitile.plan.sums.buckets import Bucket, early_count, layer_buckets
from mpitile.plan.sums.completion import Awaiting, Completion, value_bytes
from mpitile.plan.tasks import group_tasks

NETWORKS = strategies.networks(2)


def layers_of(specs):
    """For each element of the flat array its layer."""
    trained = [spec for spec in specs if spec.trained]
    trained.sort(key=lambda spec: not spec.decays)
    return [spec.layer for spec in trained for _ in range(prod(spec.shape))]


@settings(max_examples=60)
@given(NETWORKS, st.integers(4, 4000))
def test_buckets_cover_the_array_and_name_their_first_layer(network, size):
    specs = parameter_specs(network)
    owners = layers_of(specs)
    buckets = layer_buckets(specs, 4, size)
    covered = sorted(bucket.span for bucket in buckets)
    assert [a[1] for a in covered[:-1]] == [b[0] for b in covered[1:]]
    assert sum(stop - start for start, stop in covered) == len(owners)
    assert all(0 < 4 * (stop - start) <= size for start, stop in covered)
    weights = sum(prod(spec.shape) for spec in specs if spec.decays)
    for bucket in buckets:
        start, stop = bucket.span
        least = min(owners[start:stop])
        assert least == bucket.layer or (start >= weights and least > bucket.layer)
    for one, other in pairwise(bucket for bucket in buckets if bucket.span[1] <= weights):
        # In the order of backward, which is that of the array from its end.
        assert one.span[0] == other.span[1]
        assert one.layer >= other.layer


def test_small_layers_share_a_bucket_and_large_ones_are_cut():
    network = four_layers()
    specs = parameter_specs(network)
    sizes = {spec.layer: prod(spec.shape) for spec in specs if spec.decays}
    assert sizes == {0: 54, 1: 36, 2: 144, 3: 288}
    buckets = layer_buckets(specs, 4, 4 * 150)
    spans = [(bucket.span, bucket.layer) for bucket in buckets]
    # The last layer in halves, the next alone, the first two together, then all biases.
    weights = [((378, 522), 3), ((234, 378), 3), ((90, 234), 2), ((0, 90), 0)]
    assert spans == [*weights, ((522, 538), 0)]


def four_layers():
    layer = "[convolutional]\nfilters={}\nsize={}\npad=1\n"
    text = "[net]\nheight=8\nwidth=8\nchannels=3\n"
    text += layer.format(2, 3) + layer.format(2, 3) + layer.format(8, 3) + layer.format(4, 3)
    return parse_network(text, "net")


@settings(max_examples=40)
@given(NETWORKS, st.data())
def test_all_buckets_become_complete_in_a_backward_pass(network, data):
    groups = data.draw(strategies.groups(network))
    tasks = group_tasks(network, Plan(Grid(1, 1), groups))
    buckets = layer_buckets(parameter_specs(network), 4)
    completion = Completion(buckets, 4)
    told = [
        bucket
        for group in reversed(tasks)
        for task in reversed(group)
        for bucket in completion.after(task)
    ]
    assert sum(size for size, _ in told) == 4 * len(layers_of(parameter_specs(network)))
    early = [early for _, early in told]
    assert early == sorted(early, reverse=True)
    assert sum(early) == early_count(buckets)


@given(st.lists(st.integers(1, 9), max_size=20))
def test_new_values_of_the_first_quarter_are_early(sizes):
    lines = [0, *accumulate(sizes)]
    buckets = [Bucket(span, 0) for span in pairwise(lines)]
    count = early_count(buckets)
    assert 4 * lines[count] <= lines[-1]
    assert count == len(buckets) or 4 * lines[count + 1] > lines[-1]


@given(NETWORKS, st.data())
def test_forward_waits_for_the_values_that_a_task_reads(network, data):
    """Every layer's buckets are early or among those waited for, and all are in the end."""
    groups = data.draw(strategies.groups(network))
    buckets = layer_buckets(parameter_specs(network), 4, 32)
    early = early_count(buckets)
    awaiting, known, told = Awaiting(buckets), 0, []
    for task in (
        task for group in group_tasks(network, Plan(Grid(1, 1), groups)) for task in group
    ):
        for known in awaiting.before(task):
            told.append(known)
        here = buckets[len(buckets) - known :]
        missing = [bucket for bucket in buckets[early:] if bucket not in here]
        assert all(bucket.layer > task.layer.index for bucket in missing)
    assert told == sorted(set(told))
    assert known == len(buckets) - early
    later = sum(stop - start for start, stop in (bucket.span for bucket in buckets[early:]))
    assert sum(value_bytes(buckets, 4)) == 4 * later
