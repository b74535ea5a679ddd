"""The run file: types of all keys, overrides, and writing what has been read."""

import dataclasses
import os
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mpitile.errors import InputError
from mpitile.train.settings import (
    CheckpointSettings,
    DataSettings,
    NetworkSettings,
    OutputSettings,
    RunSettings,
    TilingSettings,
    TrainSettings,
    read_settings,
    write_settings,
)

# TOML values that are right and wrong, for every key.
KEYS = {
    "network.cfg": (['"a.cfg"'], ['""', "1", "true", "[]"]),
    "network.weights": (['"a.weights"'], ["1", '["a"]']),
    "network.height": (["416"], ["0", "-32", "416.0", '"416"', "true"]),
    "network.width": (["416"], ["0", "416.0", '"416"', "true"]),
    "data.format": (['"voc"', '"yolo"', '"folders"'], ['"coco"', '"VOC"', "1", "[]"]),
    "data.root": (['"data"'], ["1", '["data"]']),
    "data.train": (['"train.txt"'], ["1", "true"]),
    "data.valid": (['"valid.txt"'], ["1", "true"]),
    "data.names": (['["a", "b"]', '"names.txt"'], ["1", "[1]", '["a", 2]', "true"]),
    "data.shuffle": (["true", "false"], ["1", '"true"']),
    "data.augment": (["true", "false"], ["0", '"false"']),
    "data.read": (['"all"', '"root"'], ['"one"', "true"]),
    "data.unreadable": (['"error"', '"skip"'], ['"stop"', "false"]),
    "train.steps": (["1", "500"], ["0", "-1", "1.5", '"1"', "true"]),
    "train.epochs": (["1", "9"], ["0", "1.5", '"1"', "false"]),
    "train.batch": (["8"], ["0", "8.0", '"8"']),
    "train.subdivisions": (["2"], ["0", "2.0", '"2"']),
    "train.optimizer": (['"sgd"', '"adam"'], ['"Adam"', '"rmsprop"', "1"]),
    "train.learning_rate": (
        ["0.001", "1", "0", "1e-5"],
        ["-0.1", '"0.1"', "true", "nan", "inf", "[0.1]"],
    ),
    "train.seed": (["0", "7"], ["-1", "1.0", '"1"', "true"]),
    "train.dtype": (['"float32"', '"float64"'], ['"float16"', "32"]),
    "train.validate_every": (["0", "10"], ["-1", "1.5", "true"]),
    "train.overlap": (["true", "false"], ["1", '"true"']),
    "train.kernels": (['"fast"', '"measured"', '"exact"'], ['"slow"', "true"]),
    "tiling.grid": (['"2x2"', '"auto"'], ["4", "[2, 2]"]),
    "tiling.replicas": (["1", "4", '"auto"'], ["0", "1.0", '"1"']),
    "tiling.ranks_per_device": (["1", "4", '"auto"'], ["0", "1.0", '"2"', "true"]),
    "tiling.groups": (["[0, 4, 8]", '"auto"', "[]"], ["4", '"0,4"', "[0.5]", "[true]", '["a"]']),
    "tiling.memory_limit": (['"700MB"'], ["700", "1.5", '"much"', "true", '["1MB"]']),
    "tiling.row_weights": (["[1, 2.5]"], ["1", '["1"]', "[true]", "[nan]", "[inf]"]),
    "tiling.column_weights": (["[1.5]"], ["1.5", "[[1]]", "[nan]"]),
    "tiling.recompute": (
        ['"auto"', '"none"', '"all"', "[0, 2]", "[]"],
        ['"some"', "1", "[true]", '["0"]'],
    ),
    "tiling.filters": (
        ['"auto"', '"none"', "[18, 19]", "[]"],
        ['"all"', "18", "[true]", '["18"]', "[1.5]"],
    ),
    "tiling.cluster": (['"cluster.toml"'], ["1", '["cluster.toml"]']),
    "tiling.wait": (['"auto"', '"spin"', '"sleep"'], ['"yield"', "true"]),
    "checkpoint.every": (["0", "50"], ["-1", "0.5", "true"]),
    "checkpoint.keep": (["1", "2"], ["0", "-1", "2.0"]),
    "checkpoint.partner": (["true", "false"], ["1", '"yes"']),
    "output.dir": (['"runs/a"'], ['""', "1", "true"]),
    "output.trace": (["true", "false"], ["1", '"yes"']),
}
REQUIRED = {"network.cfg": '"n.cfg"', "data.format": '"yolo"', "data.root": '"d"'}

GOOD = [(key, value) for key, (values, _) in KEYS.items() for value in values]
BAD = [(key, value) for key, (_, values) in KEYS.items() for value in values]


def write(folder, changes=(), text=""):
    """A run file of the required keys, with others added or replaced; its path."""
    entries = REQUIRED | dict(changes)
    sections = {}
    for name, value in entries.items():
        section, key = name.split(".")
        sections.setdefault(section, []).append(f"{key} = {value}")
    lines = [f"[{name}]\n" + "\n".join(keys) for name, keys in sections.items()]
    path = folder / "run.toml"
    path.write_text("\n".join(lines) + "\n" + text)
    return path


def test_the_table_above_has_all_keys():
    known = {
        f"{section.name}.{key.name}"
        for section, kind in zip(
            dataclasses.fields(RunSettings),
            (
                NetworkSettings,
                DataSettings,
                TrainSettings,
                TilingSettings,
                CheckpointSettings,
                OutputSettings,
            ),
            strict=False,
        )
        for key in dataclasses.fields(kind)
    }
    assert known == KEYS.keys()


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_right_values_are_taken(tmp_path, name, value):
    section, key = name.split(".")
    taken = getattr(getattr(read_settings(write(tmp_path, {name: value})), section), key)
    # The values above are the same in TOML and Python, but for two words.
    assert taken == eval(value, {"true": True, "false": False})


@pytest.mark.parametrize(("name", "value"), BAD)
def test_wrong_values_are_named(tmp_path, name, value):
    path = write(tmp_path, {name: value})
    with pytest.raises(InputError) as caught:
        read_settings(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {name} = ") and "expected " in message
    assert "\n" not in message


def test_what_was_expected_is_said(tmp_path):
    for changes, expected in (
        ({"train.batch": '"8"'}, "train.batch = '8': expected an integer"),
        ({"train.batch": "0"}, "train.batch = 0: expected at least 1"),
        ({"data.read": '"some"'}, "data.read = 'some': expected 'all' or 'root'"),
        ({"tiling.groups": "3"}, "expected a list of an integer or 'auto'"),
        ({"train.learning_rate": "nan"}, "train.learning_rate = nan: expected a finite number"),
        ({"data.names": "3"}, "expected a list of a string or a string"),
        ({"checkpoint.partner": "1"}, "expected true or false"),
        (
            {"tiling.memory_limit": "20"},
            "tiling.memory_limit = 20: expected a positive number and a unit out of B, kB, MB, GB, "
            "KiB, MiB, GiB, such as '700MB'",
        ),
    ):
        with pytest.raises(InputError, match=re.escape(expected)):
            read_settings(write(tmp_path, changes))


def test_defaults_are_those_of_the_readme(tmp_path):
    read = read_settings(write(tmp_path))
    assert (read.train.seed, read.train.dtype, read.train.learning_rate) == (1, "float32", None)
    assert (read.data.shuffle, read.data.augment, read.data.read) == (True, True, "all")
    assert (read.tiling.grid, read.tiling.groups, read.tiling.replicas) == ("auto", "auto", 1)
    assert (read.checkpoint.every, read.checkpoint.keep) == (0, 2)


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_keys_are_named(tmp_path, name):
    section, key = name.split(".")
    path = write(tmp_path)
    path.write_text(re.sub(rf"(?m)^{key} = .*$", "", path.read_text()))
    with pytest.raises(InputError, match=rf"run\.toml: {section}\.{key} is missing"):
        read_settings(path)


def test_a_missing_section_is_named_by_its_first_key(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[data]\nformat = "voc"\nroot = "d"\n')
    with pytest.raises(InputError, match=r"network\.cfg is missing"):
        read_settings(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nsteps = 1", r"unknown section: 'trian'; known sections are network, data, "),
        ("[train]\nstep = 1", r"unknown key in \[train\]: 'step'; known keys are steps, epochs"),
        ("[output]\npath = 1", r"unknown key in \[output\]: 'path'"),
        ("[path]", r"unknown section: 'path'"),
        ("[[train]]\nsteps = 1", r"train: expected a section \[train\]"),
        ("[train", "not a TOML file: Expected ']'"),
        ("[train]\nsteps = 1\nsteps = 2", "not a TOML file"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = write(tmp_path, text=text)
    with pytest.raises(InputError, match=re.escape(str(path)) + ".*" + message):
        read_settings(path)


def test_a_key_outside_sections_is_an_error(tmp_path):
    path = write(tmp_path)
    path.write_text("steps = 3\n" + path.read_text())
    with pytest.raises(InputError, match="unknown section: 'steps'"):
        read_settings(path)
    path.write_text("train = 3\n" + write(tmp_path).read_text())
    with pytest.raises(InputError, match=r"train: expected a section \[train\], got 3"):
        read_settings(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: cannot be read: No such file"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a TOML file"):
        read_settings(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.steps=10", "train", "steps", 10),
        (" train.steps = 10", "train", "steps", 10),
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        ("tiling.groups=[0, 4]", "tiling", "groups", [0, 4]),
        ("tiling.groups=auto", "tiling", "groups", "auto"),
        ("tiling.grid=2x2", "tiling", "grid", "2x2"),
        ('tiling.grid="2x2"', "tiling", "grid", "2x2"),
        ("data.shuffle=false", "data", "shuffle", False),
        ("data.names=['a=b', \"c\"]", "data", "names", ["a=b", "c"]),
        ("output.dir=runs/a=b", "output", "dir", "runs/a=b"),
        ("data.valid=", "data", "valid", ""),
        ("output.dir=C:\\runs", "output", "dir", "C:\\runs"),
    ],
)
def test_overrides_are_toml_or_strings(tmp_path, override, section, key, value):
    read = read_settings(write(tmp_path), [override])
    taken = getattr(getattr(read, section), key)
    assert taken == value and type(taken) is type(value)


def test_the_last_override_counts_and_replaces_the_file(tmp_path):
    path = write(tmp_path, {"train.steps": "5"})
    read = read_settings(path, ["train.steps=6", "train.batch=2", "train.steps=7"])
    assert (read.train.steps, read.train.batch) == (7, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", r"--set train\.steps: expected section\.key=value"),
        ("steps=3", "expected section.key=value"),
        (".steps=3", "expected section.key=value"),
        ("train.=3", "expected section.key=value"),
        ("train.steps=many", r"train\.steps = 'many': expected an integer"),
        ("train.stepps=3", r"unknown key in \[train\]: 'stepps'"),
        ("trian.steps=3", "unknown section: 'trian'"),
    ],
)
def test_bad_overrides_are_named(tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        read_settings(write(tmp_path), [override])


NUMBERS = st.floats(0, 1e300, allow_nan=False)
WORDS = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=150)
@given(
    names=st.one_of(WORDS, st.lists(WORDS, max_size=3)),
    root=st.one_of(WORDS, st.sampled_from(['"', "\\", 'a\\"b', "\\n", "\n", "\t", "\x7f", "é"])),
    rate=NUMBERS,
    weights=st.one_of(st.none(), st.lists(NUMBERS, max_size=3)),
    groups=st.one_of(st.just("auto"), st.lists(st.integers(0, 9), max_size=4)),
    flag=st.booleans(),
    steps=st.one_of(st.none(), st.integers(1, 10**12)),
)
def test_what_is_written_reads_the_same(
    tmp_path_factory, names, root, rate, weights, groups, flag, steps
):
    path = tmp_path_factory.getbasetemp() / "written.toml"
    original = RunSettings(
        NetworkSettings("a.cfg", width=64),
        DataSettings("voc", root, names=names, shuffle=flag),
        TrainSettings(steps=steps, learning_rate=rate),
        TilingSettings(groups=groups, row_weights=weights),
        path=path,
    )
    path.write_text(write_settings(original), "utf-8", newline="\n")
    assert read_settings(path) == original


def test_inputs_lie_beside_the_file_or_where_they_are_named(tmp_path, monkeypatch):
    beside = tmp_path / "jobs"
    beside.mkdir()
    read = read_settings(write(beside))
    (beside / "net.cfg").touch()
    elsewhere = tmp_path / "other.cfg"
    elsewhere.touch()
    monkeypatch.chdir(tmp_path)
    assert read.input_path("net.cfg") == beside / "net.cfg"
    assert os.path.samefile(read.input_path("other.cfg"), elsewhere)
    assert read.input_path(str(elsewhere)) == elsewhere
    # Beside the file wins where both are there.
    (tmp_path / "net.cfg").touch()
    assert read.input_path("net.cfg") == beside / "net.cfg"
    assert str(read.input_path("missing.cfg")) == "missing.cfg"
