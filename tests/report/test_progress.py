import io
import re
import sys

import pytest

from mpitile.report.progress import Progress


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return FakeTerminal()


@pytest.fixture
def without_rich(monkeypatch):
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)


def take(progress, clock, steps, seconds):
    for step in steps:
        clock.now += seconds
        progress.update(step, 100 / step, 8 / seconds)


def steps_in(text):
    return [int(step) for step in re.findall(r"step (\d+)/", text)]


def screen(text):
    """The lines that a terminal shows after carriage returns."""
    lines = []
    for written in text.split("\n"):
        shown = ""
        for part in written.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_plain_lines_say_loss_speed_and_time_left(clock):
    stream = io.StringIO()
    with Progress(4, stream, True, clock=clock) as progress:
        take(progress, clock, [1, 2, 3, 4], 60.0)
    first, *_, last = stream.getvalue().splitlines()
    assert first == "step 1/4  loss 100  0.13 images/s  ETA 0:03:00"
    assert last == "step 4/4  loss 25  0.13 images/s  took 0:04:00"
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_plain_lines_are_limited_to_tenths_where_steps_are_quick(clock):
    stream = io.StringIO()
    with Progress(200, stream, True, clock=clock) as progress:
        take(progress, clock, range(1, 201), 0.001)
    assert steps_in(stream.getvalue()) == [1, *range(20, 201, 20)]


def test_plain_lines_come_by_time_where_steps_are_many(clock):
    stream = io.StringIO()
    with Progress(100_000, stream, True, interval=5.0, clock=clock) as progress:
        take(progress, clock, range(1, 25), 1.0)
        assert steps_in(stream.getvalue()) == [1, 6, 11, 16, 21]
    # A run that stops early still says how far it came.
    assert steps_in(stream.getvalue())[-1] == 24


def test_time_left_of_a_resumed_run_counts_its_own_steps(clock):
    stream = io.StringIO()
    with Progress(100, stream, True, done=90, clock=clock) as progress:
        take(progress, clock, [91], 2.0)
    assert "ETA 0:00:18" in stream.getvalue()


def test_time_left_follows_the_recent_steps(clock):
    stream = io.StringIO()
    progress = Progress(1000, stream, True, interval=0.0, clock=clock)
    take(progress, clock, range(1, 100), 10.0)
    take(progress, clock, range(100, 200), 1.0)
    progress.close()
    assert stream.getvalue().splitlines()[-1].endswith("ETA 0:13:21")


def test_messages_stand_on_their_own_line(clock):
    stream = io.StringIO()
    with Progress(2, stream, True, clock=clock) as progress:
        progress.message("saved [step 1]")
        take(progress, clock, [1], 1.0)
    assert stream.getvalue().splitlines()[0] == "saved [step 1]"


@pytest.mark.parametrize("stream", [io.StringIO(), FakeTerminal()])
def test_disabled_writes_nothing(stream, clock):
    with Progress(2, stream, False, clock=clock) as progress:
        progress.message("text")
        take(progress, clock, [1, 2], 1.0)
    assert stream.getvalue() == ""


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch, clock):
    monkeypatch.setenv("TERM", "dumb")
    with Progress(2, terminal, True, clock=clock) as progress:
        take(progress, clock, [1, 2], 1.0)
    assert len(terminal.getvalue().splitlines()) == 2
    assert "\x1b" not in terminal.getvalue()


def test_without_rich_one_line_is_redrawn(terminal, without_rich, clock):
    progress = Progress(3, terminal, True, clock=clock)
    take(progress, clock, [1, 2], 1.0)
    progress.message("saved")
    take(progress, clock, [3], 1.0)
    progress.close()
    assert screen(terminal.getvalue()) == [
        "saved",
        "step 3/3  loss 33.3333  8.00 images/s  took 0:00:03",
        "",
    ]


def test_without_rich_redrawing_is_limited_but_ends_up_to_date(terminal, without_rich, clock):
    with Progress(1000, terminal, True, clock=clock) as progress:
        take(progress, clock, range(1, 51), 0.01)
        assert len(steps_in(terminal.getvalue())) <= 6
    assert screen(terminal.getvalue())[0].startswith("step 50/1000")


def test_without_rich_a_narrow_terminal_is_not_wrapped(terminal, without_rich, monkeypatch, clock):
    monkeypatch.setenv("COLUMNS", "20")
    with Progress(2, terminal, True, clock=clock) as progress:
        take(progress, clock, [1, 2], 1.0)
    assert screen(terminal.getvalue()) == ["step 2/2  loss 50", ""]
    assert max(map(len, re.split("[\r\n]", terminal.getvalue()))) == 19


def test_rich_shows_all_and_leaves_the_terminal_clean(terminal, clock):
    pytest.importorskip("rich")
    with pytest.raises(KeyboardInterrupt), Progress(10, terminal, True, clock=clock) as progress:
        take(progress, clock, range(1, 8), 1.0)
        progress.message("saved [bold]step 7[/bold]")
        raise KeyboardInterrupt
    text = terminal.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "saved [bold]step 7[/bold]\n" in plain
    assert "7/10" in plain and "loss 14.2857" in plain and "8.00 images/s" in plain
    assert "ETA 0:00:03" in plain
    # The cursor that was hidden is shown again, and the last line is ended.
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert plain.endswith("\n")


def test_closing_twice_and_updating_later_does_nothing(terminal, clock):
    progress = Progress(3, terminal, True, clock=clock)
    take(progress, clock, [1], 1.0)
    progress.close()
    written = terminal.getvalue()
    progress.close()
    take(progress, clock, [2], 1.0)
    assert terminal.getvalue() == written
