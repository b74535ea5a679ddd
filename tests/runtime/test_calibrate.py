"""The choice of kernels: the same on all ranks, exact where asked for."""

import numpy as np
import pytest

from mpitile.comm.local import run_ranks
from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.kernels.algorithms import EXACT
from mpitile.kernels.choice import Choices
from mpitile.network.cfg import parse_network
from mpitile.plan.plan import Plan
from mpitile.runtime.calibrate import choose_kernels
from mpitile.runtime.shapes import network_shapes
from mpitile.train.proof import compare, random_problem, run_alone, run_tile_by_tile

CFG = """
[net]
height=40
width=44
channels=3

[convolutional]
filters=32
size=3
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=32
size=3
pad=1
activation=leaky
"""
GRID = Grid(1, 2)


@pytest.fixture
def network():
    return parse_network(CFG, "small")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache" / "kernels.toml"
    monkeypatch.setenv("MPITILE_KERNEL_CACHE", str(path))
    return path


def test_measured_choices_are_kept_and_the_same_on_all_ranks(network, cache):
    def choose(comm):
        return choose_kernels("measured", network, GRID, 1, comm)

    first = run_ranks(2, choose)
    assert first[0] == first[1]
    assert set(first[0].table) == {shape.key for shape in network_shapes(network, GRID, 1)}
    before = cache.read_text()
    assert run_ranks(2, choose) == first
    assert cache.read_text() == before


def test_what_a_tile_gives_back_reaches_into_its_halo(network):
    def cells(grid):
        shapes = network_shapes(network, grid, 1)
        return {shape.operation: (shape.rows, shape.columns) for shape in shapes[-3:]}

    inside = {"forward": (10, 22), "backward_input": (12, 22), "backward_weights": (10, 22)}
    assert cells(Grid(2, 1)) == inside
    assert set(cells(Grid(1, 1)).values()) == {(20, 22)}


def test_a_damaged_file_of_measurements_is_named_on_all_ranks(network, cache):
    cache.parent.mkdir()
    cache.write_text("[machine]\nforward = 3\n")

    def choose(comm):
        with pytest.raises(InputError, match=r"kernels\.toml"):
            choose_kernels("measured", network, GRID, 1, comm)
        return True

    assert run_ranks(2, choose) == [True, True]


def test_exact_and_fast_measure_nothing(network, cache):
    def choose(comm):
        return [choose_kernels(kind, network, GRID, 1, comm) for kind in ("exact", "fast")]

    exact, fast = run_ranks(1, choose)[0]
    assert not cache.exists()
    shapes = network_shapes(network, GRID, 1)
    assert {exact.of(shape, np.float32) for shape in shapes} <= set(EXACT)
    assert "winograd4" in {fast.of(shape, np.float32) for shape in shapes}


@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-5), (False, 1e-3)])
def test_kernels_change_the_rounding_alone(network, exact, tolerance):
    problem = random_problem(network, 1, np.dtype(np.float32), 1, 3, Choices(exact=exact))
    plan = Plan(Grid(2, 2), (0, 2))
    tiled, alone = run_tile_by_tile(problem, plan), run_alone(problem, plan.groups)
    found = {difference.kind: difference.largest for difference in compare(alone, tiled)}
    # Pools may flip where a result depends on the tile; losses and outputs are smooth.
    assert found["losses"] <= tolerance
    assert found["outputs"] <= tolerance
    if exact:
        assert found["outputs"] == 0
        assert max(found.values()) <= tolerance
