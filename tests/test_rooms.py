"""Reads the sources and holds them to the house rules: which room may look into which.

A room imports only from rooms earlier in `ROOMS`; some libraries belong to some rooms.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = (
    "errors",
    "geometry",
    "network",
    "plan",
    "kernels",
    "comm",
    "layers",
    "runtime",
    "data",
    "checkpoint",
    "train",
    "report",
    "cli",
)
# Parts of the room `plan`, in the same order; "" is its own folder.
PARTS = ("clusters", "", "sums", "memory", "costs", "search", "simulation")
LONGEST = 400

# Where a library may be imported: rooms, or single files; one not named here, anywhere.
ALLOWED = {
    "h5py": ("checkpoint", "data"),
    "matplotlib": ("report",),
    "mpi4py": ("comm", "cli/world.py"),
    "numpy": ROOMS[ROOMS.index("plan") + 1 :],
}
WORLD = "COMM_WORLD"


def violations(root):
    """What breaks the rules below `root`, a line each."""
    found = []
    for path in sorted((root / "mpitile").rglob("*.py")):
        name = path.relative_to(root / "mpitile").as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        found += [f"{name}:{text}" for text in _in_module(name, tree)]
    sources = [*(root / "mpitile").rglob("*.py"), *(root / "kernels").glob("*.p*")]
    for path in sorted(sources):
        lines = len(path.read_text("utf-8").splitlines())
        if lines > LONGEST:
            found.append(f"{path.relative_to(root).as_posix()}: {lines} lines")
    return found


def _in_module(name, tree):
    room = name.partition("/")[0].removesuffix(".py")
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"{node.lineno}: assert"
        if room != "cli" and _names_world(node):
            yield f"{node.lineno}: {WORLD}"
        for module in _imported(node, name):
            complaint = _complaint(name, room, module)
            if complaint:
                yield f"{node.lineno}: {complaint}"


def _names_world(node):
    names = {
        ast.Name: lambda: [node.id],
        ast.Attribute: lambda: [node.attr],
        ast.ImportFrom: lambda: [alias.name for alias in node.names],
    }.get(type(node), list)()
    return WORLD in names


def _imported(node, name):
    """Full names of all modules that a statement may import, in a file of this name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ["mpitile", *name.split("/")[:-1]]
            above = package[: len(package) + 1 - node.level]
            base = ".".join([*above, *filter(None, [node.module])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def _complaint(name, room, module):
    library, _, inside = module.partition(".")
    if library == "mpitile":
        other = inside.partition(".")[0]
        if other == room == "plan":
            return _in_plan(_part(name.removeprefix("plan/"), "/"), _part(inside[5:], "."), module)
        if other == room or (other not in ROOMS and room not in ROOMS):
            return None
        if name == "__main__.py":
            return None if other == "cli" else f"{module}: __main__ imports cli alone"
        if other not in ROOMS or room not in ROOMS:
            return f"{module}: '{other if room in ROOMS else room}' is no room"
        if ROOMS.index(other) > ROOMS.index(room):
            return f"{module}: '{room}' stands before '{other}'"
    elif library in ALLOWED and not {room, name} & set(ALLOWED[library]):
        return f"{module}: {library} belongs to {', '.join(ALLOWED[library])}"
    return None


def _part(name, separator):
    first = name.partition(separator)[0]
    return first if first in PARTS else ""


def _in_plan(part, other, module):
    if PARTS.index(other) > PARTS.index(part):
        return f"{module}: plan's '{part}' stands before '{other}'"
    return None


def test_every_part_of_the_plan_is_there_and_there_is_no_other():
    found = {path.parent.name for path in (ROOT / "mpitile" / "plan").glob("*/__init__.py")}
    assert found == set(PARTS) - {""}


def test_every_room_is_there_and_there_is_no_other():
    found = {
        path.name.removesuffix(".py")
        for path in (ROOT / "mpitile").iterdir()
        if path.name == "errors.py" or (path / "__init__.py").exists()
    }
    assert found == set(ROOMS)


def test_the_sources_keep_the_rules():
    assert violations(ROOT) == []


@pytest.fixture
def house(tmp_path):
    """A small house without fault; plants a text in a file of it and gives the complaints."""

    def plant(name, text):
        path = tmp_path / "mpitile" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return violations(tmp_path)

    plant("__main__.py", "from mpitile.cli.main import main\n")
    plant("comm/mpi.py", "from mpi4py import MPI\nfrom mpitile.geometry.box import Box\n")
    plant("cli/world.py", "from mpitile.comm.mpi import MPI\nworld = MPI.COMM_WORLD\n")
    plant("checkpoint/shards.py", "import h5py\nfrom . import files\n")
    assert plant("train/loop.py", '"""Never COMM_WORLD."""\nimport numpy as np\n') == []
    return plant


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("geometry/box.py", "from mpitile.network.spec import Network"),
        ("plan/plan.py", "import mpitile.runtime.program as program"),
        ("plan/plan.py", "from mpitile.plan.search import planner"),
        ("plan/costs/cost.py", "from mpitile.plan.simulation.simulate import simulate"),
        ("layers/base.py", "from mpitile import runtime"),
        ("comm/reduce.py", "def late():\n    from mpitile.train.loop import train"),
        ("comm/reduce.py", "if TYPE_CHECKING:\n    from mpitile.layers.base import Step"),
        ("comm/reduce.py", "from ..layers import base"),
        ("comm/reduce.py", "from .. import layers"),
        ("errors.py", "from mpitile.geometry import box"),
        ("errors.py", "from .geometry.box import Box"),
        ("report/draw.py", "from mpitile.helpers import anything"),
        ("helpers.py", "from mpitile.report.draw import anything"),
        ("__main__.py", "from mpitile.train.loop import train"),
        ("train/setup.py", "from mpi4py import MPI"),
        ("cli/train.py", "import mpi4py.MPI"),
        ("train/setup.py", "import h5py"),
        ("cli/plan.py", "def f():\n    from matplotlib import figure"),
        ("geometry/box.py", "import numpy as np"),
        ("train/setup.py", "def f(MPI):\n    return MPI.COMM_WORLD"),
        ("comm/mpi.py", "from mpi4py.MPI import COMM_WORLD"),
        ("train/setup.py", "def f(x):\n    assert x"),
        ("train/setup.py", "x = 1\n" * (LONGEST + 1)),
    ],
)
def test_a_planted_fault_is_found(house, name, text):
    complaints = house(name, text)
    assert complaints
    assert all(name in complaint for complaint in complaints)
