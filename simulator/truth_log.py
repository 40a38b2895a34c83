"""The log of the events that were actually sent, in JSON lines with CLOCK_MONOTONIC times in seconds.

    {"request_id": …, "event": "received", "at_s": …, "wire": …, "path": …, "streamed": …, "model": …, "fault": …, …}
    {"request_id": …, "event": "sent", "seq": 0, "at_s": …, "due_s": …, "took_s": …}
    {"request_id": …, "event": "sent", "kind": "usage", "at_s": …, "due_s": …, "took_s": …}
    {"request_id": …, "event": "closed", "at_s": …, "by": "server", "how": "complete"}

Lines are buffered and written in idle time. `received` is the time at which the request was completely
read, which is time zero of its schedule. `sent` is one event: `at_s` is the timestamp directly before the system call
that accepted its last byte, `took_s` is the duration of that call, and `due_s` is the scheduled time. Text deltas have
a `seq`, counted from 0, and no `kind`; a healthy answer in one piece has `seq` 0. All other events have a `kind` (head,
start, role, thinking, block, ping, finish, usage, end, error, fault, body, last-chunk) and no `seq`. Events that are
due at the same time are sent in one call and share its timestamp. `closed` is logged once at the end of an answer: `by`
is client (with `how` left) or server (with `how` complete, cut, reset or shutdown). A kept-alive connection may serve
further answers afterwards.
"""

import json
import os
from typing import Any

_SLICE_LINES = 400


class TruthLog:
    """A log that buffers lines in memory until `write` is called. Without a `path` it discards them."""

    def __init__(self, path: str | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if path else None
        self._lines: list[str] = []

    def log_received(self, request_id: str, at_s: float, **facts: Any) -> None:
        self._add_line({"request_id": request_id, "event": "received", "at_s": round(at_s, 7), **facts})

    def log_sent(self, name: str, mark: str, at_s: float, due_s: float, took_s: float) -> None:
        """Log one event on the hot path. `name` is the request ID as JSON, and `mark` is the `seq` or `kind` field."""
        if self._file is not None:
            self._lines.append(
                f'{{"request_id":{name},"event":"sent",{mark},'
                f'"at_s":{at_s:.7f},"due_s":{due_s:.7f},"took_s":{took_s:.7f}}}\n'
            )

    def log_closed(self, request_id: str, at_s: float, by: str, how: str) -> None:
        self._add_line({"request_id": request_id, "event": "closed", "at_s": round(at_s, 7), "by": by, "how": how})

    def write(self, everything: bool = False) -> None:
        """Write buffered lines: one small slice, or all of them if `everything` is set."""
        if self._file is None:
            return
        while self._lines:
            count = len(self._lines) if everything else _SLICE_LINES
            data = "".join(self._lines[:count]).encode()
            del self._lines[:count]
            while data:
                data = data[os.write(self._file, data) :]
            if not everything:
                return

    def close(self) -> None:
        """Flush the buffer and close the file. Later events are discarded."""
        self.write(everything=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _add_line(self, fields: dict[str, Any]) -> None:
        if self._file is not None:
            self._lines.append(json.dumps(fields, separators=(",", ":")) + "\n")
