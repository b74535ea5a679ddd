"""``mpitile check``: the proof, on one rank and on several."""

import re

import pytest
import runs

KINDS = ["losses", "outputs", "deltas", "weight gradients", "weights"]


# A network with a loss over boxes, over classes, and with none.
NETWORKS = {
    "detector.cfg": runs.DETECTOR,
    "classifier.cfg": runs.CLASSIFIER,
    "plain.cfg": runs.NET + runs.CONVOLUTION.format(filters=4) + runs.LAST.format(filters=2),
}


def differences(result):
    """The largest relative difference of each kind."""
    rows = re.findall(r"^  ([a-z ]+?) +([0-9.e+-]+)  at (.*)$", result.out, re.MULTILINE)
    return {kind: float(number) for kind, number, _ in rows}


@pytest.mark.parametrize(
    "ranks, options",
    [
        (None, ["--grid", "2x3", "--batch", "2"]),
        (4, ["--grid", "2x2", "--groups", "0,1"]),
        (2, ["--grid", "1x2", "--recompute", "all"]),
        (None, ["--grid", "1x3", "--filters", "all", "--replicas", "2", "--batch", "2"]),
        (3, ["--grid", "1x3", "--filters", "0", "--recompute", "all", "--ranks-per-device", "2"]),
    ],
    ids=["tile-by-tile", "4-ranks", "recomputed", "sliced-tile-by-tile", "sliced"],
)
def test_tiles_take_the_step_of_one_rank(tmp_path, ranks, options):
    for name, text in NETWORKS.items():
        (tmp_path / name).write_text(text)
    calls = [(tmp_path, ["check", name, *options]) for name in NETWORKS]
    for name, result in zip(NETWORKS, runs.in_a_row(calls, ranks), strict=True):
        assert result.code == 0 and f"{name} at 64x64" in result.out, result
        found = differences(result)
        assert list(found) == KINDS
        assert all(difference <= 1e-12 for difference in found.values()), result
        assert "BEYOND" not in result.out
        assert ("divided by filters" in result.out) == ("--filters" in options)
        assert result.out.count("largest relative differences; allowed 1e-12") == 1


@pytest.fixture
def detector(tmp_path):
    path = tmp_path / "net.cfg"
    path.write_text(runs.DETECTOR)
    return path


def test_single_precision_with_replicas_and_another_size(detector):
    options = ["--grid", "1x2", "--replicas", "2", "--batch", "4", "--size", "80x96"]
    result = runs.mpitile("check", detector, *options, "--dtype", "float32", ranks=4)
    assert result.code == 0, result
    assert "at 80x96, batch 4, float32" in result.out
    assert 1e-10 < max(differences(result).values()) <= 1e-4


@pytest.mark.parametrize(("tolerance", "ranks"), [("1e-30", 2), ("0", None)])
def test_beyond_tolerance(detector, tolerance, ranks):
    options = ["--grid", "2x1", "--tolerance", tolerance, "--steps", "1"]
    result = runs.mpitile("check", detector, *options, ranks=ranks)
    assert result.code == 1, result
    assert "BEYOND TOLERANCE" in result.out
    assert "Traceback" not in result.err


REFUSED = [
    (["--grid", "2x2"], "--grid 2x2 with 1 replica(s) needs 4 ranks"),
    (["--grid", "two"], "--grid two: expected two positive numbers"),
    (["--grid", "1x2", "--groups", "0,99"], "groups"),
    (["--grid", "1x2", "--recompute", "0,99"], "no group 99"),
    (["--grid", "1x2", "--recompute", "some"], "--recompute"),
    (["--grid", "1x2", "--filters", "0,99"], "filters: there is no layer 99"),
    (["--grid", "1x2", "--filters", "1"], "layer 1 (maxpool) cannot be divided by filters"),
    (["--grid", "1x2", "--filters", "some"], "--filters some: expected all, none or layers"),
    (["--grid", "1x2", "--size", "0x5"], "--size 0x5"),
    (["--grid", "1x2", "--batch", "0"], "--batch 0: expected at least 1"),
    (["--grid", "1x2", "--tolerance", "-1"], "--tolerance -1"),
]


def test_refused(detector):
    calls = [(detector.parent, ["check", detector, *options]) for options, _ in REFUSED]
    for (_, text), result in zip(REFUSED, runs.in_a_row(calls, ranks=2), strict=True):
        assert result.code == 2, result
        (line,) = result.complaints
        assert text in line
        assert "Traceback" not in result.err


def test_grid_larger_than_the_image(detector):
    result = runs.mpitile("check", detector, "--grid", "99x1")
    assert result.code == 2, result
    assert result.complaints[0].startswith("mpitile: grid 99x1 is larger than the image of 64x64")
