"""``mpitile profile`` on one rank and on two, and what is wrong with its arguments."""

import pytest
import runs

from mpitile.errors import EXIT_INPUT
from mpitile.plan.clusters.cluster_file import read_cluster


@pytest.fixture
def cfg(tmp_path):
    path = tmp_path / "net.cfg"
    path.write_text(runs.DETECTOR)
    return path


@pytest.mark.parametrize("ranks", [None, 2], ids=["alone", "2-ranks"])
def test_a_readable_file_is_written(cfg, tmp_path, ranks):
    out = tmp_path / "cluster.toml"
    result = runs.mpitile("profile", cfg, "--seconds", "1", "--out", out, ranks=ranks)
    assert result.code == 0, result
    assert result.out.startswith(f"{out}: 1 device(s), {ranks or 1} rank(s)\n")
    assert "measuring layers of" in result.err
    cluster = read_cluster(out)
    (device,) = cluster.devices
    assert device.ranks == (ranks or 1)
    assert device.memory > 10**8
    assert {"region 16", "conv 3x3/1 3-8 leaky bn", "maxpool 2/2 12"} <= set(device.speed.kernels)
    text = out.read_text()
    assert text.startswith("# What mpitile profile measured in ")
    assert str(cfg) in text.splitlines()[0]


REFUSED = [
    (["none.cfg"], "none.cfg: expected a readable cfg file"),
    (["none.toml"], "none.toml: cannot be read"),
    (["--seconds", "0"], "--seconds 0.0: expected a positive number"),
    (["--out", "none/cluster.toml"], "--out none/cluster.toml: none is no folder"),
]


def test_bad_arguments(tmp_path):
    results = runs.in_a_row([(tmp_path, ["profile", *words]) for words, _ in REFUSED], ranks=2)
    for (_, message), result in zip(REFUSED, results, strict=True):
        assert result.code == EXIT_INPUT, result
        (line,) = result.complaints
        assert message in line
