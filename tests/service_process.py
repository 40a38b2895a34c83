"""The service as the process that people start, without its page."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
STOP_TIMEOUT_S = 45.0
"""A timeout longer than the service's grace period for answers under way."""


@contextmanager
def run_service_process(*arguments: str, **variables: str) -> Iterator[str]:
    """Start `python app.py --no-ui` on a free port, yield its URL, and stop it with SIGINT.

    Without a rate limit and budgets, unless `variables` set them.
    """
    with service_with_pid(*arguments, **variables) as (url, _):
        yield url


@contextmanager
def service_with_pid(*arguments: str, **variables: str) -> Iterator[tuple[str, int]]:
    """Do the same, and yield the URL and the process id."""
    command = [sys.executable, "app.py", "--no-ui", "--port", "0", *arguments]
    environment = {**os.environ, "RATE_LIMIT": "off", "BUDGETS": "off", **variables}
    with tempfile.TemporaryFile("w+") as problems:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=problems, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            line = process.stdout.readline()
            try:
                match = re.search(r"http://\S+", line)
                problems.seek(0)
                assert match, f"no address in {line!r}: {problems.read()}"
                yield match[0], process.pid
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    code = process.wait(STOP_TIMEOUT_S)
                finally:
                    process.kill()
        problems.seek(0)
        output = problems.read()
        assert code in (0, -signal.SIGTERM), output
        assert "Traceback" not in output, output
