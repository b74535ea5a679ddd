"""A run's live line: step, loss, images per second and the time that is left.

On a terminal the line is redrawn in place, with a bar where rich is installed; anywhere
else (a log file, a batch system) plain lines appear now and then.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

_REDRAW_SECONDS = 0.1
_WINDOW_STEPS = 64


@dataclass(frozen=True, slots=True)
class _State:
    """What the line says; `seconds_left` is None while nothing is known about it."""

    step: int
    total_steps: int
    loss: float
    images_per_second: float
    elapsed: float
    seconds_left: float | None

    @property
    def last(self) -> bool:
        return self.step >= self.total_steps


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _details(state: _State) -> str:
    if state.last:
        timing = f"took {duration(state.elapsed)}"
    elif state.seconds_left is None:
        timing = "ETA -:--:--"
    else:
        timing = f"ETA {duration(state.seconds_left)}"
    return f"loss {state.loss:.6g}  {state.images_per_second:.2f} images/s  {timing}"


def _line(state: _State) -> str:
    return f"step {state.step}/{state.total_steps}  {_details(state)}"


class _Writer(Protocol):
    """How states and messages reach the stream."""

    def show(self, state: _State) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...


class _Silent:
    """Writes nothing: the other ranks', and after closing."""

    def show(self, state: _State) -> None:
        """Ignores the state."""

    def message(self, text: str) -> None:
        """Ignores the text."""

    def close(self) -> None:
        """Has nothing to end."""


class _PlainLines:
    """A line for the first and last step, every `interval` seconds and each tenth."""

    def __init__(self, stream: TextIO, interval: float):
        self._stream = stream
        self._interval = interval
        self._written: _State | None = None
        self._latest: _State | None = None

    def show(self, state: _State) -> None:
        self._latest = state
        if self._due(state):
            self._write(state)

    def _due(self, state: _State) -> bool:
        before = self._written
        if before is None or state.last or state.elapsed - before.elapsed >= self._interval:
            return True
        return 10 * state.step // state.total_steps > 10 * before.step // state.total_steps

    def _write(self, state: _State) -> None:
        self._written = state
        self.message(_line(state))

    def message(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def close(self) -> None:
        if self._latest is not None and self._latest is not self._written:
            self._write(self._latest)


class _CarriageLine:
    """One line redrawn in place with a carriage return, for terminals without rich."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._latest = ""
        self._on_screen = ""
        self._drawn = float("-inf")

    def show(self, state: _State) -> None:
        columns = shutil.get_terminal_size().columns
        # The last column stays empty: a full line would wrap and could not be redrawn.
        self._latest = _line(state)[: columns - 1]
        if state.last or state.elapsed - self._drawn >= _REDRAW_SECONDS:
            self._drawn = state.elapsed
            self._draw(self._latest)

    def _draw(self, text: str) -> None:
        self._stream.write(f"\r{text.ljust(len(self._on_screen))}")
        self._stream.flush()
        self._on_screen = text

    def message(self, text: str) -> None:
        self._draw("")
        self._stream.write(f"\r{text}\n")
        self._draw(self._latest)

    def close(self) -> None:
        if self._latest:
            self._draw(self._latest)
            self._stream.write("\n")
            self._stream.flush()


class _RichLine:
    """The line with a bar before it, drawn by rich.

    It is redrawn from `show` alone: rich's own refreshing thread would take time from
    the ranks that compute.
    """

    def __init__(self, stream: TextIO, total_steps: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False),
            console=Console(file=stream, force_terminal=True),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total_steps)
        self._drawn = float("-inf")
        self._bar.start()

    def show(self, state: _State) -> None:
        due = state.last or state.elapsed - self._drawn >= _REDRAW_SECONDS
        self._bar.update(self._task, completed=state.step, description=_details(state), refresh=due)
        if due:
            self._drawn = state.elapsed

    def message(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def _writer(stream: TextIO, total_steps: int, interval: float) -> _Writer:
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return _PlainLines(stream, interval)
    try:
        return _RichLine(stream, total_steps)
    except ImportError:
        return _CarriageLine(stream)


class Progress:
    """Progress of one run; also a context manager that closes itself.

    Parameters
    ----------
    total_steps : number of the run's last step.
    stream : where to write; whether it is a terminal decides how.
    enabled : False writes nothing, as on all ranks but one.
    done : steps that were taken before this start, where a run is resumed.
    interval : seconds between plain lines where the stream is no terminal.
    clock : seconds from any origin, never running backwards.
    """

    def __init__(
        self,
        total_steps: int,
        stream: TextIO,
        enabled: bool,
        done: int = 0,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total_steps = total_steps
        self._clock = clock
        self._started = clock()
        # The time left follows the recent steps: the first ones are slower than the rest.
        self._recent = deque([(done, self._started)], maxlen=_WINDOW_STEPS)
        self._writer: _Writer = _writer(stream, total_steps, interval) if enabled else _Silent()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, step: int, loss: float, images_per_second: float) -> None:
        """Step number `step`, counted from 1, has been taken."""
        now = self._clock()
        since_step, since_time = self._recent[0]
        left = None
        if step > since_step:
            left = (self._total_steps - step) * (now - since_time) / (step - since_step)
        self._recent.append((step, now))
        self._writer.show(
            _State(step, self._total_steps, loss, images_per_second, now - self._started, left)
        )

    def message(self, text: str) -> None:
        """Write a line of text that stays, above the live one."""
        self._writer.message(text)

    def close(self) -> None:
        """End the live line; what comes later is ignored. May be called again."""
        self._writer.close()
        self._writer = _Silent()
