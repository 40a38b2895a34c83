"""Downloads of a run: its tables and its report, made from the run as the results tab shows it.

No file of the server is sent, so that a download holds no path of this machine, and nothing that another program has
put into the run's folder. A link holds a ticket of the page that shows it, and is valid while that page is open.
"""

import asyncio
import json
import re
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Container, MutableMapping
from typing import Any, BinaryIO, cast

from evaluation import tables
from evaluation.reports.charts import build_charts
from evaluation.reports.html import render_html
from evaluation.reports.markdown import markdown
from streaming.errors import UsageError
from ui import strings
from ui.results.run_list import SAMPLE_ID, RunEntry, RunList, load_run
from ui.results.run_view import RunViews

MEDIA_TYPES = {
    "trials.csv": "text/csv; charset=utf-8",
    "trials.parquet": "application/vnd.apache.parquet",
    "events.parquet": "application/vnd.apache.parquet",
    "report.html": "text/html; charset=utf-8",
}
PATH = re.compile(
    rf"/runs/(?P<ticket>[A-Za-z0-9_-]{{22}})/(?P<run>{SAMPLE_ID}|[0-9a-f]{{16}})/"
    rf"(?P<file>{'|'.join(map(re.escape, MEDIA_TYPES))})"
)
MAX_WAITING = 4
"""Downloads that are made or wait at one time; further ones are rejected."""
_MAX_TICKETS = 4000
_CHUNK_BYTES = 256 * 1024
_SPOOL_BYTES = 8 * 2**20

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


class RunDownloads:
    """An ASGI application that sends the tables and the report of a run to pages in `sessions`."""

    def __init__(self, runs: RunList, views: RunViews, sessions: Container[str]) -> None:
        self._runs = runs
        self._views = views
        self._sessions = sessions
        self._tickets: dict[str, str] = {}
        """The tickets by session hash: a link must not contain the hash, with which anybody could act as the page."""
        self._waiting = 0

    def link(self, session_hash: str, run_id: str, name: str) -> str:
        """Return the address of a file of a run, relative to the page."""
        if len(self._tickets) > _MAX_TICKETS:
            self._tickets = {key: ticket for key, ticket in self._tickets.items() if key in self._sessions}
        ticket = self._tickets.setdefault(session_hash, secrets.token_urlsafe(16))
        return f"runs/{ticket}/{run_id}/{name}"

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        match = PATH.fullmatch(scope["path"])
        if match is None or not self._is_valid(match["ticket"]):
            await _send_error(send, 404, "Not Found")
            return
        if self._waiting >= MAX_WAITING:
            await _send_error(send, 503, strings.DOWNLOADS_BUSY, ((b"retry-after", b"5"),))
            return
        self._waiting += 1
        try:
            await self._send_file(match["run"], match["file"], send, with_body=scope["method"] != "HEAD")
        finally:
            self._waiting -= 1

    def _is_valid(self, ticket: str) -> bool:
        """Return whether a ticket is that of an open page."""
        owners = (key for key, known in self._tickets.items() if secrets.compare_digest(known, ticket))
        return any(owner in self._sessions for owner in owners)

    async def _send_file(self, run_id: str, name: str, send: Send, *, with_body: bool) -> None:
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as file:
            try:
                entry = await asyncio.to_thread(self._write_file, run_id, name, cast(BinaryIO, file))
            except UsageError as error:
                await _send_error(send, 422, str(error))
                return
            if entry is None:
                await _send_error(send, 404, "Not Found")
                return
            headers = _file_headers(f"{_file_stem(entry)}-{name}", name, file.tell())
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            file.seek(0)
            while with_body and (chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES)):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def _write_file(self, run_id: str, name: str, file: BinaryIO) -> RunEntry | None:
        """Write a file of a run; return the run, or None if there is none. Raises UsageError for a damaged run."""
        with self._views.reading:
            if (entry := self._runs.find(run_id)) is None:
                return None
            run = load_run(entry)
            if name == "report.html":
                file.write(render_html(markdown(run), build_charts(run)).encode())
            else:
                tables.write_table(name, run, file)
        return entry


def _file_stem(entry: RunEntry) -> str:
    """Return the start of a file's name: of the folder's name only what every system accepts."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", entry.folder.name)[:60].strip("-.")
    return stem or "run"


def _file_headers(title: str, name: str, size: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", MEDIA_TYPES[name].encode()),
        (b"content-length", str(size).encode()),
        (b"content-disposition", f'attachment; filename="{title}"'.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"private, no-store"),
    ]


async def _send_error(send: Send, status: int, detail: str, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
