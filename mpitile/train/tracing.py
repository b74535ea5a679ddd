"""What each rank did in the first steps of a real run, and when."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from mpitile.comm.agree import on_first
from mpitile.comm.communicator import Communicator
from mpitile.comm.recorder import Recorder
from mpitile.plan.recording import Recording, typical_program
from mpitile.plan.simulation.intervals import Interval
from mpitile.plan.simulation.recording_file import write_recording
from mpitile.train.recording import describe_job
from mpitile.train.setup import Job

# A trace of more would be long to load.
TRACED_STEPS = 20

# Given a path, and by rank the name of its device, and what all ranks did.
WriteTrace = Callable[[Path, Sequence[str], Sequence[Interval]], None]


def synchronise(recorder: Recorder, world: Communicator) -> None:
    """Start all ranks' clocks together, as well as a reduction can. Collective."""
    world.sum(np.zeros(1))
    recorder.synchronise()


def write_traced(
    recorder: Recorder, job: Job, world: Communicator, folder: Path, write_trace: WriteTrace
) -> None:
    """``trace.json``, and ``recording.jsonl`` for ``mpitile simulate``, in `folder`. Collective.

    Nothing where no step has been taken.
    """
    if not recorder.steps:
        return
    own = (socket.gethostname(), typical_program(recorder.steps), recorder.intervals)
    ranks = world.gather(own)

    def write() -> None:
        hosts, programs, intervals = zip(*ranks, strict=True)
        write_trace(folder / "trace.json", hosts, list(chain.from_iterable(intervals)))
        recording = Recording(programs, {**describe_job(job), "hosts": list(hosts)})
        write_recording(recording, folder / "recording.jsonl")

    on_first(world, write)
