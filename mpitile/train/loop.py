"""The main job: train, record, validate, save, until done or told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from mpitile.checkpoint import shards
from mpitile.comm.agree import on_first, together
from mpitile.comm.communicator import Communicator
from mpitile.comm.recorded import RecordedCommunicator
from mpitile.comm.recorder import Recorder
from mpitile.comm.topology import make_topology
from mpitile.errors import Stopped
from mpitile.train.evaluation import describe, main_figure
from mpitile.train.forecast import job_bytes
from mpitile.train.memory import describe_bytes, peak_bytes, resident_bytes
from mpitile.train.run_folder import RunFolder
from mpitile.train.scales import Scales, Stretch
from mpitile.train.settings import RunSettings
from mpitile.train.setup import make_job
from mpitile.train.signals import stop_signals
from mpitile.train.sources import Images, open_images, training_feeder
from mpitile.train.start import check_memory, find_keepers, open_run_folder, starting_point
from mpitile.train.tracing import TRACED_STEPS, WriteTrace, synchronise, write_traced
from mpitile.train.trainer import Trainer


class Console(Protocol):
    """Where the user is told how it goes; silent on all ranks but 0."""

    def message(self, text: str) -> None: ...

    def update(self, step: int, loss: float, images_per_second: float) -> None: ...


# Given the last step and the completed ones.
OpenConsole = Callable[[int, int], AbstractContextManager[Console]]


@dataclass
class Run:
    """What the parts of a run on one rank share.

    Attributes
    ----------
    trainer : the network and its state.
    images, validation : data sets; the latter None where the run file names none.
    steps : how many steps the run has in all.
    console : talks to the user.
    folder : the files that rank 0 writes; None on other ranks.
    best : the best validation figure so far.
    base : bytes that this process held before the trainer was made.
    keepers : for each rank the one that keeps a copy of its shards; empty where nobody does.
    """

    trainer: Trainer
    images: Images
    validation: Images | None
    steps: int
    console: Console
    folder: RunFolder | None
    best: float | None
    base: int
    keepers: Sequence[int]

    @property
    def output(self) -> Path:
        return Path(self.trainer.job.settings.output.dir)

    def tell(self, event: str, text: str, **details: Any) -> None:
        """Let the user and ``events.jsonl`` know; nothing on ranks but 0."""
        self.console.message(text)
        if self.folder:
            self.folder.add_event(event, step=self.trainer.done, text=text, **details)

    def remark(self, text: str) -> None:
        """Something about the data that the user should know."""
        self.tell("remark", text)

    @property
    def failed(self) -> bool:
        """Whether this rank could not write one of the folder's files."""
        return self.folder is not None and self.folder.failure is not None

    def check_files(self) -> None:
        """Raise on all ranks what rank 0 could not write. Collective."""
        failure = self.folder.failure if self.folder else None
        failure = self.trainer.topology.world.broadcast(failure)
        if failure:
            # All ranks end: no message may be left under way.
            self.trainer.settle()
            raise failure


def train(
    settings: RunSettings,
    world: Communicator,
    resume: bool,
    open_console: OpenConsole,
    write_trace: WriteTrace = lambda path, hosts, intervals: None,
) -> None:
    """Train as a run file says. Collective.

    Parameters
    ----------
    write_trace : called on rank 0 behind the last step, where ``output.trace`` is set.

    Raises
    ------
    InputError : on all ranks, for bad input.
    Stopped : on all ranks, after a signal to any of them; a checkpoint has been saved.
    """
    hosts = world.allgather(socket.gethostname())
    # Planned in one place: other machines' arithmetic, or files, may differ.
    job = on_first(world, lambda: make_job(settings, world.size, hosts, resume=resume))
    check_memory(job, world)
    recorder = None
    if settings.output.trace:
        recorder = Recorder(world.rank, 0, TRACED_STEPS)
        world = RecordedCommunicator(world, recorder)
    topology = make_topology(world, job.plan)
    images = open_images(job, topology, settings.data.train)
    validation = open_images(job, topology, settings.data.valid) if settings.data.valid else None
    steps = together(world, lambda: job.steps(images.count))
    base = resident_bytes()
    trainer = Trainer(job, topology, recorder)
    keepers = find_keepers(settings, world)
    best, origin = starting_point(trainer, resume)
    folder = open_run_folder(trainer, base)
    with open_console(steps, trainer.done) as console:
        run = Run(trainer, images, validation, steps, console, folder, best, base, keepers)
        run.tell("start", f"{world.size} ranks, grid {job.plan.grid}: {origin}")
        _tell_memory(run)
        if settings.checkpoint.partner and not keepers:
            run.remark(
                "checkpoint.partner: all ranks are on one device; no other one can keep copies"
            )
        for remark in images.remarks:
            run.remark(remark)
        if recorder:
            synchronise(recorder, world)
        _train_steps(run)
        if recorder:
            write_traced(recorder, job, world, run.output, write_trace)
        _finish(run)


def _train_steps(run: Run) -> None:
    trainer, job = run.trainer, run.trainer.job
    scales = Scales(job.network, job.settings.train.seed)
    with stop_signals() as stop_wanted:
        for stretch in scales.stretches(trainer.done, run.steps):
            trainer.use(stretch.network)
            _train_stretch(run, stretch, stop_wanted)


def _train_stretch(run: Run, stretch: Stretch, stop_wanted: Callable[[], bool]) -> None:
    trainer, job = run.trainer, run.trainer.job
    passes = range(stretch.first * job.subdivisions, stretch.stop * job.subdivisions)
    with training_feeder(
        job, trainer.topology, trainer.program, run.images, passes, run.remark
    ) as feeder:
        while trainer.done < stretch.stop:
            # A row that could not be written is told with the next step's figures.
            metrics, stop = trainer.step(feeder, lambda: run.failed or stop_wanted())
            if run.folder:
                run.folder.add_metrics(metrics)
            run.console.update(metrics.step, metrics.loss, metrics.images_per_s)
            _after_step(run, stop and trainer.done < run.steps)


def _after_step(run: Run, stop: bool) -> None:
    """Validate and save where it is time to; end the run where a signal or a failure came."""
    if stop:
        run.check_files()
    settings, done = run.trainer.job.settings, run.trainer.done
    last = done == run.steps
    if run.validation and (last or _due(done, settings.train.validate_every)):
        _validate(run, run.validation)
    every = settings.checkpoint.every
    if stop or _due(done, every) or (last and every):
        _save(run)
    if stop:
        text = f"stopped by a signal after step {done} of {run.steps}, which is saved"
        if run.folder:
            run.folder.add_event("stopped", step=done)
        run.trainer.close()
        raise Stopped(f"{text}; --resume continues")


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _save(run: Run) -> None:
    trainer = run.trainer
    trainer.require_finite()
    path = shards.save(
        run.output / "checkpoints",
        trainer.topology.world,
        trainer.arrays,
        trainer.progress(run.best),
        trainer.job.settings.checkpoint.keep,
        run.keepers,
    )
    if run.folder:
        run.folder.add_event("checkpoint", step=trainer.done, path=str(path))


def _validate(run: Run, images: Images) -> None:
    """Score the present weights; write ``best.weights`` if they are the best so far."""
    trainer = run.trainer
    world = trainer.topology.world
    score = trainer.score(images, run.remark)
    figure = world.broadcast(main_figure(score) if score else None)
    if score:
        run.tell("validation", f"step {trainer.done}: {describe(score)}", **asdict(score))
    if run.best is None or figure > run.best:
        run.best = figure
        _write_weights(run, "best.weights")


def _tell_memory(run: Run) -> None:
    """What the fullest rank will hold, beside what its process held before. Collective."""
    kinds = max(_predicted(run), key=lambda rank: sum(rank.values()))
    base = max(run.trainer.topology.world.allgather(run.base))
    run.tell("memory", f"{describe_bytes(kinds)} a rank, beside {base / 1e6:.0f} MB of libraries")


def _predicted(run: Run) -> Sequence[Mapping[str, int]]:
    """For each rank, the bytes by kind that it holds while it trains."""
    return job_bytes(run.trainer.job, run.trainer.group.devices)


def _measure_memory(run: Run) -> None:
    """Record how much each rank's process has grown, beside what was predicted. Collective."""
    growths = run.trainer.topology.world.allgather(peak_bytes() - run.base)
    if run.folder:
        predictions = [sum(kinds.values()) for kinds in _predicted(run)]
        devices = run.trainer.group.devices.ranks
        run.folder.add_event(
            "peak", predicted_bytes=predictions, grown_bytes=growths, devices=devices
        )


def _finish(run: Run) -> None:
    _measure_memory(run)
    path = _write_weights(run, "final.weights")
    run.tell("done", f"trained {run.trainer.done} steps; weights in {path}")
    if run.folder:
        run.folder.close()
    run.check_files()
    run.trainer.close()


def _write_weights(run: Run, name: str) -> Path:
    path = run.output / name
    run.trainer.require_finite()
    run.trainer.write_weights(path)
    return path
