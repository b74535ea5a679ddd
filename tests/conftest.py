"""One thread a rank in BLAS, and hypothesis settings for all tests.

Without MPITILE_EXAMPLES every property looks at the same few random examples each time.
With it they are drawn anew, and those of the exactness tests are that many: with
MPITILE_EXAMPLES=3000 a search of some minutes for what the few miss.
"""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "mpitile",
    deadline=None,
    database=None,
    derandomize="MPITILE_EXAMPLES" not in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("mpitile")
