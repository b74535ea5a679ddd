"""Sizes with units, as run files and cluster files have them."""

import re

import pytest

from mpitile.errors import InputError
from mpitile.plan.clusters.byte_sizes import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("700MB", 700_000_000),
        ("1.5GiB", 3 * 2**29),
        ("10 B", 10),
        ("1kB", 1000),
        ("2 KiB", 2048),
        (" .5 mib ", 2**19),
        ("3gb", 3 * 10**9),
    ],
)
def test_sizes_in_bytes(text, size):
    assert parse_bytes(text, "memory") == size


@pytest.mark.parametrize(
    "value",
    ["", "700", "MB", "-1MB", "1 TBB", "1,5GB", "1e3MB", "MB7", "0GB", "9" * 400 + "GB", 5, None],
)
def test_bad_sizes_are_named(value):
    with pytest.raises(InputError, match=re.escape(f"memory = {value!r}: expected a positive")):
        parse_bytes(value, "memory")
