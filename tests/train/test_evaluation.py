"""Scores of small networks: by hand on one rank, and the same on any grid."""

from math import ceil

import numpy as np
import pytest
from harness import random_images
from small_jobs import box_images, class_images, classifier, detector

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.data.batches import BatchSource
from mpitile.data.datasets import read_dataset
from mpitile.data.samples import Dataset, Sample
from mpitile.geometry.box import whole
from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.network.heads import heads
from mpitile.plan.by_rule import choose_plan
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.train.average_precision import evaluate
from mpitile.train.detections import decode_head, decode_region, sort_rows, suppress
from mpitile.train.evaluation import (
    Accuracy,
    describe,
    inference_step,
    main_figure,
    owned_detections,
    score_network,
)
from mpitile.train.feeding import Feeder, Passes, RootFeeder, truth_capacity

COUNT = 7
PLANS = [((1, 1), 1, 2), ((2, 2), 1, 3), ((1, 1), 2, 4), ((1, 2), 2, 2), ((3, 2), 1, 7)]


def trained(network, seed=1):
    """Weights that make large outputs; running statistics unlike those of any batch."""
    parameters = Parameters(network, np.float64)
    parameters.draw(seed)
    random = np.random.default_rng(seed)
    for spec in parameters.specs:
        view = parameters.view(spec)
        if spec.name == "weights":
            view *= 1.5
        elif spec.name == "rolling_variance":
            view[...] = random.uniform(0.5, 2, view.shape)
        else:
            view += random.normal(0, 0.2, view.shape)
    return parameters


def outputs_by_hand(network, dataset):
    """The last tensor of each image, one image after the other on one rank."""

    def work(comm):
        plan = Plan(Grid(1, 1), (0,))
        topology = make_topology(comm, plan)
        program = Program(Partition(network, plan), topology, trained(network), 1, training=False)
        shape = network.shapes[0]
        canvas = shape.height, shape.width
        source = BatchSource(dataset, canvas, whole(*canvas), np.float64)
        found = []
        for position in range(len(dataset)):
            program.values[0].array[0] = source.load_one(position, 0).image
            program.forward(inference_step(topology, 1))
            found.append(program.values[len(network.layers)].array[0].copy())
        return found

    return run_ranks(1, work)[0]


def score(network, dataset, grid, replicas, images, root=False, training=False, skip=False):
    plan = choose_plan(
        network, grid[0] * grid[1] * replicas, f"{grid[0]}x{grid[1]}", replicas=replicas
    )
    passes = Passes(images, replicas)
    count = len(dataset)
    numbers = range(ceil(count / images))

    def work(comm):
        topology = make_topology(comm, plan)
        program = Program(
            Partition(network, plan), topology, trained(network), images // replicas, training
        )
        tile = program.values[0]
        canvas = tile.height, tile.width
        if root:
            box = whole(*canvas)
            source = BatchSource(dataset, canvas, box, np.float64) if comm.rank == 0 else None
            feeder = RootFeeder(
                topology,
                tile,
                source,
                passes,
                numbers,
                skip,
                boxes=topology.team.allgather(tile.box),
                capacity=truth_capacity(dataset),
                classification=dataset.kind == "classification",
            )
        else:
            source = BatchSource(dataset, canvas, tile.box, np.float64)
            feeder = Feeder(topology, tile, source, passes, numbers, skip)
        with feeder:
            return score_network(topology, program, feeder, passes, count)

    first, *others = run_ranks(plan.ranks, work)
    assert others == [None] * (plan.ranks - 1)
    return first


@pytest.fixture(scope="module")
def detecting(tmp_path_factory):
    """A network, and a data set whose truths are some of its best detections, moved a little."""
    folder = box_images(tmp_path_factory.mktemp("boxes"), COUNT)
    network = parse_network(detector(normalize=1), "detector")
    dataset, _ = read_dataset("yolo", folder, None, ["disc", "square"])
    random = np.random.default_rng(3)
    samples = []
    for sample, rows in zip(dataset.samples, detections(network, dataset), strict=True):
        inside = rows[(np.abs(rows[:, :2] - 0.5) + rows[:, 2:4] / 2 < 0.5).all(axis=1), :5]
        best = [inside[inside[:, 4] == index][:5] for index in range(2)]
        chosen = np.concatenate([some[random.permutation(len(some))[:2]] for some in best])
        chosen[:, :4] *= random.uniform(0.95, 1.05, (len(chosen), 4))
        samples.append(Sample(sample.name, sample.image, chosen))
    return network, Dataset(tuple(samples), dataset.names, dataset.kind)


def detections(network, dataset):
    region, shape = network.layers[-1].operation, network.shapes[-1]
    return [
        suppress(
            decode_region(
                output,
                (0, 0),
                (shape.height, shape.width),
                region.anchors,
                region.classes,
                region.softmax,
                0.005,
            ),
            0.45,
        )
        for output in outputs_by_hand(network, dataset)
    ]


def same(one, other):
    assert one.truths == other.truths and one.detections == other.detections
    assert one.images == other.images
    for key in ("ap50", "ap", "mean_ap50", "mean_ap"):
        assert getattr(one, key) == pytest.approx(getattr(other, key), rel=1e-12), key


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize(("grid", "replicas", "images"), PLANS)
def test_detection_is_that_of_one_image_at_a_time(detecting, grid, replicas, images, root):
    network, dataset = detecting
    # Boxes that stick out are cut at the canvas's border when they are loaded.
    source = BatchSource(dataset, (32, 32), whole(32, 32), np.float64)
    truths = source.load(range(COUNT)).truths
    expected = evaluate(detections(network, dataset), truths, 2)
    # The case decides something: neither all right nor all wrong.
    assert 0.02 < expected.mean_ap < 0.98 and all(count > 3 for count in expected.truths)
    found = score(network, dataset, grid, replicas, images, root)
    same(found, expected)
    assert main_figure(found) == found.mean_ap50
    assert describe(found) == f"mAP@0.5 {found.mean_ap50:.4f} on {COUNT} images"


YOLO = """
[convolutional]
filters={filters}
size=1
activation=linear

[yolo]
mask={mask}
anchors=3,4, 7,5, 9,14
num=3
classes=2
"""
UPSAMPLED = """
[route]
layers=3

[upsample]
stride=2

[route]
layers=-1,2
"""


def two_heads():
    """A cfg with a head on the coarsest tensor, and one on it enlarged beside a finer one."""
    body = detector().split("\n[convolutional]\nfilters=14")[0]
    heads = YOLO.format(filters=14, mask="1,2"), YOLO.format(filters=7, mask="0")
    return body + heads[0] + UPSAMPLED + heads[1]


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(2, 2), Grid(3, 1)], ids=str)
def test_all_heads_detect(grid):
    """Their values are gone when the pass is over: each is decoded in time."""
    network = parse_network(two_heads(), "heads")
    inner, last = heads(network)
    images = 0.2 * random_images(network, 2, 1)

    def work(comm, plan, collect):
        topology = make_topology(comm, plan)
        program = Program(Partition(network, plan), topology, trained(network), 2, training=False)
        tile = program.values[0]
        tile.array[...] = images[(slice(None), *tile.box.slices())]
        return collect(program, inference_step(topology, 2))

    def by_hand(program, step):
        found = [[], []]

        def keep(tensor, value):
            for head in (inner, last):
                for rows, outputs in zip(found, value.array, strict=True):
                    if tensor == head.output:
                        box, image = value.box, network.shape(0)
                        rows.append(decode_head(head, image, outputs, box, 1e-4))

        program.forward(step, keep)
        return found

    def detect(program, step):
        return owned_detections(program, step, 1e-4)

    (expected,) = run_ranks(1, lambda comm: work(comm, Plan(Grid(1, 1), (0,)), by_hand))
    plan = Plan(grid, (0, 3))
    ranks = run_ranks(plan.ranks, lambda comm: work(comm, plan, detect))
    for image, rows in enumerate(expected):
        assert all(len(some) > 3 for some in rows), [len(some) for some in rows]
        found = np.concatenate([rank[image] for rank in ranks])
        np.testing.assert_allclose(
            sort_rows(found), sort_rows(np.concatenate(rows)), rtol=1e-12, atol=1e-12
        )


def test_a_training_program_scores_the_same(detecting):
    network, dataset = detecting
    same(
        score(network, dataset, (2, 1), 1, 4, training=True),
        score(network, dataset, (1, 1), 1, 1),
    )


def test_unreadable_images_do_not_count(detecting):
    network, dataset = detecting
    samples = list(dataset.samples)
    lost = samples.pop(3)
    rest = Dataset(tuple(samples), dataset.names, dataset.kind)
    samples.insert(3, Sample(lost.name, lost.image.with_name("gone.png"), lost.truths))
    holed = Dataset(tuple(samples), dataset.names, dataset.kind)
    found = score(network, holed, (2, 1), 1, 4, skip=True)
    same(found, score(network, rest, (1, 1), 1, 1))
    assert found.images == COUNT - 1


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize(("grid", "replicas", "images"), PLANS)
def test_accuracy_is_that_of_one_image_at_a_time(tmp_path, grid, replicas, images, root):
    classes = 8
    network = parse_network(classifier(classes), "classifier")
    class_images(tmp_path, classes, 3)
    dataset, _ = read_dataset("folders", tmp_path, None, None)
    ranked = [np.argsort(-output.ravel()) for output in outputs_by_hand(network, dataset)][:-1]
    assert len({tuple(order) for order in ranked}) > 5
    # Labels by the network's own ranks, so that each image counts.
    random = np.random.default_rng(1)
    labels = [int(order[random.choice([0, 0, 1, 3, 6])]) for order in ranked]
    samples = [
        Sample(sample.name, sample.image, sample.truths, label)
        for sample, label in zip(dataset.samples, labels, strict=False)
    ]
    dataset = Dataset(tuple(samples), dataset.names, dataset.kind)
    top1 = np.mean([label == order[0] for label, order in zip(labels, ranked, strict=True)])
    top5 = np.mean([label in order[:5] for label, order in zip(labels, ranked, strict=True)])
    assert 0 < top1 < top5 < 1
    found = score(network, dataset, grid, replicas, images, root)
    assert found == Accuracy(pytest.approx(top1), pytest.approx(top5), 23)
    assert main_figure(found) == found.top1
    assert describe(found) == f"accuracy {found.top1:.4f} on 23 images"
