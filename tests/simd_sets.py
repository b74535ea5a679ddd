"""The instruction sets of this CPU, for tests that run each of them."""

from mpitile.kernels import _fast


def instruction_sets():
    """Names that `_fast.select` takes here; the one in use stays."""
    used, names = _fast.selected(), []
    for name in ("baseline", "avx2", "avx512"):
        try:
            _fast.select(name)
        except ValueError:
            continue
        names.append(name)
    _fast.select(used)
    return names
