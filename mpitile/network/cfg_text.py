"""Darknet cfg text as sections of keys, whose values are read with their limits.

Every error names the file and the line, what was expected and what was found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from mpitile.errors import InputError

# Eighteen digits fit in 64 bits.
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Limits:
    """The values that a key accepts, in words and as a test."""

    text: str
    test: Callable[[float], bool]


ANY = Limits("", lambda value: True)
AT_LEAST_0 = Limits(" >= 0", lambda value: value >= 0)
AT_LEAST_1 = Limits(" >= 1", lambda value: value >= 1)
ABOVE_0 = Limits(" > 0", lambda value: value > 0)
BELOW_HALF = Limits(" in [0, 0.5)", lambda value: 0 <= value < 0.5)
UP_TO_1 = Limits(" in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_1 = Limits(" in [0, 1)", lambda value: 0 <= value < 1)


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name without brackets, the line of its header, and its keys.

    `entries` holds for each key its line and its value as text.
    """

    source: str
    line: int
    name: str
    entries: dict[str, tuple[int, str]] = field(default_factory=dict)

    def fail(self, message: str, key: str | None = None) -> NoReturn:
        """Raise `InputError` at the line of `key`, or of the header without one."""
        line = self.entries[key][0] if key in self.entries else self.line
        raise InputError(f"{self.source}:{line}: {message}")

    def text(self, key: str, default: str | None = None) -> str:
        """The value of `key` as it stands; without a default the key must be there."""
        if key in self.entries:
            return self.entries[key][1]
        if default is None:
            self.fail(f"[{self.name}] lacks the key '{key}'")
        return default

    def integer(self, key: str, default: int | None, limits: Limits = ANY) -> int:
        if key not in self.entries and default is not None:
            return default
        return self._integer(key, self.text(key), limits)

    def number(self, key: str, default: float | None, limits: Limits = ANY) -> float:
        if key not in self.entries and default is not None:
            return default
        return self._number(key, self.text(key), limits)

    def flag(self, key: str, default: bool) -> bool:
        """A switch that is written 0 or 1."""
        value = self.text(key, "1" if default else "0")
        if value not in ("0", "1"):
            self.fail(f"{key}: expected 0 or 1, found '{value}'", key)
        return value == "1"

    def integers(self, key: str, limits: Limits = ANY) -> tuple[int, ...]:
        """Integers between commas."""
        return tuple(self._integer(key, item, limits) for item in self._items(key))

    def numbers(self, key: str, limits: Limits = ANY) -> tuple[float, ...]:
        """Numbers between commas."""
        return tuple(self._number(key, item, limits) for item in self._items(key))

    def choice(
        self, key: str, default: str, known: Iterable[str], unsupported: Iterable[str]
    ) -> str:
        """One of the `known` words; Darknet's other ones are told from misspelt ones."""
        value = self.text(key, default)
        if value in unsupported:
            self.fail(f"{key}={value} is not supported yet; supported: {', '.join(known)}", key)
        if value not in known:
            self.fail(f"{key}: expected one of {', '.join(known)}, found '{value}'", key)
        return value

    def check_keys(self, known: Iterable[str], fixed: dict[str, str | None]) -> None:
        """Refuse unknown keys, and `fixed` ones that differ from the value given there.

        A fixed value of None refuses the key whatever its value is.
        """
        for key, (_, value) in self.entries.items():
            if key in fixed:
                if not _same(value, fixed[key]):
                    only = f" (only {fixed[key]} is)" if fixed[key] is not None else ""
                    self.fail(f"{key}={value} in [{self.name}] is not supported yet{only}", key)
            elif key not in known:
                names = ", ".join(sorted(known)) or "none"
                self.fail(f"unknown key '{key}' in [{self.name}]; known keys are {names}", key)

    def _items(self, key: str) -> list[str]:
        return self.text(key).split(",")

    def _integer(self, key: str, text: str, limits: Limits) -> int:
        if not _INTEGER.fullmatch(text) or not limits.test(int(text)):
            self.fail(f"{key}: expected an integer{limits.text}, found '{text}'", key)
        return int(text)

    def _number(self, key: str, text: str, limits: Limits) -> float:
        readable = _NUMBER.fullmatch(text) and math.isfinite(float(text))
        if not readable or not limits.test(float(text)):
            self.fail(f"{key}: expected a number{limits.text}, found '{text}'", key)
        return float(text)


def _same(text: str, value: str | None) -> bool:
    if value is None:
        return False
    if _NUMBER.fullmatch(text) and _NUMBER.fullmatch(value):
        return float(text) == float(value)
    return text == value


def split_sections(text: str, source: str) -> list[Section]:
    """The sections of a cfg text, in order.

    As in Darknet's reader, white space counts nowhere and a line is a comment
    only if it starts with ``#`` or ``;``.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = "".join(raw.split())
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            if line[-1] != "]" or len(line) < 3:
                raise InputError(
                    f"{source}:{number}: expected a section header such as "
                    f"[convolutional], found '{line}'"
                )
            sections.append(Section(source, number, line[1:-1]))
        elif not sections:
            raise InputError(
                f"{source}:{number}: expected the section header [net] first, found '{line}'"
            )
        else:
            _add_entry(sections[-1], number, line)
    return sections


def _add_entry(section: Section, number: int, line: str) -> None:
    key, _, value = line.partition("=")
    if not key or not value:
        raise InputError(
            f"{section.source}:{number}: expected key=value or [section], found '{line}'"
        )
    if key in section.entries:
        first = section.entries[key][0]
        raise InputError(
            f"{section.source}:{number}: expected each key once in [{section.name}], "
            f"found '{key}' again (first on line {first})"
        )
    section.entries[key] = (number, value)
