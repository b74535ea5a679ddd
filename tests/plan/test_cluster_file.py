"""Cluster files: by hand, written and read again, and wrong ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from mpitile.errors import InputError
from mpitile.plan.clusters.cluster import (
    KINDS,
    OPERATIONS,
    Cluster,
    Device,
    DeviceSpeed,
    Link,
    Point,
)
from mpitile.plan.clusters.cluster_file import read_cluster, write_cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "jobs" / "clusters").glob("*.toml"))

BY_HAND = """
[between]
latency_us = 150
mb_per_s = 11.7

[[device]]
name = "pi3"
count = 2
ranks = 4
memory = "1GB"
gflops = 2.5

[[device]]
name = "laptop"
ranks = 3
call_us = 20
core_share = 0.5
[device.gflops]
"3x3" = 100
"1x1" = [40, 50, 60]
other = 30
[device.kernels."conv 3x3/1 3-32 leaky"]
forward = [[1, 16, 16, 0.25], [2, 32, 32, 1]]
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "cluster.toml"
        path.write_text(text)
        return path

    return write


def test_a_few_lines_by_hand_are_enough(write):
    cluster = read_cluster(write(BY_HAND))
    assert [device.name for device in cluster.devices] == ["pi3", "pi3", "laptop"]
    assert cluster.ranks == 11
    assert [cluster.device_of(rank) for rank in (0, 3, 4, 8, 10)] == [0, 0, 1, 2, 2]
    assert [*cluster.ranks_of(1)] == [4, 5, 6, 7]
    assert cluster.between == Link(150e-6, 11.7e6)
    assert cluster.medium == "switched"
    pi, laptop = cluster.devices[0], cluster.devices[2]
    assert pi.memory == 10**9
    assert laptop.memory is None
    assert set(pi.speed.flops.values()) == {2.5e9}
    assert laptop.speed.flops["1x1", "backward_weights"] == 60e9
    assert laptop.speed.flops["3x3", "forward"] == 100e9
    assert laptop.speed.flops["depthwise", "forward"] == 30e9
    assert laptop.speed.call == pytest.approx(20e-6)
    assert laptop.speed.share == 0.5
    points = laptop.speed.kernels["conv 3x3/1 3-32 leaky"]["forward"]
    assert points == (Point(1, 16, 16, 0.25e-3), Point(2, 32, 32, 1e-3))


def test_what_is_left_out_follows_the_speed(write):
    pi = read_cluster(write(BY_HAND)).devices[0].speed
    fast = read_cluster(write(BY_HAND.replace("2.5", "25"))).devices[0].speed
    for name in ("bytes", "clear", "copy", "sum"):
        assert getattr(fast, name) == pytest.approx(10 * getattr(pi, name))
    assert fast.update["adam"] == pytest.approx(pi.update["adam"] / 10)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_six_boards_of_four_ranks(path):
    cluster = read_cluster(path)
    assert [device.ranks for device in cluster.devices] == [4] * 6
    assert all(device.memory >= 10**9 for device in cluster.devices)
    assert cluster.medium == ("shared" if "wifi" in path.stem else "switched")


def test_the_examples_are_there():
    assert [path.stem for path in EXAMPLES] == ["pi3-100mbit", "pi4-1gbit", "pi4-wifi", "pi5-1gbit"]


def some_cluster():
    speed = DeviceSpeed(
        flops={(k, o): 1e9 * (i + 1) for i, k in enumerate(KINDS) for o in OPERATIONS},
        bytes=2.5e9,
        call=3e-5,
        clear=8e9,
        copy=1.5e9,
        piece=4e-6,
        sum=7e8,
        update={"sgd": 1.5e-9, "adam": 3e-9},
        share=0.75,
        kernels={
            'odd "name"\\': {"forward": (Point(1, 2, 3, 4e-3),)},
            "pool": {"backward_input": (Point(1, 2, 3, 4e-3), Point(4, 5, 6, 1.5e-9))},
        },
    )
    other = replace(speed, kernels={}, share=1.0)
    devices = (
        Device("a", 2, 123456789, speed),
        Device("a", 2, 123456789, speed),
        Device("b", 1, None, other),
    )
    return Cluster(devices, Link(1e-6, 5e9), Link(2e-4, 1.25e7), "shared", 8)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "cluster.toml"
    write_cluster(some_cluster(), path, "two\nlines")
    text = path.read_text()
    assert text.startswith("# two\n# lines\n")
    assert text.count("[[device]]") == 2
    assert read_cluster(path) == some_cluster()


def test_writing_into_nowhere_is_an_error(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_cluster(some_cluster(), tmp_path / "none" / "cluster.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("latency_us = 150", "", r"between.latency_us is missing: expected a positive number"),
        ("= 11.7", "= -1", r"between.mb_per_s = -1: expected a positive number"),
        ("= 11.7", "= inf", r"between.mb_per_s = inf: expected a positive number"),
        ("[between]", "[betwixt]", r"unknown key betwixt; known keys are medium"),
        ("ranks = 4", "", r"device\[0\].ranks is missing: expected an integer from 1"),
        ("ranks = 3", "ranks = 0", r"device\[1\].ranks = 0: expected an integer from 1"),
        ("ranks = 4", "ranks = true", r"device\[0\].ranks = True"),
        ("count = 2", "count = 99999", r"device\[0\].count = 99999"),
        ("count = 2", "count = 60000", "more than 65536 ranks in all"),
        ('"1GB"', "12", r"device\[0\].memory = 12: expected a positive number and a unit"),
        ('"1GB"', f'"{"9" * 400}GB"', r"device\[0\].memory = '9+GB': expected a positive number"),
        ("gflops = 2.5", "", r"device\[0\].gflops is missing: expected a positive number, or a"),
        ("gflops = 2.5", 'gflops = "fast"', r"device\[0\].gflops = 'fast'"),
        ('"3x3" = 100', "", r"device\[1\].gflops.3x3 is missing"),
        ("[40, 50, 60]", "[40, 50]", r"gflops.1x1 = \[40, 50\]: expected a positive number, or"),
        ("other = 30", "others = 30", r"unknown key device\[1\].gflops.others; known keys"),
        ("call_us", "calls", r"unknown key device\[1\].calls"),
        ("forward =", "onward =", r'kernels."conv 3x3/1 3-32 leaky".onward; known keys are forw'),
        ("16, 16, 0.25", "16, 0.25", r"leaky\".forward = .*: expected points \[images, rows"),
        ("[1, 16, 16, 0.25]", "[1, 16, 16, 0]", "expected points"),
        ("[between]", 'medium = "radio"\n[between]', "medium = 'radio': expected \"switched\" or"),
        ("[between]", "itemsize = 2\n[between]", "itemsize = 2: expected 4 or 8"),
        ("latency_us = 150", "latency_us = ", "not a TOML file: .*line 3"),
    ],
)
def test_errors_name_file_and_key(write, old, new, message):
    path = write(BY_HAND.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read_cluster(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_several_devices_need_a_link(write):
    text = BY_HAND[BY_HAND.index("[[device]]") :]
    with pytest.raises(InputError, match=r"between is missing: expected \[between\] with"):
        read_cluster(write(text))


def test_a_file_without_devices_or_no_file(write, tmp_path):
    with pytest.raises(InputError, match=r"device is missing: expected at least one \[\[device"):
        read_cluster(write('medium = "shared"'))
    with pytest.raises(InputError, match="cannot be read"):
        read_cluster(tmp_path / "none.toml")
