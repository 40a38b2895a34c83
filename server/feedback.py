"""Ratings of answers, which readers give with a thumb: one JSON line each, in a folder of whoever runs the service."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streaming.errors import UsageError

FILE_NAME = "feedback.jsonl"
MAX_BYTES = 64 * 2**20
"""The largest file of ratings; when it is full, further ratings are rejected until it is moved away."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_OWNER_ONLY = 0o600


class FeedbackStore:
    """Appends ratings to a file that its owner alone can read. Processes may share the folder."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(
                f"FEEDBACK_DIR: {str(folder)!r} is not a folder that can be written (create it, or unset the variable)"
            )
        self._path, self._max_bytes = folder / FILE_NAME, max_bytes

    def add(self, rating: Mapping[str, Any]) -> None:
        """Append a rating, in one write. Blocks. Raises OSError, also when the file is full."""
        line = json.dumps(rating, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        file = os.open(self._path, _FLAGS, _OWNER_ONLY)
        try:
            size = os.fstat(file).st_size
            if size + len(line) > self._max_bytes:
                raise OSError(f"{FILE_NAME} has reached {self._max_bytes:,} bytes (move it away)")
            if os.write(file, line) != len(line):
                os.ftruncate(file, size)
                raise OSError(f"{FILE_NAME} could not be written to its end (make room on the disk)")
        finally:
            os.close(file)
