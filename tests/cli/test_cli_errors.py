"""Bad input: exit code 2 on all ranks, and one line that says what is wrong, and where."""

import shutil
import sys

import pytest
import runs
from launch import run

from mpitile.cli.main import VERBS
from mpitile.errors import EXIT_INPUT

CASES = {}


def case(*texts):
    """Registers a function that spoils a run and returns further arguments.

    It is given the run's folder, its settings and the path of the run file, which is
    written after it; it may return arguments to add. `texts` must stand in the one
    line that is printed, ``{run}`` being the run file and ``{folder}`` the run's folder.
    """

    def register(spoil):
        CASES[spoil.__name__] = spoil, texts
        return spoil

    return register


@case("{folder}/none.toml: cannot be read: No such file")
def missing_run_file(folder, settings):
    return ["none.toml"]


@case("{folder}/broken.toml: not a TOML file", "line 2")
def malformed_toml(folder, settings):
    (folder / "broken.toml").write_text("[network]\ncfg = net.cfg\n")
    return ["broken.toml"]


@case("{run}: unknown section: 'trian'", "train")
def unknown_section(folder, settings):
    settings["trian"] = {"steps": 1}


@case("{run}: unknown key in [train]: 'step'", "steps")
def unknown_key(folder, settings):
    settings["train"]["step"] = 1


@case("{run}: train.batch = '4': expected an integer")
def wrong_type(folder, settings):
    settings["train"]["batch"] = "4"


@case("{run}: data.format = 'coco'", "'voc' or 'yolo' or 'folders'")
def unknown_format(folder, settings):
    settings["data"]["format"] = "coco"


@case("--set steps=3: expected section.key=value")
def set_without_section(folder, settings):
    return ["--set", "steps=3"]


@case("{run}: train.steps = 0: expected at least 1")
def set_out_of_range(folder, settings):
    return ["--set", "train.steps=0"]


@case("other.cfg: expected a readable cfg file", "No such file")
def missing_cfg(folder, settings):
    settings["network"]["cfg"] = "other.cfg"


@case("{folder}/bad.cfg:5: ", "fliters")
def cfg_error(folder, settings):
    (folder / "bad.cfg").write_text(
        "[net]\nheight=64\nwidth=64\n[convolutional]\nfliters=3\n[cost]\n"
    )
    settings["network"]["cfg"] = "bad.cfg"


@case("{folder}/data: expected the data set's folder (data.root), found none")
def missing_root(folder, settings):
    shutil.rmtree(folder / "data")


@case("{folder}/data/no.txt: expected a list file or a folder, found none")
def missing_list(folder, settings):
    settings["data"]["train"] = "no.txt"


@case("{folder}/data/train.txt:2: no image 'images/none.png'")
def missing_image(folder, settings):
    (folder / "data" / "train.txt").write_text("images/shapes_00000.png\nimages/none.png\n")


@case("{folder}/data/labels/shapes_00000.txt:1: class index 7, expected 0 to 2")
def unknown_class(folder, settings):
    (folder / "data" / "labels" / "shapes_00000.txt").write_text("7 0.5 0.5 0.1 0.1\n")


@case("net.cfg:", "[region] has classes=3, but the data set has 4 classes")
def other_number_of_classes(folder, settings):
    settings["data"]["names"] = [*runs.NAMES, "star"]


@case("net.cfg:", "[region] needs boxes, but data.format is 'folders'")
def labels_for_a_detector(folder, settings):
    shutil.rmtree(folder / "data")
    runs.draw_data(folder / "data", "folders", images=4)
    settings["data"]["format"] = "folders"


@case("grid 3x1", "needs 3 ranks, but there are 2")
def grid_for_other_ranks(folder, settings):
    settings["tiling"] = {"grid": "3x1"}


@case("tiling.replicas = 4: expected a positive divisor of the 2 ranks")
def replicas_for_other_ranks(folder, settings):
    settings["tiling"] = {"replicas": 4}


@case("{run}: train.batch = 5 cannot be divided evenly", "expected a multiple of 2")
def batch_that_cannot_be_divided(folder, settings):
    settings["train"]["batch"] = 5
    settings["tiling"] = {"replicas": 2}


@case("groups [0, 5, 3] do not cover the network")
def groups_in_disorder(folder, settings):
    settings["tiling"] = {"groups": [0, 5, 3]}


@case("3 tile weights for grid 2x1: expected 2")
def weights_for_another_grid(folder, settings):
    settings["tiling"] = {"grid": "2x1", "row_weights": [1, 2, 3]}


@case("shapes_00001.png: expected a readable image", 'data.unreadable = "skip"')
def corrupt_image(folder, settings):
    spoil_image(folder / "data")


@case("no image of the data set can be read")
def nothing_but_corrupt_images(folder, settings):
    for path in (folder / "data" / "images").iterdir():
        path.write_bytes(b"")
    settings["data"]["unreadable"] = "skip"


@case("{folder}/init.weights: expected ", "but the file has 33 bytes")
def corrupt_weights(folder, settings):
    (folder / "init.weights").write_bytes(bytes(33))
    settings["network"]["weights"] = "init.weights"


@case("{run}: tiling.memory_limit = '10kB', but the ranks on ", "MB")
def memory_limit_too_small(folder, settings):
    settings["tiling"] = {"memory_limit": "10kB"}


@case("{run}: tiling.memory_limit = 'much': expected a positive number and a unit out of B")
def memory_limit_without_number(folder, settings):
    settings["tiling"] = {"memory_limit": "much"}


@case("output.dir {folder}/file/out: cannot be written: ")
def output_below_a_file(folder, settings):
    (folder / "file").write_text("")
    settings["output"]["dir"] = str(folder / "file" / "out")


@case("output.dir ", "File name too long")
def output_of_no_possible_name(folder, settings):
    settings["output"]["dir"] = str(folder / ("x" * 300))


@case("expected the data set's folder (data.root), found none")
def root_of_no_possible_name(folder, settings):
    settings["data"]["root"] = "x" * 300


@case("File name too long")
def cfg_of_no_possible_name(folder, settings):
    settings["network"]["cfg"] = "x" * 300


@pytest.fixture
def job(tmp_path, shapes):
    """A folder with data of its own, and settings that would train on them."""
    shutil.copytree(shapes, tmp_path / "data")
    return tmp_path, runs.settings_of(tmp_path / "data", tmp_path / "out")


def refused(result):
    """The one line that a refused run has printed."""
    assert result.code == EXIT_INPUT, result
    assert "Traceback" not in result.err, result
    (line,) = result.complaints
    return line


@pytest.fixture(scope="module")
def refusals(tmp_path_factory, shapes):
    """The folder of each case, and how its run has ended, on the same two ranks."""
    folders, calls = {}, []
    for name, (spoil, _) in CASES.items():
        folder = folders[name] = tmp_path_factory.mktemp(name[:30])
        shutil.copytree(shapes, folder / "data")
        settings = runs.settings_of(folder / "data", folder / "out")
        arguments = spoil(folder, settings) or []
        path = runs.write_run(folder, settings)
        if arguments and not arguments[0].startswith("-"):
            path = folder / arguments.pop(0)
        calls.append((folder, ["train", path, *arguments]))
    results = runs.in_a_row(calls, ranks=2)
    return dict(zip(CASES, zip(folders.values(), results, strict=True), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_refused_by_all_ranks_in_one_line(refusals, name):
    folder, result = refusals[name]
    line = refused(result)
    for text in CASES[name][1]:
        assert text.format(run=folder / "run.toml", folder=folder) in line


def test_a_start_of_its_own_is_refused_likewise(job):
    folder, settings = job
    settings["data"]["train"] = "no.txt"
    line = refused(runs.mpitile("train", runs.write_run(folder, settings), ranks=2, timeout=60))
    assert line.endswith("/data/no.txt: expected a list file or a folder, found none")


def spoil_image(data):
    """Cut the second image short, so that its header still reads."""
    path = data / "images" / "shapes_00001.png"
    path.write_bytes(path.read_bytes()[:2000])


def test_one_rank_is_refused_likewise(job):
    folder, settings = job
    settings["train"]["step"] = 1
    assert "unknown key" in refused(runs.mpitile("train", runs.write_run(folder, settings)))


def test_useless_images_and_boxes_are_named_once(tmp_path, shapes):
    calls = []
    for name in ("all", "root", "boxes"):
        data = shutil.copytree(shapes, tmp_path / name / "data")
        settings = runs.settings_of(data, tmp_path / name / "out", train={"steps": 9})
        if name == "boxes":
            label = data / "labels" / "shapes_00000.txt"
            label.write_text(label.read_text() + "0 0.5 0.5 0 0.1\n1 1.5 0.5 0.1 0.1\n")
        else:
            spoil_image(data)
            settings["data"] |= {"unreadable": "skip", "read": name, "augment": False}
        path = runs.write_run(tmp_path / name, settings)
        calls.append((tmp_path, ["train", path]))
    results = runs.in_a_row(calls, ranks=2)
    for name, result in zip(("all", "root", "boxes"), results, strict=True):
        assert result.code == 0, result
        assert len(runs.losses(tmp_path / name / "out")) == 9
    for result in results[:2]:
        assert result.err.count("shapes_00001.png: expected a readable image") == 1
        assert result.err.count("; skipped") == 1
    assert results[2].err.count(" is empty, skipped") == 1
    assert results[2].err.count(" lies outside the image, skipped") == 1


def saved_run(folder, settings):
    """A run of two ranks with a checkpoint; its run file and the checkpoint."""
    settings["checkpoint"] = {"every": 6}
    output = runs.train(folder, settings, ranks=2)
    return folder / "run.toml", output / "checkpoints" / "step-000006"


def test_checkpoints_that_do_not_fit_are_refused(job):
    folder, settings = job
    path, checkpoint = saved_run(folder, settings)
    before = sorted((folder / "out").rglob("*"))
    weights = (folder / "out" / "final.weights").read_bytes()

    def resume(*changes):
        """The complaints, one after the other, with each of the changed settings."""
        calls = [(folder, ["train", path, "--resume", *change]) for change in changes]
        results = runs.in_a_row(calls, ranks=2)
        assert sorted((folder / "out").rglob("*")) == before
        assert (folder / "out" / "final.weights").read_bytes() == weights
        return [refused(result) for result in results]

    others = "train.learning_rate=0.5", "train.seed=9"
    for line in resume(*(("--set", other) for other in others)):
        assert f"{checkpoint}: written by a run with other settings" in line
    shard = checkpoint / "shard-00001.h5"
    content = bytearray(shard.read_bytes())
    content[-9] ^= 4
    shard.write_bytes(content)
    (line,) = resume(())
    assert f"rank 1: {shard}: damaged: expected SHA-256" in line
    (checkpoint / "manifest.json").write_text("{")
    (line,) = resume(())
    assert f"{checkpoint / 'manifest.json'}: no readable manifest" in line


@pytest.mark.parametrize(
    "arguments",
    [(), ("trian",), ("train",), ("train", "a", "b"), ("check", "net.cfg"), ("train", "--fast")],
    ids=" ".join,
)
def test_usage(arguments):
    result = runs.called(*arguments)
    assert result.code == EXIT_INPUT
    assert result.err.startswith("usage: mpitile")
    assert len([line for line in result.err.splitlines() if "error: " in line]) == 1


def test_usage_is_told_once():
    result = runs.mpitile("train", ranks=3)
    assert result.code == EXIT_INPUT
    assert result.err.count("usage: mpitile") == 1
    assert result.err.count("error: ") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(verb):
    result = runs.called(verb, "--help")
    assert result.code == 0
    assert "example: " in result.out and f"mpitile {verb} " in result.out
    assert result.err == ""


# Runs mpitile with a trainer whose second step fails on rank 1, and on no other.
FAILING = """
import sys
from mpi4py import MPI
import mpitile.cli.main as cli, mpitile.cli.world as world, mpitile.errors as errors
from mpitile.train.trainer import Trainer
world._PATIENCE_SECONDS = 2.0
step = Trainer.step
def failing(self, *arguments):
    if self.done == 1 and MPI.COMM_WORLD.rank == int(sys.argv[1]):
        raise {error}
    return step(self, *arguments)
Trainer.step = failing
cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_an_unexpected_failure_of_one_rank_ends_all(job, rank):
    folder, settings = job
    script = FAILING.format(error="RuntimeError('the roof is on fire')")
    path = runs.write_run(folder, settings)
    result = run([sys.executable, "-c", script, rank, "train", path], ranks=2, timeout=60)
    assert result.code not in (0, 2, 3), result
    assert result.complaints == [f"mpitile: rank {rank}: RuntimeError: the roof is on fire"]
    assert result.err.count("Traceback") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_bad_input_that_one_rank_meets_alone_ends_all(job, rank):
    folder, settings = job
    script = FAILING.format(error="errors.InputError('a.txt:1: no')")
    path = runs.write_run(folder, settings)
    result = run([sys.executable, "-c", script, rank, "train", path], ranks=2, timeout=60)
    assert result.code == EXIT_INPUT, result
    assert result.complaints == [f"mpitile: a.txt:1: no (on rank {rank} alone)"]
