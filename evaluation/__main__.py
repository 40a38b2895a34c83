"""The entry point of `python -m evaluation run | replay | compare | report | calibrate`."""

import sys

from evaluation import entry
from streaming.garbage import without_garbage_collection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command and return its exit code."""
    with without_garbage_collection():
        from evaluation.cli import commands  # not at the top: it takes a while, in which Ctrl-C must end orderly

    try:
        entry.raise_on_interrupt()
        return commands.main(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("stopped: `python -m evaluation report DIR` builds the tables of an unfinished run\n")
        return 130


if __name__ == "__main__":
    entry.prepare_process()
    sys.exit(main())
