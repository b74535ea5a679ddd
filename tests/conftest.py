"""One thread a rank in BLAS, and hypothesis settings for all tests.

MPITILE_EXAMPLES=1000 looks at that many random examples of each property that uses
`examples`, drawn anew each time; without it the same few are taken every time.
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
