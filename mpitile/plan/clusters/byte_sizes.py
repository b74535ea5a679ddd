"""Sizes in bytes as users write them: a number and a unit."""

from __future__ import annotations

import re
from math import isfinite

from mpitile.errors import InputError

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(value: object, name: str) -> int:
    """Bytes of a size such as ``700MB`` or ``1.5GiB``.

    Parameters
    ----------
    name : where the size stands, for the error.

    Raises
    ------
    InputError : it is no such size.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*", str(value))
    size = float(match[1]) * _UNITS.get(match[2].upper(), 0) if match else 0.0
    # More digits than a float has room for make it infinite.
    if not (size >= 1 and isfinite(size)):
        raise InputError(
            f"{name} = {value!r}: expected a positive number and a unit out of B, kB, MB, GB, "
            "KiB, MiB, GiB, such as '700MB'"
        )
    return int(size)
