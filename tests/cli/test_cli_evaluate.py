"""``mpitile eval`` and ``mpitile detect`` of a small network that has learnt a little."""

import json
import re

import numpy as np
import pytest
import runs
from PIL import Image

STEPS = 400


@pytest.fixture(scope="module")
def learnt(tmp_path_factory, shapes):
    """Run file, weights and events of a detector that has seen its few images often."""
    folder = tmp_path_factory.mktemp("learnt")
    settings = runs.settings_of(
        shapes,
        folder / "out",
        data={"valid": "train.txt", "augment": False},
        train={"steps": STEPS, "optimizer": "adam", "learning_rate": 0.005, "dtype": "float64"},
    )
    output = runs.train(folder, settings)
    lines = (output / "events.jsonl").read_text().splitlines()
    return folder / "run.toml", output / "final.weights", [json.loads(line) for line in lines]


def rows_of(table):
    """Truths, AP at 0.5 and AP at 0.5:0.95 by class."""
    header, *rows = table.splitlines()
    assert header.split() == ["class", "truths", "mAP@0.5", "mAP@0.5:0.95"]
    return {
        name: (int(truths), float(half), float(mean))
        for name, truths, half, mean in (row.split() for row in rows)
    }


@pytest.fixture(scope="module")
def tables(learnt):
    """What eval says of all images, and of few that rank 0 reads; on one rank and on four."""
    run_file, weights, _ = learnt
    command = ["eval", run_file, "--weights", weights]
    few = [*command, "--set", "data.valid=valid.txt"]
    found = []
    for ranks, read in ((None, "all"), (4, "root")):
        calls = [command, [*few, "--set", f"data.read={read}"]]
        results = runs.in_a_row([(run_file.parent, call) for call in calls], ranks)
        assert all(result.code == 0 for result in results), results
        found.append([result.out for result in results])
    return found


def test_table_of_average_precisions(learnt, tables, shapes):
    _, _, events = learnt
    (table, few), others = tables
    assert [table, few] == others
    assert table != few
    rows = rows_of(table)
    assert list(rows) == [*runs.NAMES, "all"]
    stems = [line.split("/")[1][:-4] for line in (shapes / "train.txt").read_text().split()]
    labels = [(shapes / "labels" / f"{stem}.txt").read_text().splitlines() for stem in stems]
    classes = [int(line.split()[0]) for image in labels for line in image]
    assert [rows[name][0] for name in rows] == [*np.bincount(classes), len(classes)]
    for column in (1, 2):
        mean = np.mean([rows[name][column] for name in runs.NAMES])
        assert rows["all"][column] == pytest.approx(mean, abs=1e-4)
    # What it has seen 130 times it knows, and training's last validation says the same.
    assert rows["all"][1] > 0.6
    (validation,) = (event for event in events if event["event"] == "validation")
    assert validation["mean_ap50"] == pytest.approx(rows["all"][1], abs=1e-3)


def test_accuracy_of_a_classifier(tmp_path, shape_folders):
    settings = runs.settings_of(
        shape_folders,
        tmp_path / "out",
        data={"format": "folders", "valid": "train.txt", "augment": False},
        train={"steps": 350, "optimizer": "adam"},
    )
    # At the end a small rate, with which the running statistics catch up.
    rates = "learning_rate=0.01\npolicy=steps\nsteps=200\nscales=.01\n"
    cfg = runs.CLASSIFIER.replace("learning_rate=0.001\n", rates)
    output = runs.train(tmp_path, settings, cfg)
    command = ("eval", tmp_path / "run.toml", "--weights", output / "final.weights")
    alone, four = runs.mpitile(*command), runs.mpitile(*command, ranks=4)
    assert (alone.code, four.code) == (0, 0), four
    assert alone.out == four.out
    images, top1, top5 = (line.split()[-1] for line in alone.out.splitlines())
    # Chance is a third; five of three classes is every class.
    assert (int(images), float(top5)) == (12, 1.0)
    assert float(top1) >= 0.75


LINE = re.compile(r"^  (disc|square|triangle) (\d+)% (\d+) (\d+) (\d+) (\d+)$")


def test_detect_writes_boxes_as_text_and_picture(learnt, shapes, tmp_path):
    run_file, weights, _ = learnt
    images = [shapes / "images" / f"shapes_0000{number}.png" for number in (0, 1)]
    outputs = []
    for ranks in (None, 2):
        out = tmp_path / f"{ranks}"
        result = runs.mpitile(
            "detect",
            *images,
            "--cfg",
            run_file.parent / "net.cfg",
            "--weights",
            weights,
            "--names",
            shapes / "shapes.names",
            "--threshold",
            "0.2",
            "--out",
            out,
            ranks=ranks,
        )
        assert result.code == 0, result
        outputs.append(result.out.replace(str(out), "OUT"))
        assert sorted(path.name for path in out.iterdir()) == [
            "shapes_00000.detected.png",
            "shapes_00001.detected.png",
        ]
    assert outputs[0] == outputs[1]
    heads = [line for line in outputs[0].splitlines() if not line.startswith(" ")]
    boxes = [LINE.match(line) for line in outputs[0].splitlines() if line.startswith(" ")]
    assert all(boxes) and boxes
    assert all(int(box[2]) >= 20 for box in boxes)
    for image, head in zip(images, heads, strict=True):
        assert re.fullmatch(rf"{image}: \d+ boxes, drawn into OUT/{image.stem}.detected.png", head)
    assert sum(int(head.split(": ")[1].split()[0]) for head in heads) == len(boxes)
    before, after = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (images[0], tmp_path / "None" / "shapes_00000.detected.png")
    )
    assert before.shape == after.shape
    assert not np.array_equal(before, after)


def refused(result):
    assert result.code == 2, result
    assert "Traceback" not in result.err, result
    (line,) = result.complaints
    return line


DETECT_REFUSES = [
    ({"--weights": "none.weights"}, "none.weights: cannot be read"),
    ({"--names": "none.names"}, "none.names: class names cannot be read: No such"),
    ({"--cfg": "classifier.cfg"}, "detect needs a network that ends with [region]"),
    ({"--threshold": "2"}, "--threshold 2.0: expected a number in [0, 1]"),
    ({"image": "none.png"}, "mpitile: none.png: expected a readable image, got: No such"),
    ({"--out": "file"}, "file"),
    ({"--names": "two.names"}, "two.names: expected 3 names"),
]


def test_detect_refuses(learnt, shapes, tmp_path):
    run_file, weights, _ = learnt
    (tmp_path / "classifier.cfg").write_text(runs.CLASSIFIER)
    (tmp_path / "two.names").write_text("disc\nsquare\n")
    (tmp_path / "file").write_text("")
    given = {
        "--cfg": run_file.parent / "net.cfg",
        "--weights": weights,
        "--names": shapes / "shapes.names",
        "image": shapes / "images" / "shapes_00000.png",
    }
    calls = []
    for change, _ in DETECT_REFUSES:
        options = given | change
        image = options.pop("image")
        arguments = [part for pair in options.items() for part in pair]
        # The second image is where a rank that had gone on alone would wait.
        calls.append((tmp_path, ["detect", image, image, *arguments]))
    for (_, text), result in zip(DETECT_REFUSES, runs.in_a_row(calls, ranks=2), strict=True):
        assert text in refused(result)


EVAL_REFUSES = [
    (["--weights", "none.weights"], "none.weights: cannot be read"),
    (["--set", "data.valid=none.txt"], "none.txt: expected a list file or a folder"),
]


def test_eval_refuses(learnt, tmp_path):
    run_file, weights, _ = learnt
    calls = [
        (tmp_path, ["eval", run_file, "--weights", weights, *change]) for change, _ in EVAL_REFUSES
    ]
    for (_, text), result in zip(EVAL_REFUSES, runs.in_a_row(calls, ranks=2), strict=True):
        assert text in refused(result)


def test_eval_without_validation_images(learnt, tmp_path, shapes):
    _, weights, _ = learnt
    settings = runs.settings_of(shapes, tmp_path / "out")
    del settings["data"]["valid"]
    path = runs.write_run(tmp_path, settings)
    line = refused(runs.mpitile("eval", path, "--weights", weights, ranks=2))
    assert line == f"mpitile: {path}: data.valid is missing: nothing to evaluate on"
