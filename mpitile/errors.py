"""Exception types and the exit codes that they lead to."""

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_INPUT = 2
EXIT_SIGNAL = 3


class MpitileError(Exception):
    """Anything that mpitile itself reports to its user in one line."""

    exit_code = EXIT_FAILURE


class InputError(MpitileError):
    """Bad usage or bad input.

    The message names the file, line or key, what was expected and what came.
    """

    exit_code = EXIT_INPUT


class Stopped(MpitileError):
    """A signal asked the run to end; its state has been saved."""

    exit_code = EXIT_SIGNAL
