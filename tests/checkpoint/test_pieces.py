"""Rectangles of tables: what one division of the columns has written, any other reads."""

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from mpitile.checkpoint import pieces
from mpitile.checkpoint.pieces import Field, StoredPieces, as_rows, cut_pieces


@st.composite
def tables(draw):
    """Heights and widths of some tables; a vector is a table of one row."""
    shape = st.tuples(st.integers(1, 6), st.integers(1, 9))
    return draw(st.lists(shape, min_size=1, max_size=4))


@st.composite
def divisions(draw, shapes):
    """For some ranks the fields, and the spans of their flat array that each keeps.

    Tables are divided by columns, whole on one rank, or whole on several that each keep a part.
    """
    ranks = draw(st.integers(1, 4))
    fields, spans = [[] for _ in range(ranks)], [[] for _ in range(ranks)]
    for table, (rows, columns) in enumerate(shapes):
        lines = sorted(draw(st.lists(st.integers(0, columns), min_size=ranks, max_size=ranks)))
        lines[-1] = columns
        if draw(st.booleans()):
            widths = list(zip([0, *lines], lines, strict=False))
            cuts = [(0, rows * (stop - start)) for start, stop in widths]
        else:
            widths = [(0, columns)] * ranks
            ends = sorted(draw(st.lists(st.integers(0, rows * columns), min_size=ranks)))[:ranks]
            ends[-1] = rows * columns
            cuts = list(zip([0, *ends], ends, strict=False))
        for rank in range(ranks):
            before = sum(field.size for field in fields[rank])
            fields[rank].append(Field(table, rows, widths[rank]))
            spans[rank].append((before + cuts[rank][0], before + cuts[rank][1]))
    return list(zip(fields, spans, strict=True))


def written(file, number, wholes, fields, spans):
    """A rank's pieces in a dataset, as a shard has them."""
    found = list(cut_pieces(fields, spans))
    flat = np.concatenate(
        [
            np.zeros(0),
            *(wholes[p.table][p.top : p.bottom, p.left : p.right].ravel() for p in found),
        ]
    )
    held = [wholes[field.table][:, slice(*field.columns)].ravel() for field in fields]
    kept = [np.concatenate(held)[start:stop] for start, stop in spans]
    np.testing.assert_array_equal(flat, np.concatenate(kept))
    return StoredPieces(file.create_dataset(f"d{number}", data=flat), as_rows(found))


@settings(deadline=None, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_any_division_reads_what_another_wrote(block, data):
    shapes = data.draw(tables())
    random = np.random.default_rng(1)
    wholes = [random.standard_normal(shape) for shape in shapes]
    bytes_, pieces._BLOCK_BYTES = pieces._BLOCK_BYTES, block
    try:
        with h5py.File("none", "w", driver="core", backing_store=False) as file:
            stored = [
                written(file, number, wholes, fields, spans)
                for number, (fields, spans) in enumerate(data.draw(divisions(shapes)))
            ]
            for fields, spans in data.draw(divisions(shapes)):
                for piece in cut_pieces(fields, spans):
                    target = np.full(piece.size, np.nan)
                    filled = sum(shard.fill(piece, target) for shard in stored)
                    assert filled == piece.size
                    columns = wholes[piece.table][piece.top : piece.bottom]
                    np.testing.assert_array_equal(
                        target, columns[:, piece.left : piece.right].ravel()
                    )
    finally:
        pieces._BLOCK_BYTES = bytes_


def test_a_slice_is_one_piece_however_many_rows_it_has():
    fields = [Field(0, 9 * 512, (256, 512)), Field(1, 1, (256, 512))]
    everything = (0, sum(field.size for field in fields))
    found = list(cut_pieces(fields, [everything]))
    assert [(p.table, p.height, p.width) for p in found] == [(0, 4608, 256), (1, 1, 256)]
    assert len(list(cut_pieces(fields, [(100, 256 * 1000 + 7)]))) == 3
