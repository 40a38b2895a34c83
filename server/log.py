"""Structured logs: one JSON object a line on the standard error, no prompt and no key in any."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object; `masked` takes secrets out of whatever text there is."""

    def __init__(self, masked: Callable[[str], str]) -> None:
        super().__init__()
        self._masked = masked

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return self._masked(json.dumps(fields, default=str, ensure_ascii=False, separators=(",", ":")))


def configure(masked: Callable[[str], str]) -> None:
    """Send all logs of this process to the standard error as JSON lines: answers as they end, other rooms' warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(masked))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("streamgauge").setLevel(logging.INFO)
