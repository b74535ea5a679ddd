"""What goes on beside the passes of a step: sums of gradients, and new values of the last one."""

from __future__ import annotations

from collections.abc import Sequence

from mpitile.comm.recorder import Unrecorded
from mpitile.plan.recording import Members
from mpitile.train.state import TrainState


class Overlap:
    """One step's; its methods are called in this order, by all ranks.

    Parameters
    ----------
    state, recorder : of this rank.
    update : learning rate, images and number of the step, for the optimiser.
    """

    def __init__(
        self, state: TrainState, recorder: Unrecorded, update: tuple[float, int, int]
    ) -> None:
        self._state, self._recorder, self._update = state, recorder, update
        # How many buckets of values of which ranks have been waited for.
        self._awaited: dict[Members, int] = {}

    def hand_out(self) -> None:
        """The first forward pass begins: new values have the links.

        Not before, where ranks tell each other small things that are waited for at once.
        """
        self._recorder.values(self._state.buckets)
        with self._recorder.beside():
            self._state.hand_out()

    def ready(self, layers: Sequence[int]) -> None:
        """Return when these layers can be computed with the last step's values."""
        if layers:
            with self._recorder.beside():
                counts = self._state.wait_values(max(layers))
            more = [(n, ranks) for n, ranks in counts if n > self._awaited.get(ranks, 0)]
            self._awaited |= {ranks: count for count, ranks in more}
            self._recorder.end_values(more)

    def settle(self) -> None:
        """Return when the first gradient may be written."""
        with self._recorder.beside():
            flows = self._state.settle()
        self._recorder.flights("values", [flow.flights for flow in flows])

    def begin(self) -> None:
        """The next backward pass is the last."""
        self._state.begin_overlap(*self._update)

    def complete(self, layers: Sequence[int]) -> None:
        """These layers' gradients are complete."""
        with self._recorder.beside():
            buckets = self._state.complete(layers)
        self._recorder.buckets(buckets)

    def end(self) -> None:
        """Return when this rank has new values to hand out."""
        with self._recorder.beside():
            sums, early = self._state.end_overlap()
        updating = sum(flow.updating for flow in sums)
        self._recorder.end_buckets(sum(flow.seconds for flow in sums) - updating, updating)
        self._recorder.flights("bucket", [flow.flights for flow in sums])
        self._recorder.flights("early values", [flow.flights for flow in early])
