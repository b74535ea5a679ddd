"""Exchanges between ranks that are threads: what they deliver, and their adjoint."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from strategies import cases

from mpitile.comm.exchange import Exchange
from mpitile.comm.local import run_ranks
from mpitile.kernels.tile import Tile
from mpitile.plan.partition import Partition

EXACT = 1e-13


def tiles_of(partition, part, images, make):
    """This rank's tile of each tensor, with ``make(tensor, shape of the array)`` in it."""
    return {
        tensor: Tile(
            make(tensor, (images, box.height, box.width, shape.channels)),
            box,
            shape.height,
            shape.width,
        )
        for tensor, (shape, box) in enumerate(
            zip(partition.network.shapes, part.stored, strict=True)
        )
    }


def copied(tiles):
    return {tensor: replace(tile, array=tile.array.copy()) for tensor, tile in tiles.items()}


def product(one, other):
    """The scalar product of two ranks' tiles, and the sum of its terms' magnitudes."""
    terms = [(one[tensor].array * other[tensor].array).ravel() for tensor in one]
    return np.array([sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms)])


def forward(exchange):
    exchange.begin_forward()
    exchange.end_forward()


def adjoint(exchange):
    exchange.begin_adjoint()
    exchange.end_adjoint()


@settings(max_examples=40)
@given(cases())
def test_backward_is_the_adjoint_of_forward(case):
    partition = Partition(case.network, case.plan)
    parts = [partition.part(tile) for tile in range(case.plan.grid.tiles)]

    def work(comm):
        part = parts[comm.rank]
        random = np.random.default_rng([case.seed, comm.rank])

        def normal(tensor, shape):
            return random.standard_normal(shape)

        products = []
        for transfers in part.transfers:
            values, deltas = (tiles_of(partition, part, case.batch, normal) for _ in range(2))
            x, y = copied(values), copied(deltas)
            exchange = Exchange(comm, transfers, values, deltas)
            forward(exchange)
            adjoint(exchange)
            products.append((product(values, y), product(x, deltas)))
        return products

    for of_group in zip(*run_ranks(len(parts), work), strict=True):
        (left, scale), (right, _) = np.sum(of_group, axis=0)
        assert abs(left - right) <= EXACT * scale


@settings(max_examples=40)
@given(cases())
def test_halos_hold_what_their_owners_hold_and_nothing_else_changes(case):
    partition = Partition(case.network, case.plan)
    parts = [partition.part(tile) for tile in range(case.plan.grid.tiles)]
    shapes = case.network.shapes
    random = np.random.default_rng(case.seed)
    wholes = [
        random.standard_normal((case.batch, shape.height, shape.width, shape.channels))
        for shape in shapes
    ]

    def work(comm):
        part = parts[comm.rank]
        for group, transfers in zip(part.groups, part.transfers, strict=True):
            values = tiles_of(
                partition, part, case.batch, lambda tensor, shape: np.full(shape, np.nan)
            )
            for tensor, box in enumerate(part.owned):
                if not box.empty:
                    values[tensor].view(box)[...] = wholes[tensor][(slice(None), *box.slices())]
            forward(Exchange(comm, transfers, values, {}))
            for tensor, tile in values.items():
                # The image does not travel: each rank cuts its part, halo included, out of it.
                fetched = group.fetched.get(tensor) if tensor else None
                known = np.zeros((shapes[tensor].height, shapes[tensor].width), bool)
                for box in (part.owned[tensor], fetched):
                    if box and not box.empty:
                        known[box.slices()] = True
                expected = np.where(known[..., None], wholes[tensor], np.nan)
                np.testing.assert_array_equal(
                    tile.array, expected[(slice(None), *tile.box.slices())]
                )

    run_ranks(len(parts), work)


@settings(max_examples=40)
@given(cases())
def test_the_adjoint_adds_up_halos_at_their_owners_and_clears_them(case):
    partition = Partition(case.network, case.plan)
    parts = [partition.part(tile) for tile in range(case.plan.grid.tiles)]

    def work(comm):
        part = parts[comm.rank]
        for number, transfers in enumerate(part.transfers):
            deltas = tiles_of(partition, part, 1, lambda tensor, shape: np.ones(shape))
            adjoint(Exchange(comm, transfers, deltas, deltas))
            for tensor, box in enumerate(part.owned):
                if tensor == 0 or tensor not in part.groups[number].fetched:
                    continue
                height, width = deltas[tensor].height, deltas[tensor].width
                count = np.ones((height, width))
                for peer, other in enumerate(parts):
                    fetched = other.groups[number].fetched[tensor]
                    if peer != comm.rank:
                        count[fetched.intersect(box).slices()] += 1
                found = deltas[tensor].view(box)
                np.testing.assert_array_equal(
                    found, np.broadcast_to(count[box.slices()][None, ..., None], found.shape)
                )
                for message in transfers.receives:
                    for piece in message.pieces:
                        assert not deltas[piece.tensor].view(piece.box).any()

    run_ranks(len(parts), work)
