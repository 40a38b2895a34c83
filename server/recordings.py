"""Recordings of answers: what arrived from the provider and what left the strategy, as two traces for each answer."""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from streaming.clock import Clock
from streaming.errors import UsageError
from streaming.events import Event, TimedEvent
from streaming.pipeline import AnswerObserver, Receipt
from streaming.recording import CALLED_FIELD, DELIVERED_SUFFIX, SOURCE_SUFFIX
from streaming.trace import Probe, dumps

_log = logging.getLogger(__name__)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class AnswerRecorder:
    """Writes the traces of every answer of this service to a folder, under the answer's request id.

    The traces contain what the model wrote: recording is for whoever runs the service, and off by default.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        if not folder.is_dir():
            raise UsageError(f"RECORDINGS_DIR: {str(folder)!r} is not a folder (create it, or unset the variable)")
        self._folder, self._clock = folder, clock

    def record(self, observer: AnswerObserver, probe: Probe | None, about: Mapping[str, Any]) -> "RecordingObserver":
        """Return an observer that passes everything on to `observer` and writes the traces when the answer ends.

        `about` are the fields of the traces' header; its `request_id` names the files.
        """
        request_id = str(about["request_id"])
        stem = request_id if _FILE_NAME.fullmatch(request_id) else hashlib.sha256(request_id.encode()).hexdigest()
        return RecordingObserver(observer, probe or Probe(self._clock), self._folder / stem, about)


class RecordingObserver:
    """An observer of one answer that records it with a probe and passes everything on to another observer."""

    def __init__(self, observer: AnswerObserver, probe: Probe, path: Path, about: Mapping[str, Any]) -> None:
        self._observer, self._path, self._about = observer, path, about
        self.probe = probe

    def on_events(self, events: list[Event], now: float) -> None:
        """Pass the events on."""
        self._observer.on_events(events, now)

    def on_end(self, receipt: Receipt) -> None:
        """Write both traces, then pass the receipt on. A file that cannot be written is a line in the log."""
        try:
            self._write(SOURCE_SUFFIX, self.probe.source)
            self._write(DELIVERED_SUFFIX, self.probe.delivered)
        except OSError as error:
            _log.warning("recording: not written (%s)", error)
        self._observer.on_end(receipt)

    def _write(self, suffix: str, events: list[TimedEvent]) -> None:
        called_s = self.probe.called_s
        header = {**self._about, CALLED_FIELD: called_s}
        shifted = (replace(timed, at_s=timed.at_s - called_s) for timed in events)
        path, part = (self._path.with_name(self._path.name + end) for end in (suffix, f"{suffix}.part"))
        part.write_text(dumps(header, shifted), encoding="utf-8")
        part.replace(path)  # whoever finds a trace finds all of it
