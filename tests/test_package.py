"""What is installed is what pyproject.toml and the sources say, and jobs/ fits it."""

import importlib
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from mpitile.network.cfg import read_network
from mpitile.network.spec import Region
from mpitile.train.settings import read_settings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCES = sorted(path.stem for path in (ROOT / "kernels").glob("*.pyx"))
RUN_FILES = sorted(path.name for path in (ROOT / "jobs").glob("*.toml"))


def test_metadata_is_that_of_the_project():
    installed = metadata.metadata("mpitile")
    assert installed["Version"] == PROJECT["version"]
    assert installed["Requires-Python"] == ">=3.11"
    extras = {"mpi", "rich", "plot", "onnx", "yaml", "test", "oracle"}
    assert set(installed.get_all("Provides-Extra")) == extras
    (command,) = metadata.entry_points(group="console_scripts", name="mpitile")
    assert command.value == "mpitile.cli.main:main"


@pytest.mark.parametrize("name", SOURCES)
def test_every_kernel_source_is_compiled(name):
    module = importlib.import_module(f"mpitile.kernels._{name}")
    assert module.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))


# An interpreter in which no MPI library can be loaded, by mpi4py's own words.
WITHOUT_MPI = """\
import sys, types
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mpi4py.MPI":
            raise RuntimeError({message!r})
sys.meta_path.insert(0, Finder())
from mpitile.cli.main import main
main(["train", "run.toml"])
"""


def run_without_mpi(message):
    script = WITHOUT_MPI.format(message=message)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_missing_mpi_library_is_one_line():
    result = run_without_mpi("cannot load MPI library\nlibmpi.so: cannot open shared object file")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "mpitile: no MPI library found: pip install 'mpitile[mpi]' or install Open MPI/MPICH "
        "(libmpi.so: cannot open shared object file)"
    ]


def test_another_fault_in_mpi4py_is_not_hidden():
    result = run_without_mpi("something else")
    assert result.returncode == 1
    assert "RuntimeError: something else" in result.stderr


@pytest.mark.parametrize("name", RUN_FILES)
def test_run_files_fit_their_networks(name):
    settings = read_settings(ROOT / "jobs" / name)
    network = read_network(settings.input_path(settings.network.cfg))
    batch = settings.train.batch or network.options.batch
    assert batch % (settings.train.subdivisions or 1) == 0
    last = network.layers[-1].operation
    if isinstance(last, Region):
        assert len(settings.data.names) == last.classes


def test_every_network_has_a_run_file():
    networks = {path.name for path in (ROOT / "jobs" / "cfg").glob("*.cfg")}
    used = {Path(read_settings(ROOT / "jobs" / name).network.cfg).name for name in RUN_FILES}
    assert networks == used
