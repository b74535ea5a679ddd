"""The run file: every setting of a training run, checked when it is read."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tomllib
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mpitile.errors import InputError
from mpitile.plan.clusters.byte_sizes import parse_bytes


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """``[network]``; a height or width replaces the cfg's."""

    cfg: str
    weights: str | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class DataSettings:
    """``[data]``; `names` is a list, or a file with one class name a line."""

    format: Literal["voc", "yolo", "folders"]
    root: str
    train: str | None = None
    valid: str | None = None
    names: list[str] | str | None = None
    shuffle: bool = True
    augment: bool = True
    read: Literal["all", "root"] = "all"
    unreadable: Literal["error", "skip"] = "error"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """``[train]``; what is left out comes from the cfg.

    `overlap` adds up gradients while others are still being computed, on several devices.
    """

    steps: int | None = None
    epochs: int | None = None
    batch: int | None = None
    subdivisions: int | None = None
    optimizer: Literal["sgd", "adam"] | None = None
    learning_rate: float | None = None
    seed: int = 1
    dtype: Literal["float32", "float64"] = "float32"
    validate_every: int = 0
    kernels: Literal["fast", "measured", "exact"] = "fast"
    overlap: bool = True


@dataclass(frozen=True, slots=True)
class TilingSettings:
    """``[tiling]``; weights are relative sizes of the grid's rows and columns.

    `recompute` numbers the groups that compute their inner values twice, from 0.
    `filters` numbers the layers that are divided by their filters instead of into tiles.
    `cluster` is a file that describes devices and links to plan for.
    `ranks_per_device` divides hosts into devices of so many ranks, as if apart.
    """

    grid: str = "auto"
    replicas: int | Literal["auto"] = 1
    groups: list[int] | Literal["auto"] = "auto"
    recompute: list[int] | Literal["auto", "none", "all"] = "auto"
    filters: list[int] | Literal["auto", "none"] = "auto"
    cluster: str | None = None
    memory_limit: str | None = None
    row_weights: list[float] | None = None
    column_weights: list[float] | None = None
    wait: Literal["auto", "spin", "sleep"] = "auto"
    ranks_per_device: int | Literal["auto"] = "auto"

    @property
    def memory_bytes(self) -> int | None:
        """`memory_limit` as a number."""
        limit = self.memory_limit
        return None if limit is None else parse_bytes(limit, "tiling.memory_limit")


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """``[checkpoint]``; saves at the end, too, but ``every = 0`` on a signal only."""

    every: int = 0
    keep: int = 2
    partner: bool = False


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """``[output]``; `trace` writes what each rank did in the first steps, and when."""

    dir: str = "runs/run"
    trace: bool = False


@dataclass(frozen=True, slots=True)
class RunSettings:
    """A whole run file. `path` is where it was read from."""

    network: NetworkSettings
    data: DataSettings
    train: TrainSettings = field(default_factory=TrainSettings)
    tiling: TilingSettings = field(default_factory=TilingSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    path: Path = field(default_factory=Path, metadata={"section": False})

    def input_path(self, name: str) -> Path:
        """An input named in the file: beside the file if it is there, else as given."""
        beside = self.path.parent / name
        # Path.exists raises where a name is too long to be one.
        return beside if os.path.exists(beside) else Path(name)


# The smallest value that makes sense, by section and key.
_LEAST = {
    ("network", "height"): 1,
    ("network", "width"): 1,
    ("train", "steps"): 1,
    ("train", "epochs"): 1,
    ("train", "batch"): 1,
    ("train", "subdivisions"): 1,
    ("train", "learning_rate"): 0,
    ("train", "seed"): 0,
    ("train", "validate_every"): 0,
    ("tiling", "replicas"): 1,
    ("tiling", "ranks_per_device"): 1,
    ("checkpoint", "every"): 0,
    ("checkpoint", "keep"): 1,
}

# Where nothing would stand for the working directory, files of which would be moved.
_PATHS = (("network", "cfg"), ("output", "dir"))


def read_settings(path: str | Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read a run file and apply ``section.key=value`` overrides.

    Raises
    ------
    InputError : naming the file and the key, what was expected and what came.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    for override in overrides:
        _apply(table, override)
    return _settings(table, path)


def _apply(table: dict[str, Any], override: str) -> None:
    """Put ``section.key=value`` into the table; the value is TOML where it is, else a string."""
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise InputError(f"--set {override}: expected section.key=value, such as train.steps=10")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    values = table.setdefault(section, {})
    if not isinstance(values, dict):
        raise InputError(f"--set {override}: {section} is no section")
    values[key] = value


def _settings(table: dict[str, Any], path: Path) -> RunSettings:
    sections = {
        section.name: section
        for section in dataclasses.fields(RunSettings)
        if section.metadata.get("section", True)
    }
    _refuse_unknown(table, sections, f"{path}: unknown section", "sections")
    types_ = get_type_hints(RunSettings)
    values = {name: _section(name, types_[name], table.get(name, {}), path) for name in sections}
    return RunSettings(**values, path=path)


def _section(name: str, kind: type, table: Any, path: Path) -> Any:
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name}: expected a section [{name}], got {table!r}")
    keys = {key.name: key for key in dataclasses.fields(kind)}
    _refuse_unknown(table, keys, f"{path}: unknown key in [{name}]", "keys")
    hints = get_type_hints(kind)
    for key, description in keys.items():
        required = description.default is dataclasses.MISSING
        if key not in table:
            if required:
                raise InputError(f"{path}: {name}.{key} is missing")
            continue
        _check_value(name, key, table[key], hints[key], path)
    return kind(**table)


def _check_value(section: str, key: str, value: Any, kind: Any, path: Path) -> None:
    where = f"{path}: {section}.{key} = {value!r}"
    if key == "memory_limit":
        # A number without its unit is no string, but the unit is what is missing.
        parse_bytes(value, f"{path}: {section}.{key}")
    if not _fits(value, kind):
        raise InputError(f"{where}: expected {_describe(kind)}")
    if isinstance(value, int) and value >= 2**63:
        raise InputError(f"{where}: expected less than 2**63")
    if value == "" and (section, key) in _PATHS:
        raise InputError(f"{where}: expected a path")
    least = _LEAST.get((section, key))
    if least is not None and not isinstance(value, str) and value < least:
        raise InputError(f"{where}: expected at least {least}")


def _refuse_unknown(table: dict[str, Any], known: Any, what: str, plural: str) -> None:
    for name in table:
        if name not in known:
            raise InputError(f"{what}: {name!r}; known {plural} are {', '.join(known)}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a TOML value is of an annotated type; an integer serves as a float."""
    origin = get_origin(kind)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if origin is types.UnionType or get_args(kind):
        return any(_fits(value, choice) for choice in get_args(kind))
    if kind is float:
        # Neither nan nor inf, which TOML has, nor an integer beyond the floats.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is kind


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is list:
        return f"a list of {_describe(get_args(kind)[0])}"
    if get_args(kind):
        choices = [choice for choice in get_args(kind) if choice is not type(None)]
        return " or ".join(_describe(choice) for choice in choices)
    names = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}
    return names[kind]


def write_settings(settings: RunSettings) -> str:
    """The settings as the text of a run file; keys that are not set are left out."""
    lines = []
    for section in dataclasses.fields(settings):
        if not section.metadata.get("section", True):
            continue
        lines.append(f"[{section.name}]")
        values = dataclasses.asdict(getattr(settings, section.name))
        lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, str):
        # JSON's strings are TOML's, but for one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
