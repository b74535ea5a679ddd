"""Small data sets, networks and run files for whole runs."""

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from launch import Result, run

from mpitile.cli.main import main

DRAW = Path(__file__).parents[1] / "jobs" / "draw_shapes.py"
NAMES = ["disc", "square", "triangle"]

# An interpreter that cannot import mpi4py.
_WITHOUT_MPI = """
import sys
sys.modules["mpi4py"] = None
from mpitile.cli.main import main
main(sys.argv[1:])
"""

# Calls one after the other, each with its own folder; what each rank has said goes to a file.
_IN_A_ROW = """
import json, sys
import runs
from mpi4py import MPI
target, calls = sys.argv[1:]
for folder, arguments in json.loads(calls):
    print("now", *arguments, flush=True)
    result = runs.called(*arguments, cwd=folder)
    found = MPI.COMM_WORLD.gather((result.code, result.out, result.err))
    if found:
        with open(target, "a") as file:
            file.write(json.dumps(found) + "\\n")
"""

NET = """\
[net]
height=64
width=64
channels=3
batch=4
momentum=0.9
decay=0.0005
learning_rate=0.001
burn_in=3
hue=0.05
saturation=1.3
exposure=1.3
"""

CONVOLUTION = """
[convolutional]
batch_normalize=1
filters={filters}
size=3
stride=1
pad=1
activation=leaky
"""

POOL = """
[maxpool]
size=2
stride=2
"""

BODY = POOL.join(CONVOLUTION.format(filters=filters) for filters in (8, 12, 16)) + POOL

LAST = """
[convolutional]
filters={filters}
size=1
activation=linear
"""

DETECTOR = (
    NET
    + BODY
    + LAST.format(filters=16)
    + """
[region]
anchors=1.5,1.5, 3,3
num=2
classes=3
coords=4
softmax=1
bias_match=1
rescore=1
thresh=0.6
object_scale=5
noobject_scale=1
class_scale=1
coord_scale=1
jitter=0.1
"""
)

CLASSIFIER = (
    NET
    + BODY
    + """
[dropout]
probability=0.25
"""
    + LAST.format(filters=3)
    + """
[avgpool]

[softmax]
"""
)


def draw_data(folder, form="yolo", images=16, size=72):
    """A data set of coloured shapes in `folder`."""
    command = [sys.executable, DRAW, folder, "--images", images, "--size", size, "--format", form]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, timeout=60)
    return folder


def settings_of(data, output, /, **sections):
    """Settings of a short run that detects; each section's keys replace or add to them."""
    settings = {
        "network": {"cfg": "net.cfg"},
        "data": {
            "format": "yolo",
            "root": str(data),
            "train": "train.txt",
            "valid": "valid.txt",
            "names": NAMES,
        },
        "train": {"steps": 6, "seed": 3},
        "output": {"dir": str(output)},
    }
    for section, values in sections.items():
        settings.setdefault(section, {}).update(values)
    return settings


def write_run(folder, settings, cfg=DETECTOR):
    """``run.toml`` and ``net.cfg`` in `folder`; the run file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.cfg").write_text(cfg)
    lines = []
    for section, values in settings.items():
        lines.append(f"[{section}]")
        # JSON's numbers, strings, lists and booleans are TOML's.
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path = folder / "run.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def read_metrics(output):
    """The rows of ``metrics.csv`` as dictionaries of numbers."""
    with open(Path(output) / "metrics.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def losses(output):
    return [row["loss"] for row in read_metrics(output)]


def mpitile(*arguments, ranks=None, **options):
    """Run a verb and return its `Result`; ranks and options as `launch.run` has them."""
    return run([sys.executable, "-m", "mpitile", *arguments], ranks, **options)


def without_mpi(*arguments, **options):
    """Run a verb where mpi4py cannot be imported; else as `mpitile` does."""
    return run([sys.executable, "-c", _WITHOUT_MPI, *arguments], **options)


def called(*arguments, cwd="."):
    """Run a verb inside this process and return its `Result`.

    In that of the tests, for verbs that start no MPI.
    """
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err, chdir(cwd):
        try:
            main(list(map(str, arguments)))
        except SystemExit as end:
            return Result(end.code, out.getvalue(), err.getvalue())


def in_a_row(calls, ranks=None, timeout=120):
    """Run verbs one after the other on the same ranks; a `Result` of each.

    Each call is a folder to be in, and arguments. A start takes seconds, so that this is for
    many short ones; all ranks have to end each of them with the same code.
    """
    texts = json.dumps([(str(folder), list(map(str, words))) for folder, words in calls])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "results.jsonl"
        command = [sys.executable, "-c", _IN_A_ROW, target, texts]
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
        env = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        whole = run(command, ranks, timeout, env=env)
        assert whole.code == 0, whole
        rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(rows) == len(calls), whole
    return [_joined(row) for row in rows]


def _joined(ranks):
    codes, outs, errs = zip(*ranks, strict=True)
    assert len(set(codes)) == 1, ranks
    return Result(codes[0], "".join(outs), "".join(errs))


def train(folder, settings, cfg=DETECTOR, ranks=None, arguments=(), **options):
    """Write a run file, train as it says, and return the output folder; it must end well."""
    result = mpitile("train", write_run(folder, settings, cfg), *arguments, ranks=ranks, **options)
    assert result.code == 0, result
    return Path(settings["output"]["dir"])
