"""The log of what was really sent, when: JSON lines, times in seconds on CLOCK_MONOTONIC, written when there is time.

    {"request_id": …, "event": "received", "at_s": …, "wire": …, "path": …, "streamed": …, "model": …, "fault": …, …}
    {"request_id": …, "event": "sent", "seq": 0, "at_s": …, "due_s": …, "took_s": …}
    {"request_id": …, "event": "sent", "kind": "usage", "at_s": …, "due_s": …, "took_s": …}
    {"request_id": …, "event": "closed", "at_s": …, "by": "server", "how": "complete"}

`received` is the moment at which the whole request had been read: the zero of its schedule. `sent` stands for one
event: `at_s` is read directly before the system call that took its last byte, `took_s` is how long that call took,
`due_s` is when the schedule wanted it. Text deltas have a `seq`, from 0, and no `kind`, and so has a healthy answer in
one piece, `seq` 0. Every other send has a `kind` (head, start, role, thinking, block, ping, finish, usage, end, error,
fault, body, last-chunk) and no `seq`. Events that are due at one moment go out in one call and share its stamp.
`closed` is the end of one answer, said once: `by` is client (it left; `how` is left) or server (`how` is complete,
cut, reset or shutdown). A kept-alive connection may carry further answers after it.
"""

import json
import os
from typing import Any

_SLICE_LINES = 400


class TruthLog:
    """Lines wait in memory until `write` is called; nothing is kept without a `path`."""

    def __init__(self, path: str | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if path else None
        self._lines: list[str] = []

    def log_received(self, request_id: str, at_s: float, **facts: Any) -> None:
        self._add_line({"request_id": request_id, "event": "received", "at_s": round(at_s, 7), **facts})

    def log_sent(self, name: str, mark: str, at_s: float, due_s: float, took_s: float) -> None:
        """Note one event. `name` is the request id as JSON and `mark` the `seq` or `kind` field: the hot path."""
        if self._file is not None:
            self._lines.append(
                f'{{"request_id":{name},"event":"sent",{mark},'
                f'"at_s":{at_s:.7f},"due_s":{due_s:.7f},"took_s":{took_s:.7f}}}\n'
            )

    def log_closed(self, request_id: str, at_s: float, by: str, how: str) -> None:
        self._add_line({"request_id": request_id, "event": "closed", "at_s": round(at_s, 7), "by": by, "how": how})

    def write(self, everything: bool = False) -> None:
        """Write what waits: one slice that costs little time, or everything."""
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
        """Write everything; nothing is noted afterwards."""
        self.write(everything=True)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _add_line(self, fields: dict[str, Any]) -> None:
        if self._file is not None:
            self._lines.append(json.dumps(fields, separators=(",", ":")) + "\n")
