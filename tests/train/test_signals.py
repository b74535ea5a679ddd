"""Signals are noted whenever they come, and mean what they meant before afterwards."""

import signal
import sys
import threading

from launch import run

from mpitile.train.signals import stop_signals

# A second signal comes at each line that is run while the first is being noted.
_BETWEEN = """
import signal, sys
from mpitile.train.signals import stop_signals

left = 100

def trace(frame, event, argument):
    global left
    if left:
        left -= 1
        signal.raise_signal(signal.SIGINT)
    return trace

with stop_signals() as wanted:
    sys.settrace(trace)
    signal.raise_signal(signal.SIGTERM)
    sys.settrace(None)
    assert wanted()
"""


def test_a_signal_while_another_is_being_noted():
    result = run([sys.executable, "-c", _BETWEEN], timeout=30)
    assert result.code == 0, result


def test_each_signal_is_noted_and_means_what_it_did_afterwards():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        before = signal.getsignal(number)
        with stop_signals() as wanted:
            assert not wanted()
            signal.raise_signal(number)
            assert wanted()
        assert signal.getsignal(number) is before


def test_off_the_main_thread_nothing_is_noted():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def work():
        with stop_signals() as wanted:
            found.append((wanted(), signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, True)]
