import itertools

import numpy as np
import pytest

from mpitile.errors import InputError
from mpitile.kernels import tuning
from mpitile.kernels.algorithms import ALGORITHMS, EXACT, OPERATIONS, possible
from mpitile.kernels.choice import Choices, Shape, choose, default

FLOAT32 = np.dtype(np.float32)
LARGE = Shape("forward", 3, 3, 64, 128, 1, 1, 152, 152)
SMALL = Shape("forward", 3, 3, 8, 6, 1, 1, 5, 7)


def shapes():
    for operation, size, stride, channels, cells in itertools.product(
        OPERATIONS, (1, 2, 3, 5, 19), (1, 2), (3, 32, 512), (1, 19, 304)
    ):
        yield Shape(operation, size, size, channels, 64, stride, 1, cells, cells)


def test_default_is_possible_and_exact_where_asked():
    for shape in shapes():
        kernel = (shape.kernel_height, shape.kernel_width)
        assert possible(default(shape), shape.operation, kernel, shape.stride, FLOAT32)
        assert default(shape, exact=True) in EXACT
        assert choose(shape, np.dtype(np.float64)) == "im2row"


def test_default_takes_winograd_where_it_saves_time():
    assert default(LARGE) == "winograd4"
    assert default(Shape("forward", 3, 3, 512, 512, 1, 1, 2, 2)) == "winograd4"
    assert default(Shape("backward_input", 3, 3, 512, 512, 1, 1, 2, 2)) == "direct"
    assert default(Shape("forward", 3, 3, 3, 32, 1, 1, 608, 608)) == "direct"
    assert default(Shape("backward_weights", 3, 3, 64, 128, 1, 1, 4, 5)) == "direct"
    assert default(Shape("backward_weights", 3, 3, 256, 512, 1, 1, 4, 5)) == "winograd4"
    assert default(Shape("backward_weights", 3, 3, 256, 512, 1, 1, 10, 10)) == "winograd4"
    assert default(Shape("backward_weights", 3, 3, 128, 256, 1, 1, 19, 19)) == "winograd4"


def test_table_decides_where_it_may():
    assert Choices(table={LARGE.key: "winograd2"}).of(LARGE, FLOAT32) == "winograd2"
    assert Choices(True, {LARGE.key: "winograd2"}).of(LARGE, FLOAT32) == "direct"
    assert Choices(True, {LARGE.key: "im2row"}).of(LARGE, FLOAT32) == "im2row"
    strided = Shape("backward_input", 3, 3, 64, 128, 2, 1, 152, 152)
    assert Choices(table={strided.key: "direct"}).of(strided, FLOAT32) == "im2row"


def test_measured_once_and_kept(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "kernels.toml"
    first = tuning.table([SMALL], path=path)
    assert first[SMALL.key] in ALGORITHMS

    def never(shape, exact=False):
        raise AssertionError(f"{shape} was measured again")

    monkeypatch.setattr(tuning, "measure", never)
    assert tuning.table([SMALL], path=path) == first
    fixed = tuning.read(path)
    fixed[tuning.machine()][SMALL.key] = "winograd2"
    tuning.write(path, fixed)
    assert tuning.table([SMALL], path=path) == {SMALL.key: "winograd2"}
    assert [file.name for file in path.parent.iterdir()] == ["kernels.toml"]


def test_exact_shapes_compete_among_themselves(tmp_path):
    assert set(tuning.measure(SMALL, exact=True)) == set(EXACT)
    for operation in OPERATIONS:
        shape = Shape(operation, 3, 3, 8, 6, 2, 2, 5, 7)
        assert tuning.measure(shape)
    assert tuning.table([SMALL], exact=True, path=tmp_path / "k.toml")[SMALL.key] in EXACT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[broken", "expected a TOML file of kernels"),
        ("a = 1", "expected a table for each machine, got a = 1"),
        ('[m]\n"forward" = "fft"', "forward: expected one of im2row, direct.*got 'fft'"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / "kernels.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path}: {message}"):
        tuning.table([SMALL], path=path)


def test_place_of_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MPITILE_KERNEL_CACHE", str(tmp_path / "named"))
    assert tuning.cache_path() == tmp_path / "named"
    monkeypatch.delenv("MPITILE_KERNEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tuning.cache_path() == tmp_path / "mpitile" / "kernels.toml"
