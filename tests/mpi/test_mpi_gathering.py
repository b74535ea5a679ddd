"""Whole copies between real ranks: in shared memory, and back with the promised bits."""

import numpy as np
import pytest
from gather_cases import Case, Tensor, expected_copies, expected_deltas, grids, make, sliced, tiled

from mpitile.comm.devices import make_devices
from mpitile.plan.gathers import messages


def case_of(ranks, dtype):
    """Slices, with fewer channels than ranks in one, and uneven tiles."""
    weights = tuple(float(1 + rank % 3) for rank in range(ranks))
    grid = grids(ranks)[len(grids(ranks)) // 2]
    rows, columns = weights[: grid.rows], weights[: grid.columns]
    return Case(
        (
            {1: Tensor(9, 8, 20, sliced(9, 8, 20, weights))},
            {2: Tensor(5, 6, 2, sliced(5, 6, 2, weights))},
            {
                3: Tensor(9, 7, 16, tiled(9, 7, 16, grid, rows, columns)),
                4: Tensor(3, 2, 33, tiled(3, 2, 33, grid)),
            },
        ),
        images=3,
        dtype=dtype,
    )


@pytest.mark.mpi(ranks=[1, 2, 3, 4, 6])
@pytest.mark.parametrize(
    ("per_device", "wait"), [("auto", "spin"), ("auto", "sleep"), (1, "sleep"), (2, "sleep")]
)
def test_copies_and_sums_of_real_ranks(comm, per_device, wait):
    from mpi4py import MPI

    from mpitile.comm.mpi import MpiCommunicator

    world = MpiCommunicator(MPI.COMM_WORLD, wait)
    split = make_devices(world, per_device).devices
    for dtype in (np.float32, np.float64):
        case = case_of(comm.size, dtype)
        made, memories = make(world, split, case)
        before = world.sent.copy()
        for _ in range(3):
            # A device's copies are written to when all have read those of the round before.
            comm.allgather(None)
            for number, (exchange, ends) in enumerate(made):
                for tensor, tile in case.homes(number, comm.rank, 2).items():
                    ends.home_deltas[tensor].array[...] = tile.array
                    ends.copies[tensor].array[...] = np.nan
                exchange.begin_forward()
                exchange.end_forward()
            for exchange, _ in reversed(made):
                exchange.begin_adjoint()
                exchange.end_adjoint()
            for number, (_, ends) in enumerate(made):
                copies = expected_copies(case, number)
                deltas = expected_deltas(case, number, split, comm.rank)
                for tensor, tile in ends.copies.items():
                    np.testing.assert_array_equal(tile.array, copies[tensor])
                    np.testing.assert_array_equal(
                        ends.home_deltas[tensor].array, deltas[tensor].array
                    )
        planned = np.zeros(comm.size, int)
        for sizes in case.every_size():
            for (owner, partner), elements in messages(split, sizes).items():
                if owner == comm.rank:
                    planned[partner] += elements
                if partner == comm.rank:
                    planned[owner] += elements
        np.testing.assert_array_equal(world.sent - before, 3 * planned * np.dtype(dtype).itemsize)
        for exchange, _ in made:
            exchange.close()
        for memory in memories:
            memory.close()
