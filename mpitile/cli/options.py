"""Options that several verbs have."""

from __future__ import annotations

import argparse

from mpitile.errors import InputError


def add_override(parser: argparse.ArgumentParser) -> None:
    """The option that replaces values of the run file."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replace a value of the run file; may be repeated",
    )


def pair(text: str, option: str = "--size") -> tuple[int, int]:
    """The two numbers of such as ``2x3``."""
    first, separator, second = text.lower().partition("x")
    if not (separator and first.isdigit() and second.isdigit() and int(first) and int(second)):
        raise InputError(f"{option} {text}: expected two positive numbers such as 2x2")
    return int(first), int(second)
