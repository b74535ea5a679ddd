"""Recordings keep everything through a file, and a damaged file is named line by line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpitile.errors import InputError
from mpitile.plan.recording import (
    ADJOINT,
    DIRECTIONS,
    FORWARD,
    BeginBucket,
    BeginExchange,
    BeginGather,
    BeginSum,
    Compute,
    EndBuckets,
    EndExchange,
    EndSum,
    Recording,
    typical_program,
)
from mpitile.plan.simulation.recording_file import read_recording, write_recording

seconds = st.integers(0, 10**12).map(lambda nanoseconds: round(nanoseconds / 1e9, 9))
computing = st.builds(
    Compute,
    seconds,
    st.sampled_from(["forward", "pack", "update"]),
    st.none() | st.integers(0, 99),
)


@st.composite
def recordings(draw):
    """Ranks that swap with the next one, gather, add something up, and compute in between."""
    ranks = draw(st.integers(1, 4))
    programs = [[] for _ in range(ranks)]
    for group in range(draw(st.integers(0, 3))):
        size, direction = draw(st.integers(0, 1 << 40)), draw(st.sampled_from(DIRECTIONS))
        for rank, program in enumerate(programs):
            program += draw(st.lists(computing, max_size=2))
            sends = ((rank + 1, size),) if rank + 1 < ranks else ()
            receives = ((rank - 1, size),) if rank else ()
            program.append(BeginExchange(group, direction, sends, receives))
            program += draw(st.lists(computing, max_size=1))
            program += [EndExchange(group, direction), BeginSum(size, "any thing"), EndSum()]
            program += [BeginGather(group, direction, 0, (size,) * ranks)]
            program += [EndExchange(group, direction)]
            others = tuple(range(rank % 2, ranks, 2))
            program += [BeginSum(size, "some", others), BeginBucket(size, others), EndSum()]
            program += [EndBuckets()]
    about = {"network": "net.cfg", "batch": 8, "groups": [0, 4]}
    return Recording(tuple(map(tuple, programs)), about)


@given(recordings())
def test_a_recording_comes_back_as_it_was(tmp_path_factory, recording):
    path = tmp_path_factory.mktemp("recording") / "file.jsonl"
    write_recording(recording, path)
    assert read_recording(path) == recording


HEADER = {"mpitile_recording": 1, "ranks": 2}
BEGIN = {
    "rank": 0,
    "do": "begin_exchange",
    "group": 0,
    "direction": FORWARD,
    "sends": [[1, 8]],
    "receives": [],
}
END = {"rank": 0, "do": "end_exchange", "group": 0, "direction": FORWARD}
GATHER = {**END, "do": "begin_gather", "first": 0, "parts": [8, 8]}
SUM = {"rank": 0, "do": "begin_sum", "purpose": "any", "bytes": 8}
BUCKET = {"rank": 0, "do": "begin_bucket", "bytes": 8}
COMPUTE = {"rank": 0, "do": "compute", "operation": "forward", "layer": 2, "seconds": 0.5}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "file.jsonl:1: not a recording of mpitile"),
        ([{"ranks": 2}], "file.jsonl:1: not a recording of mpitile"),
        ([{**HEADER, "mpitile_recording": 2}], "not a recording"),
        ([{**HEADER, "ranks": 0}], "file.jsonl:1: ranks = 0: expected a number of ranks"),
        ([HEADER, "[1]"], "file.jsonl:2: expected a JSON object"),
        ([HEADER, "{"], "file.jsonl:2: not JSON"),
        ([HEADER, {**COMPUTE, "rank": 2}], "file.jsonl:2: rank = 2: expected a number from 0 to 1"),
        ([HEADER, {**COMPUTE, "do": "sleep"}], "do = 'sleep': expected one of compute"),
        ([HEADER, {**COMPUTE, "seconds": -1}], "seconds = -1: expected a number from 0 on"),
        ([HEADER, {**COMPUTE, "seconds": "1"}], "seconds = '1'"),
        ([HEADER, {**COMPUTE, "layer": 1.5}], "layer = 1.5: expected a whole number"),
        ([HEADER, {**COMPUTE, "group": 1}], "compute: expected the keys operation, seconds"),
        ([HEADER, {**BEGIN, "direction": "up"}], "direction = 'up': expected forward or adjoint"),
        ([HEADER, {**BEGIN, "sends": [[0, 8]]}], r"sends = \[\[0, 8\]\]: expected a list of pairs"),
        ([HEADER, {**BEGIN, "sends": [[1, 8], [1, 9]]}], "expected each rank once"),
        ([HEADER, {**BEGIN, "sends": 3}], "sends = 3: expected a list of pairs"),
        ([HEADER, {**GATHER, "parts": []}], r"parts = \[\]: expected a list of whole numbers"),
        ([HEADER, {**GATHER, "parts": [8, -1]}], r"parts = \[8, -1\]: expected a list of whole"),
        ([HEADER, {**GATHER, "first": "a"}], "first = 'a': expected a whole number"),
        ([HEADER, GATHER, END], "rank 1 takes part in 0 gathers of ranks 0 to 1"),
        ([HEADER, {**SUM, "ranks": [1, 0]}], r"ranks = \[1, 0\]: expected ranks in ascending"),
        ([HEADER, {**SUM, "ranks": []}], r"ranks = \[\]: expected a list of whole numbers"),
        ([HEADER, {**BUCKET, "early": 1}], "early = 1: expected true or false"),
        ([HEADER, BEGIN], "file.jsonl: rank 0 begins an exchange or a sum that it never ends"),
        (
            [HEADER, BEGIN, {"rank": 0, "do": "end_exchange", "group": 0, "direction": ADJOINT}],
            "rank 0 ends the adjoint exchange of group 0, which it has not begun",
        ),
        (
            [HEADER, BEGIN, {"rank": 0, "do": "end_exchange", "group": 0, "direction": FORWARD}],
            "rank 0 sends 8 bytes to rank 1 in the forward exchange of group 0, which expects none",
        ),
        ([HEADER, {"rank": 0, "do": "end_sum"}], "rank 0 waits for a sum that it has not begun"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path, lines, complaint):
    path = tmp_path / "file.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    with pytest.raises(InputError, match=complaint) as caught:
        read_recording(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read: No such file"):
        read_recording(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        write_recording(Recording(((),)), tmp_path / "no" / "file.jsonl")


def test_the_median_of_steps_counts_and_other_steps_do_not():
    def step(first, second):
        return (Compute(first, "forward", 0), BeginSum(8, "x"), EndSum(), Compute(second, "update"))

    other = (Compute(9.0, "forward", 0),)
    found = typical_program([step(1.0, 5.0), other, step(2.0, 4.0), step(7.0, 6.0)])
    assert found == step(2.0, 5.0)
