"""Weights files of ranks that have slices of filter-parallel layers: the same bytes as of one."""

import numpy as np
import pytest
from test_weights_file import darknet_bytes, darknet_numbers, network

from mpitile.checkpoint import weights_file
from mpitile.checkpoint.weights_file import read_weights, write_weights
from mpitile.comm.local import run_ranks
from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid
from mpitile.plan.filters import split_at_switches, tile_spans
from mpitile.plan.plan import Plan
from mpitile.runtime.parameters import Parameters

FILTERS = [(0,), (0, 1), (2, 3), (0, 1, 2, 3, 4), (4,)]


def sliced(ranks, rank, filters, dtype=np.float32):
    """A rank's parameters; ranks have slices of unlike widths, some none."""
    plan = Plan(
        Grid(1, ranks),
        split_at_switches(network(), (0,), filters),
        column_weights=tuple(1.0 + n % 3 for n in range(ranks)),
        filters=filters,
    )
    return Parameters(network(), dtype, spans=tile_spans(network(), plan, rank))


@pytest.fixture(autouse=True, params=[1, 30, weights_file._BLOCK])
def block(request, monkeypatch):
    monkeypatch.setattr(weights_file, "_BLOCK", request.param)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_slices_are_read_and_written_as_the_whole(tmp_path, ranks, filters):
    path, copy = tmp_path / "a.weights", tmp_path / "b.weights"
    path.write_bytes(darknet_bytes(darknet_numbers(), 0, 2, 0))
    whole = Parameters(network(), np.float64)
    read_weights(path, whole)

    def work(comm):
        parameters = sliced(ranks, comm.rank, filters, np.float64)
        assert read_weights(path, parameters) == (6, 1234)
        for layer in range(6):
            first, last = parameters.spans.get(layer, (None, None))
            for name, view in parameters.of_layer(layer).items():
                np.testing.assert_array_equal(view, whole.of_layer(layer)[name][..., first:last])
        write_weights(copy, parameters, 1234, comm)
        comm.broadcast(None)

    run_ranks(ranks, work)
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("filters", FILTERS)
def test_slices_of_old_files_with_turned_weights(tmp_path, filters):
    path = tmp_path / "a.weights"
    path.write_bytes(darknet_bytes(darknet_numbers(), 1001, 0, 0, wide=False))
    whole = Parameters(network(), np.float32)
    read_weights(path, whole)
    for rank in range(3):
        parameters = sliced(3, rank, filters)
        read_weights(path, parameters)
        for layer, (first, last) in parameters.spans.items():
            for name, view in parameters.of_layer(layer).items():
                np.testing.assert_array_equal(view, whole.of_layer(layer)[name][..., first:last])


def test_a_file_that_cannot_be_written_leaves_no_rank_behind(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.weights"

    def work(comm):
        parameters = sliced(3, comm.rank, (0, 3))
        if comm.rank:
            write_weights(path, parameters, 0, comm)
        else:
            with pytest.raises(InputError, match=r"a\.weights: cannot be written"):
                write_weights(path, parameters, 0, comm)
        return comm.broadcast("together again")

    assert run_ranks(3, work) == ["together again"] * 3
