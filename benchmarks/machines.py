"""Start every command on unusual machines, and check that it works or says in one line what it needs.

    python -m benchmarks.machines [CONDITION …]

The conditions: a network with nothing but loopback, a read-only file system without a home, a user without a name, the
C locale, 64 open files, no temporary folder, no home, and proxies and certificates that no library can use. Linux
only; the first three need `unshare` and the right to use it, and are named as not tried where the system refuses. Exit
code 1 if a command fails without a word of its own.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 240.0
POLL_INTERVAL_S = 0.1
_READ_ONLY = (
    'for place in /tmp /var/tmp "$HOME" "$PWD"; do mount --bind "$place" "$place"; mount -o remount,ro,bind "$place"; '
    'done; mount -o remount,ro,bind /; cd "$PWD"; unset HOME; exec "$@"'
)


@dataclass(frozen=True, slots=True)
class Condition:
    """What is unusual: a command that runs another one, and changed variables (None removes one)."""

    wrapper: tuple[str, ...] = ()
    variables: Mapping[str, str | None] | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment of a command."""
        changed: dict[str, str | None] = {**os.environ, **(self.variables or {})}
        return {name: value for name, value in changed.items() if value is not None}


CONDITIONS = {
    "loopback only": Condition(("unshare", "-n", "--", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")),
    "read-only": Condition(("unshare", "-m", "--", "sh", "-c", _READ_ONLY, "sh")),
    "no user name": Condition(("unshare", "-U", "--map-user=54321", "--map-group=54321", "--"), {"HOME": None}),
    "C locale": Condition((), {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "64 files": Condition(("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")),
    "no TMPDIR": Condition((), dict.fromkeys(("TMPDIR", "TEMP", "TMP"), "/nonexistent")),
    "no home": Condition((), {"HOME": "/nonexistent", "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None}),
    "strange variables": Condition(
        (),
        {
            "HTTP_PROXY": "ftp://proxy.example",
            "HTTPS_PROXY": "http://[::1",
            "ALL_PROXY": "socks5://",
            "NO_PROXY": "[::1,*.example:port,bücher.example,fd00::/8",
            "SSL_CERT_FILE": "/nonexistent/ca.pem",
            "SSL_CERT_DIR": "/nonexistent/certs",
        },
    ),
}
SERVERS = {
    "page": ("app.py", "--port", "0"),
    "service": ("app.py", "--no-ui", "--port", "0"),
    "simulator": ("-m", "simulator"),
}
_RUN = ("run", "--no-plots", "--out")
RUNS = {
    "evaluation": ("-m", "evaluation", *_RUN, "OUT", "--providers", "sim:steady", "--prompt-count", "1"),
    "load test": ("-m", "evaluation.load_test", *_RUN, "OUT", "--users", "2", "--duration", "2s"),
}
COMMANDS = {"providers": ("-m", "providers")}
_VERDICT_CODES = (0, 1, 4)
"""The exit codes of a run that was carried out."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a command: whether it is right, and a line that says so."""

    is_right: bool
    text: str


def try_server(condition: Condition, arguments: tuple[str, ...]) -> Attempt:
    """Start a server and stop it again once it has printed its address."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        command = [*condition.wrapper, sys.executable, *arguments]
        with subprocess.Popen(command, cwd=ROOT, env=condition.environment(), stdout=said, stderr=errors) as process:
            deadline_s = time.monotonic() + START_TIMEOUT_S
            while process.poll() is None and "http://" not in _read(said) and time.monotonic() < deadline_s:
                time.sleep(POLL_INTERVAL_S)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        return Attempt(True, "starts") if "http://" in _read(said) else _explain(_read(errors))


def try_run(condition: Condition, arguments: tuple[str, ...], folder: Path) -> Attempt:
    """Carry out a run to its end."""
    command = [*condition.wrapper, sys.executable, *(str(folder) if word == "OUT" else word for word in arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=condition.environment(), capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode in _VERDICT_CODES and (folder / "report.md").exists():
        return Attempt("Traceback" not in done.stderr, "runs")
    return _explain(done.stderr)


def try_command(condition: Condition, arguments: tuple[str, ...]) -> Attempt:
    """Carry out a command that writes no file."""
    command = [*condition.wrapper, sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=condition.environment(), capture_output=True, text=True, check=False, errors="replace"
    )
    return Attempt(True, "runs") if done.returncode == 0 and done.stdout else _explain(done.stderr)


def _explain(errors: str) -> Attempt:
    """Return an attempt that failed: it is right if the last line of stderr is an error in words, and no traceback."""
    last = (errors.strip().splitlines() or [""])[-1]
    return Attempt(last.startswith("error: ") and "Traceback" not in errors, last)


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def is_possible(condition: Condition) -> bool:
    """Return whether this system lets a command run under a condition."""
    tried = subprocess.run(
        [*condition.wrapper, "true"], cwd=ROOT, env=condition.environment(), capture_output=True, check=False
    )
    return tried.returncode == 0


def main(names: list[str]) -> int:
    """Try every command under the named conditions, or all; print a line for each, and the result as JSON."""
    wrong: list[str] = []
    for name in names or CONDITIONS:
        condition = CONDITIONS[name]
        if not is_possible(condition):
            print(f"{name}: not tried, because this system does not allow it")
            continue
        for command, attempt in _attempts(condition).items():
            result = attempt()
            print(f"{name}: {command}: {result.text}", flush=True)
            if not result.is_right:
                wrong.append(f"{name}: {command}")
    print(json.dumps({"wrong": wrong}))
    return 1 if wrong else 0


def _attempts(condition: Condition) -> dict[str, Callable[[], Attempt]]:
    def run_in_new_folder(arguments: tuple[str, ...]) -> Attempt:
        with tempfile.TemporaryDirectory() as folder:
            return try_run(condition, arguments, Path(folder, "run"))

    servers = {name: partial(try_server, condition, words) for name, words in SERVERS.items()}
    commands = {name: partial(try_command, condition, words) for name, words in COMMANDS.items()}
    return {**servers, **commands, **{name: partial(run_in_new_folder, words) for name, words in RUNS.items()}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
