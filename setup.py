"""The Cython extensions; everything else about the package is in pyproject.toml."""

import os
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = (
    "activation",
    "batchnorm",
    "boxes",
    "conv",
    "depthwise",
    "dropout",
    "fast",
    "gemm",
    "pixels",
    "pool",
    "reorg",
)

# Without traps and errno, selections and roots are vectorised; values stay the same.
# Python's own flags ask for debugging symbols, which would be most of a wheel.
FLAGS = ["-O3", "-fno-trapping-math", "-fno-math-errno", "-Wno-psabi", "-g0"]

# A pixel's bits must not depend on where a tile begins, as they would if products and sums were
# contracted in vectors alone. Without NaN and negative zeros, clipping takes two instructions.
PIXELS = ["-ffp-contract=off", "-ffinite-math-only", "-fno-signed-zeros"]

# A wheel built on one board must run on another, so this is never the default.
NATIVE = ["-march=native"] if os.environ.get("MPITILE_NATIVE") == "1" else []

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"mpitile.kernels._{name}",
                [f"kernels/{name}.pyx"],
                depends=glob("kernels/*.pxi") + glob("kernels/simd/*.h"),
                include_dirs=["kernels"],
                extra_compile_args=[*FLAGS, *(PIXELS if name == "pixels" else ()), *NATIVE],
            )
            for name in KERNELS
        ],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        },
    ),
    # One compiler per core.
    options={"build_ext": {"parallel": True}},
)
