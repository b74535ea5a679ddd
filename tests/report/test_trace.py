"""Trace files load as JSON and have what Chrome and Perfetto want of each event."""

import json

import pytest

from mpitile.errors import InputError
from mpitile.plan.simulation.intervals import COMPUTE, FLIGHT, REDUCE, Interval, Transit
from mpitile.report.trace import write_trace

INTERVALS = [
    Interval(0, 0.0, 1.5, COMPUTE, "3 forward"),
    Interval(2, 0.5, 2.0, REDUCE, 'sum of "gradients"'),
]


def events(path):
    return json.loads(path.read_text())["traceEvents"]


def test_every_device_is_a_process_and_every_rank_a_thread(tmp_path):
    path = tmp_path / "trace.json"
    transit = Transit(2, 0, 0.5, 0.75, 4096)
    write_trace(path, ["one", "one", "two"], INTERVALS, [transit])
    found = events(path)
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"]["name"]
        for event in found
        if event["ph"] == "M"
    }
    assert names == {
        ("process_name", 0, 0): "one",
        ("process_name", 1, 0): "two",
        ("thread_name", 0, 0): "rank 0",
        ("thread_name", 0, 1): "rank 1",
        ("thread_name", 1, 2): "rank 2",
    }
    slices = [event for event in found if event["ph"] == "X"]
    assert [(e["pid"], e["tid"], e["ts"], e["dur"]) for e in slices] == [
        (0, 0, 0.0, 1.5e6),
        (1, 2, 0.5e6, 1.5e6),
    ]
    assert [(e["name"], e["cat"]) for e in slices] == [
        ("3 forward", "compute"),
        ('sum of "gradients"', "reduce"),
    ]
    start, finish = [event for event in found if event["ph"] in "sf"]
    assert (start["pid"], start["tid"], start["ts"]) == (1, 2, 0.5e6)
    assert (finish["pid"], finish["tid"], finish["ts"]) == (0, 0, 0.75e6)
    assert start["id"] == finish["id"]
    assert start["name"] == finish["name"] == "4096 bytes"


def test_buckets_on_their_way_stand_beside_what_their_rank_does(tmp_path):
    path = tmp_path / "trace.json"
    flights = [Interval(0, 0.5, 1.0 + n, FLIGHT, f"bucket {n}") for n in range(2)]
    write_trace(path, ["one"], [INTERVALS[0], *flights])
    pairs = {}
    for event in events(path):
        if event["ph"] in "be":
            pairs.setdefault(event["id"], []).append((event["ph"], event["name"], event["ts"]))
    assert list(pairs.values()) == [
        [("b", "bucket 0", 0.5e6), ("e", "bucket 0", 1e6)],
        [("b", "bucket 1", 0.5e6), ("e", "bucket 1", 2e6)],
    ]


def test_a_trace_without_intervals_loads(tmp_path):
    path = tmp_path / "trace.json"
    write_trace(path, ["one"], [])
    assert len(events(path)) == 2


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(InputError, match=r"trace\.json: cannot be written"):
        write_trace(tmp_path / "no" / "trace.json", ["one"], [])
