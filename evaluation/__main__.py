"""The command line: `python -m evaluation run | replay | compare | report | calibrate`."""

import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from evaluation.cli import commands  # not at the top: the import takes a while, in which Ctrl-C must end orderly

    try:
        if signal.getsignal(signal.SIGINT) is _exit_at_once:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return commands.main(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("stopped: `python -m evaluation report DIR` builds the tables of an unfinished run\n")
        return 130


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    """End the process while it imports its modules: nothing was sent or written yet."""
    sys.stderr.write("stopped before anything was sent\n")
    sys.stderr.flush()
    os._exit(130)  # an exception could be swallowed by the code that is being imported


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _exit_at_once)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal with a small character set must not fail the command
    sys.exit(main())
