"""The entry point of `python -m evaluation.load_test run | report | capacity | calibrate | soak`."""

import signal
import sys

from evaluation import entry
from streaming.garbage import without_garbage_collection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command and return its exit code; 130 when a signal stopped it."""
    with without_garbage_collection():
        from evaluation.load_test import commands  # not at the top: the import takes a while

    try:
        entry.raise_on_interrupt()
        return commands.main(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("stopped: `python -m evaluation.load_test report DIR` reports the answers so far\n")
        return 130


if __name__ == "__main__":
    entry.prepare_process()
    from evaluation.load_test.locust_run import raise_terminated

    signal.signal(signal.SIGTERM, raise_terminated)
    sys.exit(main())
