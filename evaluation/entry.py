"""The start of a command line: Ctrl-C ends it with one line, also while its modules are imported, which takes a while.

Only modules that load in a few milliseconds are imported here, since until then Ctrl-C ends in a traceback.
"""

import io
import os
import signal
import sys


def prepare_process() -> None:
    """Handle Ctrl-C from now on, and let no character that a terminal lacks fail the command."""
    signal.signal(signal.SIGINT, _exit_at_once)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt once the modules are imported; a shell's background jobs ignore it at first.

    A process that `prepare_process` did not prepare keeps its handler.
    """
    if signal.getsignal(signal.SIGINT) is _exit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit_at_once(*_: object) -> None:
    sys.stderr.write("stopped before anything was sent\n")
    sys.stderr.flush()
    os._exit(130)  # an exception could be swallowed by the code that is being imported
