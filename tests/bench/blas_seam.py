"""BLAS from Cython against numpy.matmul(out=): per call and per panel.

    python tests/bench/blas_seam.py [--turns 7]

A ratio above 1 means that the Cython seam is the faster one. Both run on one thread, in
turns, and the best of several turns counts.
"""

import argparse
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import time

import numpy as np

from mpitile.kernels import _gemm

# Pixels, columns of the panel (kh kw C), filters.
SHAPES = {
    "one 4x4 product": (4, 4, 4),
    "one pixel": (1, 576, 128),
    "row of 19, 1x1": (19, 64, 32),
    "row of 38, 1x1": (38, 256, 128),
    "panel, first layer": (608, 27, 32),
    "panel, 3x3x32 to 64": (500, 288, 64),
    "panel, 3x3x64 to 128": (456, 576, 128),
    "panel, 3x3x128 to 256": (228, 1152, 256),
    "panel, 3x3x256 to 512": (114, 2304, 512),
    "large square": (1024, 1024, 1024),
}
SECONDS_PER_TURN = 0.02


def seconds(work, repeats: int) -> float:
    start = time.perf_counter()
    work(repeats)
    return (time.perf_counter() - start) / repeats


def compare(shape: tuple[int, int, int], dtype: str, count: int) -> tuple[float, float]:
    """Best seconds of one product in so many turns: by the seam, by NumPy."""
    pixels, inner, filters = shape
    random = np.random.default_rng(1)
    a = random.standard_normal((pixels, inner)).astype(dtype)
    b = random.standard_normal((inner, filters)).astype(dtype)
    c = np.empty((pixels, filters), dtype)

    def seam(repeats: int) -> None:
        _gemm.gemm_repeated(a, b, c, False, False, 0.0, repeats)

    def numpy(repeats: int) -> None:
        for _ in range(repeats):
            np.matmul(a, b, out=c)

    repeats = max(1, int(SECONDS_PER_TURN / max(seconds(numpy, 3), 1e-7)))
    turns = [(seconds(seam, repeats), seconds(numpy, repeats)) for _ in range(count)]
    return min(t[0] for t in turns), min(t[1] for t in turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=7, help="of which the best counts (7)")
    options = parser.parse_args()
    print(f"{'shape':24}{'dtype':>9}{'seam us':>10}{'GFLOP/s':>9}{'numpy us':>10}{'ratio':>7}")
    for dtype in ("float32", "float64"):
        for name, shape in SHAPES.items():
            seam, numpy = compare(shape, dtype, options.turns)
            rate = 2 * np.prod(shape, dtype=float) / seam / 1e9
            print(
                f"{name:24}{dtype:>9}{seam * 1e6:10.2f}{rate:9.1f}"
                f"{numpy * 1e6:10.2f}{numpy / seam:7.2f}"
            )


if __name__ == "__main__":
    main()
