"""One training step after the other, and what is kept between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mpitile.checkpoint.shards import Progress, Sliced
from mpitile.checkpoint.weights_file import write_weights
from mpitile.comm.device_sums import DeviceSums
from mpitile.comm.recorder import Unrecorded
from mpitile.comm.topology import Topology
from mpitile.errors import InputError, MpitileError
from mpitile.layers.base import Step
from mpitile.network.spec import Network
from mpitile.plan.memory.bytes import Shared, most_shared
from mpitile.plan.partition import Partition
from mpitile.plan.recording import EVERYONE, GRADIENTS, IMAGES, METRICS, UPDATE
from mpitile.plan.sums.reduction import direct
from mpitile.runtime.calibrate import choose_kernels
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.program import Program
from mpitile.runtime.stopwatch import Stopwatch
from mpitile.train.evaluation import Score, score_images
from mpitile.train.feeding import Feeder, Passes
from mpitile.train.memory import peak_resident_bytes
from mpitile.train.overlap import Overlap
from mpitile.train.run_folder import StepMetrics
from mpitile.train.scales import Scales
from mpitile.train.schedule import learning_rate
from mpitile.train.setup import Job
from mpitile.train.sources import Images
from mpitile.train.state import TrainState

# Keeps dropout's numbers apart from order and augmentation, which share the seed.
_DROPOUT_STREAM = 3

_DIVERGED = "training has diverged; a lower learning rate or a longer burn_in may help"


class Trainer:
    """The state of a run on one rank. Making one, and `step`, are collective.

    Parameters
    ----------
    recorder : is told what the rank does.
    anywhere : whether sums go beside the passes inside one device, too.

    Attributes
    ----------
    done : completed steps.
    program : this rank's part of the network.
    group : this rank's place among devices.
    """

    def __init__(
        self,
        job: Job,
        topology: Topology,
        recorder: Unrecorded | None = None,
        anywhere: bool = False,
    ) -> None:
        self.job = job
        self._recorder = recorder or Unrecorded()
        self.topology = topology
        self.done = 0
        train, tiling = job.settings.train, job.settings.tiling
        self._state = TrainState(
            job.network,
            job.plan,
            train.dtype,
            job.optimizer,
            topology,
            tiling.ranks_per_device,
            _shared(job),
            train.overlap,
            anywhere,
        )
        self._state.draw(train.seed)
        self.group = self._state.group
        longest = _longest_sum(job.network)
        self._sums = None
        if longest and direct(len(self.group.devices)):
            self._sums = DeviceSums(self.group, longest)
        self._choices = choose_kernels(
            train.kernels,
            job.network,
            job.plan.grid,
            job.team_images,
            topology.world,
            job.plan.filters,
        )
        self.program = self._program(job.network)
        self.passes = Passes(job.pass_images, job.plan.replicas)
        self._clock = Stopwatch()
        self._sent = 0

    def _program(self, network: Network, training: bool = True) -> Program:
        partition = Partition(network, self.job.plan)
        images = self.job.team_images
        return Program(
            partition,
            self.topology,
            self._state.parameters,
            images,
            training,
            choices=self._choices,
            recorder=self._recorder,
            group=self.group,
        )

    def use(self, network: Network) -> None:
        """Go on with the network at this input size. Collective."""
        if network.shapes != self.program.network.shapes:
            # The old program's memory is free before the new one's is taken.
            self.program.close()
            del self.program
            self.program = self._program(network)

    def score(self, images: Images, remark: Callable[[str], None]) -> Score | None:
        """Score the weights at the run's own input size; on rank 0. Collective."""
        self.settle()
        program = self.program
        if self.job.network.shapes != program.network.shapes:
            program = self._program(self.job.network, training=False)
        score = score_images(self.job, self.topology, program, images, remark)
        if program is not self.program:
            program.close()
        return score

    def settle(self) -> None:
        """Return when the latest step's values are on the whole device. Collective."""
        self._state.settle()

    def close(self) -> None:
        """Give back what devices share; the trainer is of no use afterwards. Collective."""
        self.settle()
        self.program.close()
        if self._sums:
            self._sums.close()
        self._state.close()

    @property
    def parameters(self) -> Parameters:
        """This rank's weights as they are after the latest step. Collective."""
        self.settle()
        return self._state.parameters

    @property
    def arrays(self) -> Mapping[str, Sliced]:
        """All flat arrays that a checkpoint has to keep. Collective."""
        self.settle()
        return self._state.arrays

    @property
    def allocated(self) -> dict[str, int]:
        """Bytes of this rank's arrays by kind; its feeder's images are not among them."""
        found = self.program.bytes | self._state.bytes
        found["workspace"] += self._state.scratch_bytes
        return found

    def require_finite(self) -> None:
        """Refuse to keep numbers that no run could go on with. Collective.

        A step's loss is computed before its new values are: these may have diverged first.

        Raises
        ------
        MpitileError : on all ranks, where any of them has a value that is no finite number.
        """
        # Sums in double precision neither overflow nor need an array.
        parts = (part for sliced in self.arrays.values() for part in sliced.parts)
        totals = [np.sum(kept, dtype=np.float64) for part in parts for _, kept in part.pieces()]
        bad = np.array([not np.isfinite(totals).all()], np.int64)
        self.topology.world.maximum(bad)
        if bad[0]:
            raise MpitileError(
                f"weights after step {self.done} are no finite numbers and are not saved: "
                f"{_DIVERGED}"
            )

    def write_weights(self, path: Path) -> None:
        """Write all weights as a Darknet file, on rank 0. Collective.

        Raises
        ------
        InputError : on all ranks, where it cannot be written.
        """
        self.settle()
        failure = None
        if self.topology.replica == 0:
            try:
                seen = self.done * self.job.batch
                write_weights(path, self._state.parameters, seen, self.topology.team)
            except InputError as error:
                failure = error
        failure = self.topology.world.broadcast(failure)
        if failure:
            raise failure

    def progress(self, best: float | None) -> Progress:
        """Where training stands, for a checkpoint."""
        return Progress(
            step=self.done,
            position=self.done * self.job.batch,
            seed=self.job.settings.train.seed,
            best=best,
            fingerprint=self.job.fingerprint,
            plan=self.job.plan_fingerprint(self.group.devices),
        )

    def step(
        self, feeder: Feeder, stop_wanted: Callable[[], bool] = lambda: False
    ) -> tuple[StepMetrics, bool]:
        """Train on the next batch.

        Returns
        -------
        The step's metrics, and whether any rank's `stop_wanted` is true; both are the
        same on all ranks.

        Raises
        ------
        MpitileError : on all ranks, where the loss is no finite number.
        """
        start = time.perf_counter()
        self._clock.reset()
        self.program.stopwatch.reset()
        self._recorder.begin_step()
        rate = learning_rate(self.job.network.options, self.done + 1)
        try:
            take = self._overlapped if self._state.overlap else self._apart
            loss = take(feeder, rate)
            self.done += 1
            self._recorder.mark(METRICS)
            metrics = self._metrics(loss, rate, start, stop_wanted())
        except MpitileError:
            # All ranks have met it, and end: no message may be left under way.
            self.settle()
            raise
        self._recorder.end_step()
        return metrics

    def _apart(self, feeder: Feeder, rate: float) -> float:
        """Compute all gradients, then their sums, then new values; this rank's part of the loss."""
        loss = self._gradients(feeder)
        self._recorder.mark(GRADIENTS)
        with self._clock.measure("reduce"), self._recorder.reductions(self._state.sums):
            self._state.begin_sum()
            self._state.end_sum()
        self._recorder.mark(UPDATE)
        with self._clock.measure("compute"):
            self._state.update(rate, self.job.batch, self.done + 1)
        self._recorder.mark("values")
        with self._clock.measure("reduce"):
            self._state.begin_share()
            self._state.end_share()
        return loss

    def _overlapped(self, feeder: Feeder, rate: float) -> float:
        """The same, with sums of what is complete beside what is not.

        New values are handed out beside the next step's forward pass, until `settle`.
        """
        update = (rate, self.job.batch, self.done + 1)
        overlap = Overlap(self._state, self._recorder, update)
        loss = self._gradients(feeder, overlap)
        self._recorder.mark(GRADIENTS)
        with self._clock.measure("reduce"):
            overlap.end()
        return loss

    def _gradients(self, feeder: Feeder, overlap: Overlap | None = None) -> float:
        """Add up the gradients of this rank's part of the batch; its part of the loss."""
        loss = 0.0
        for number in range(self.job.subdivisions):
            self._recorder.mark(IMAGES)
            with self._clock.measure("load"):
                truths = feeder.next(self.done * self.job.subdivisions + number)
            first, last = number == 0, number == self.job.subdivisions - 1
            step = self._step(number, truths, first)
            with self._clock.measure("passes"):
                if overlap and first:
                    overlap.hand_out()
                self.program.forward(step, ready=overlap.ready if overlap and first else None)
                loss += self.program.loss
                if overlap and first:
                    overlap.settle()
                if overlap and last:
                    overlap.begin()
                complete = overlap.complete if overlap and last else None
                self.program.backward(step, complete=complete)
        return loss

    def _step(self, number: int, truths: object, first: bool) -> Step:
        number += self.done * self.job.subdivisions
        seed = np.random.SeedSequence([_DROPOUT_STREAM, self.job.settings.train.seed, number])
        return Step(
            training=True,
            reduce=self._sum,
            images=self.passes.images,
            first_image=self.passes.positions(number, self.topology.replica).start,
            seen=(number + 1) * self.passes.images,
            overwrite=first,
            key=int(seed.generate_state(1, np.uint64)[0]),
            truths=truths,
        )

    def _sum(self, array: np.ndarray) -> None:
        """Add up batch norm's sums over all ranks."""
        if self._sums is None:
            self.topology.world.sum(array)
            return
        with self._recorder.reductions([(array.nbytes, EVERYONE)]):
            self._sums.sum(array)

    def _metrics(
        self, loss: float, rate: float, start: float, stop: bool
    ) -> tuple[StepMetrics, bool]:
        program = self.program.stopwatch
        halo, reduce = program.seconds("halo"), program.seconds("reduce")
        compute = self._clock.seconds("passes") - halo - reduce + self._clock.seconds("compute")
        world = self.topology.world
        total = np.zeros(1 + len(self.group.devices))
        total[0], total[1 + self.group.number] = loss, self._sent_since()
        world.sum(total)
        largest = np.array(
            [
                time.perf_counter() - start,
                compute,
                halo,
                reduce + self._clock.seconds("reduce"),
                peak_resident_bytes() / 2**20,
                self._clock.seconds("load"),
                float(stop),
            ]
        )
        world.maximum(largest)
        loss = float(total[0]) / self.job.batch
        if not math.isfinite(loss):
            raise MpitileError(f"the loss of step {self.done} is {loss}: {_DIVERGED}")
        seconds, compute, halo, reduce, rss, load, stop_any = largest.tolist()
        metrics = StepMetrics(
            step=self.done,
            loss=loss,
            learning_rate=rate,
            images_per_s=self.job.batch / seconds,
            seconds=seconds,
            compute_s=compute,
            halo_s=halo,
            reduce_s=reduce,
            peak_rss_mb=rss,
            load_s=load,
            sent_mb=float(total[1:].max()) / 1e6,
        )
        return metrics, bool(stop_any)

    def _sent_since(self) -> int:
        """Bytes that this rank has sent to other devices since it was last asked."""
        before, self._sent = self._sent, self.group.sent()[0]
        return self._sent - before


def _longest_sum(network: Network) -> int:
    """Elements of the longest vector that ranks add up within a pass: batch norm's, in backward."""
    channels = (
        layer.output_shape.channels
        for layer in network.layers
        if getattr(layer.operation, "batch_normalize", False)
    )
    return 2 * max(channels, default=0)


def _shared(job: Job) -> Shared:
    """The most that is shared for gathering, by programs that exist at the same time."""
    largest = Scales(job.network, job.settings.train.seed).largest
    networks = [largest] if largest is job.network else [largest, job.network]
    itemsize = np.dtype(job.settings.train.dtype).itemsize
    wanted = [
        most_shared(Partition(network, job.plan), job.team_images, itemsize) for network in networks
    ]
    return Shared(*map(sum, zip(*wanted, strict=True)))
