"""Feeders give every rank the box and the truths that direct loads would give."""

import numpy as np
import pytest
from small_jobs import box_images, class_images

from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.data.augment import Augmentation
from mpitile.data.batches import BatchSource
from mpitile.data.datasets import read_dataset
from mpitile.data.samples import Dataset, Sample
from mpitile.errors import InputError
from mpitile.geometry.box import Box, whole
from mpitile.geometry.tiling import Grid
from mpitile.kernels.tile import Tile
from mpitile.plan.plan import Plan
from mpitile.train.feeding import Feeder, Passes, RootFeeder, truth_capacity

CANVAS = (24, 32)
COUNT = 7
PLANS = [(1, 1, 1), (2, 2, 1), (1, 3, 1), (1, 1, 2), (2, 1, 2)]


@pytest.fixture
def boxes(tmp_path):
    box_images(tmp_path, COUNT, (30, 28))
    return read_dataset("yolo", tmp_path, None, ["disc", "square"])[0]


@pytest.fixture
def labels(tmp_path):
    class_images(tmp_path, 3, 2)
    return read_dataset("folders", tmp_path, None, None)[0]


def tile_boxes(grid):
    """Parts of the canvas with a halo of up to three cells, uneven."""
    height, width = CANVAS
    rows = [round(height * (k / grid.rows) ** 1.3) for k in range(grid.rows + 1)]
    columns = [round(width * (k / grid.columns) ** 1.3) for k in range(grid.columns + 1)]
    return [
        Box(
            max(0, rows[y] - 3),
            min(height, rows[y + 1] + 3),
            max(0, columns[x] - 3),
            min(width, columns[x + 1] + 3),
        )
        for y in range(grid.rows)
        for x in range(grid.columns)
    ]


class Feeding:
    """Feeders of a data set on all ranks of a plan, and what a direct load gives."""

    def __init__(self, dataset, plan=(1, 1, 1), images=4, root=False, **options):
        self.dataset = dataset
        self.grid = Grid(*plan[:2])
        self.plan = Plan(self.grid, (0,), plan[2])
        self.passes = Passes(images, plan[2])
        self.root = root
        self.boxes = tile_boxes(self.grid)
        self.options = {"seed": 5, "shuffle": True, "augmentation": Augmentation(), **options}
        self.everything = self.source(dataset, whole(*CANVAS))

    def source(self, dataset, box):
        return BatchSource(dataset, CANVAS, box, np.float64, **self.options)

    def feeder(self, comm, numbers, dataset, skip, remark):
        topology = make_topology(comm, self.plan)
        box = self.boxes[topology.tile]
        share = self.passes.images // self.plan.replicas
        tile = Tile(np.zeros((share, box.height, box.width, 3)), box, *CANVAS)
        if not self.root:
            source = self.source(dataset, box)
            feeder = Feeder(topology, tile, source, self.passes, numbers, skip, remark)
        else:
            source = self.source(dataset, whole(*CANVAS)) if comm.rank == 0 else None
            feeder = RootFeeder(
                topology,
                tile,
                source,
                self.passes,
                numbers,
                skip,
                remark,
                boxes=self.boxes,
                capacity=truth_capacity(self.dataset),
                classification=self.dataset.kind == "classification",
            )
        return topology, tile, feeder

    def run(self, numbers=range(3), skip=False, datasets=None):
        """For each rank, each pass's (replica, box, pixels, truths, replaced); and remarks."""
        remarks = []

        def work(comm):
            dataset = (datasets or {}).get(comm.rank, self.dataset)
            topology, tile, feeder = self.feeder(
                comm, numbers, dataset, skip, lambda text: remarks.append((comm.rank, text))
            )
            with feeder:
                return [
                    (topology.replica, tile.box, feeder.next(n), tile.array.copy(), feeder.replaced)
                    for n in numbers
                ]

        return run_ranks(self.plan.ranks, work), remarks

    def check(self, ranks, numbers=range(3), attempts=None):
        """All ranks hold their part of what a direct load of the whole gives."""
        for parts in ranks:
            for number, (replica, box, truths, pixels, replaced) in zip(
                numbers, parts, strict=True
            ):
                positions = self.passes.positions(number, replica)
                everywhere = set(self.passes.positions(number))
                assert replaced == everywhere & set(attempts or {})
                for slot, position in enumerate(positions):
                    attempt = (attempts or {}).get(position, 0)
                    item = self.everything.load_one(position, attempt)
                    rows, columns = box.slices()
                    np.testing.assert_array_equal(pixels[slot], item.image[rows, columns])
                    if item.label is None:
                        np.testing.assert_array_equal(truths[slot], item.truths)
                    else:
                        assert truths[slot] == item.label


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("plan", PLANS)
def test_tiles_and_truths_are_those_of_direct_loads(boxes, plan, root):
    feeding = Feeding(boxes, plan, root=root)
    ranks, remarks = feeding.run()
    feeding.check(ranks)
    assert not remarks
    images = {pixels.tobytes() for pixels in ranks[0][0][3]}
    assert len(images) == 4 // plan[2]


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("plan", [(1, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_labels_of_classification(labels, plan, root):
    feeding = Feeding(labels, plan, root=root, augmentation=None, shuffle=False)
    ranks, _ = feeding.run()
    feeding.check(ranks)
    seen = [label for _, _, truths, _, _ in ranks[0] for label in truths]
    if plan[2] == 1:
        assert seen == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("root", [False, True])
def test_a_run_may_begin_anywhere(boxes, root):
    feeding = Feeding(boxes, (1, 2, 1), root=root)
    ranks, _ = feeding.run(range(5, 8))
    feeding.check(ranks, range(5, 8))


@pytest.mark.parametrize("root", [False, True])
def test_truths_outlast_the_next_pass(boxes, root):
    feeding = Feeding(boxes, root=root, augmentation=None, shuffle=False)
    ranks, _ = feeding.run(range(2))
    first, second = (part[2] for part in ranks[0])
    assert [len(truths) for truths in first] == [0, 1, 2, 3]
    assert [len(truths) for truths in second] == [0, 1, 2, 0]
    np.testing.assert_array_equal(first[2], feeding.everything.load_one(2, 0).truths)


def positions_of(feeding, index, numbers):
    """Where the plain order shows a sample."""
    last = numbers.stop * feeding.passes.images
    return [position for position in range(last) if position % COUNT == index]


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("plan", [(1, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_unreadable_images_are_replaced_by_the_next_one(boxes, plan, root):
    boxes.samples[1].image.write_bytes(b"no image")
    boxes.samples[2].image.unlink()
    feeding = Feeding(boxes, plan, root=root, shuffle=False)
    numbers = range(4)
    ranks, remarks = feeding.run(numbers, skip=True)
    attempts = {position: 2 for position in positions_of(feeding, 1, numbers)}
    attempts |= {position: 1 for position in positions_of(feeding, 2, numbers)}
    assert len(attempts) == 5
    feeding.check(ranks, numbers, attempts)
    # Each is named once, by one rank, though it comes more than once.
    assert {rank for rank, _ in remarks} == {0}
    texts = [text for _, text in remarks]
    assert len(texts) == 2
    assert all("expected a readable image" in text and text.endswith("; skipped") for text in texts)
    assert {text.split(":")[0] for text in texts} == {
        str(sample.image) for sample in boxes.samples[1:3]
    }


def lacking(dataset, index):
    """The data set on a device where one image file is missing."""
    samples = list(dataset.samples)
    lost = samples[index]
    samples[index] = Sample(lost.name, lost.image.with_name("gone.png"), lost.truths, lost.label)
    return Dataset(tuple(samples), dataset.names, dataset.kind)


@pytest.mark.parametrize("plan", [(1, 2, 1), (2, 1, 2)])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_cannot_read_is_replaced_on_all(boxes, plan, rank):
    feeding = Feeding(boxes, plan, shuffle=False)
    numbers = range(4)
    # Rank 0 and 1 are of one replica, which reads only some of the positions.
    ranks, remarks = feeding.run(numbers, skip=True, datasets={rank: lacking(boxes, 1)})
    attempts = {
        position: 1
        for number in numbers
        for position in feeding.passes.positions(number, 0)
        if position % COUNT == 1
    }
    assert attempts
    feeding.check(ranks, numbers, attempts)
    assert len(remarks) == 1 and "gone.png" in remarks[0][1] and remarks[0][0] == 0


def failures(feeding, skip=False, datasets=None):
    """The `InputError` text of every rank."""

    def work(comm):
        dataset = (datasets or {}).get(comm.rank, feeding.dataset)
        _, _, feeder = feeding.feeder(comm, range(3), dataset, skip, lambda text: None)
        with feeder, pytest.raises(InputError) as caught:
            for number in range(3):
                feeder.next(number)
        return str(caught.value)

    return run_ranks(feeding.plan.ranks, work)


@pytest.mark.parametrize("root", [False, True])
def test_unreadable_images_are_fatal_on_all_ranks_unless_skipped(boxes, root):
    boxes.samples[5].image.write_bytes(b"")
    texts = failures(Feeding(boxes, (2, 1, 2), root=root, shuffle=False))
    assert len(set(texts)) == 1
    assert (
        texts[0].startswith(str(boxes.samples[5].image)) and 'data.unreadable = "skip"' in texts[0]
    )


def test_one_ranks_failure_is_fatal_on_all_ranks(boxes):
    texts = failures(Feeding(boxes, (2, 2, 1), shuffle=False), datasets={3: lacking(boxes, 6)})
    assert len(set(texts)) == 1 and "gone.png" in texts[0] and texts[0].startswith("rank 3: ")


@pytest.mark.parametrize("root", [False, True])
def test_a_data_set_without_one_readable_image_ends_the_run(boxes, root):
    for sample in boxes.samples:
        sample.image.write_bytes(b"no image")
    texts = failures(Feeding(boxes, (1, 2, 1), root=root), skip=True)
    assert set(texts) == {"no image of the data set can be read"}


def test_positions_of_passes():
    passes = Passes(6, 3)
    assert passes.positions(2) == range(12, 18)
    assert [passes.positions(2, replica) for replica in range(3)] == [
        range(12, 14),
        range(14, 16),
        range(16, 18),
    ]
