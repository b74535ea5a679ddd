"""Upsampled boxes of any place and size against the whole tensor's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.receptive import Enlarged
from mpitile.kernels import reference
from mpitile.kernels.tile import Tile
from mpitile.layers.base import Site, Step
from mpitile.layers.upsampling import Upsampling
from mpitile.network import spec
from mpitile.network.shapes import infer

STEP = Step(training=True, reduce=None, images=2)


def site(x, dy, box, stride, scale):
    """A tile that holds what `box` reads, and `box` with a cell around it."""
    height, width = x.shape[1:3]
    network = infer(spec.NetOptions(height, width, 3), [(0, spec.Upsample(stride, scale))], "up")
    needed = Enlarged(stride).needs(box, height, width)
    tall, wide = height * stride, width * stride
    held = Box(max(0, box.y0 - 1), min(tall, box.y1 + 1), max(0, box.x0 - 1), min(wide, box.x1 + 1))

    def tile(array, part, rows, columns):
        return Tile(np.array(array[:, *part.slices()], x.dtype, order="C"), part, rows, columns)

    return Site(
        layer=network.layers[0],
        box=box,
        owned=box,
        inputs=(tile(x, needed, height, width),),
        input_deltas=(tile(np.ones_like(x), needed, height, width),),
        output=tile(np.full_like(dy, 7), held, tall, wide),
        output_delta=tile(dy, held, tall, wide),
    )


@settings(deadline=None, max_examples=80)
@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([1.0, 0.25]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32 - 1),
)
def test_a_box_is_that_of_the_whole(height, width, stride, scale, dtype, seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((2, height, width, 3)).astype(dtype)
    dy = random.standard_normal((2, height * stride, width * stride, 3)).astype(dtype)
    (y0, y1), (x0, x1) = (
        sorted(int(n) for n in random.integers(0, length * stride + 1, 2))
        for length in (height, width)
    )
    box = Box(y0, y1, x0, x1)
    box = EMPTY if box.empty else box
    place = site(x, dy, box, stride, scale)
    work = Upsampling(place)
    work.forward(STEP)
    expected = np.full_like(dy, 7)
    cells = np.s_[:, *box.slices()]
    expected[cells] = reference.upsample(x, stride, scale)[cells]
    np.testing.assert_array_equal(
        place.output.array, expected[:, *place.output.box.slices()].astype(dtype)
    )
    alone = np.zeros(dy.shape)
    alone[cells] = dy[cells]
    work.backward_input(STEP)
    back = 1 + reference.upsample_backward(alone, stride, scale)
    delta = place.input_deltas[0]
    np.testing.assert_allclose(delta.array, back[:, *delta.box.slices()], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("box", "needed"),
    [
        (Box(0, 1, 0, 1), Box(0, 1, 0, 1)),
        (Box(1, 3, 2, 3), Box(0, 2, 1, 2)),
        (Box(2, 4, 3, 8), Box(1, 2, 1, 4)),
    ],
)
def test_needs_by_hand(box, needed):
    assert Enlarged(2).needs(box, 5, 5) == needed
