"""Reads a server's metrics at an interval, and writes the readings to `server.jsonl` in the run's folder.

A process of its own does this (`python -m evaluation.server_metrics`): parsing a large response takes 50 ms, by which
the process that measures would be late.
"""

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from evaluation.backends.service_process import start_process
from evaluation.server_metrics.exposition import find_server, parse_exposition
from evaluation.server_metrics.readings import SERVER_FILE, Reading
from providers.http.client import ServiceConfig
from providers.http.errors import ServiceLabels
from settings import Settings
from streaming.clock import Clock, utc_now
from streaming.errors import UsageError
from streaming.http.proxies import proxy_for
from streaming.limits import size_text

SCRAPE_INTERVAL_S = 1.0
SCRAPE_TIMEOUT_S = 5.0
MAX_EXPOSITION_BYTES = 4 * 2**20
METRICS_PATH = "/metrics"
KEY_VARIABLE = "SCRAPE_KEY"
"""The variable with the API key of a scraped server, if it wants one."""
_FORMAT = {"Accept": "text/plain; version=0.0.4", "Accept-Encoding": "identity"}


class ScrapeError(UsageError):
    """A server's metrics cannot be read; the message says why, without the address."""


Fetch = Callable[[], Awaitable[str]]
"""Returns a server's metrics as text. Raises ScrapeError."""


class MetricsScraper:
    """Reads metrics and writes a line of the journal for each reading; `clock` has the event loop's timebase."""

    def __init__(self, fetch: Fetch, write: Callable[[str], object], clock: Clock) -> None:
        self._fetch, self._write, self._clock = fetch, write, clock
        self._last: dict[str, float] = {}

    async def run(self, interval_s: float = SCRAPE_INTERVAL_S) -> None:
        """Scrape until cancelled, at whole intervals after the first time; those that pass meanwhile are left out."""
        first_s = self._clock()
        while True:
            await self.scrape()
            due = math.floor((self._clock() - first_s) / interval_s + 1e-6) + 1
            await asyncio.sleep(first_s + due * interval_s - self._clock())

    async def scrape(self) -> None:
        """Read the metrics once and write the line."""
        at_s, at, error = self._clock(), utc_now(), None
        try:
            samples = _parse(await self._fetch())
        except ScrapeError as failure:
            samples, error = {}, str(failure)
        changed: dict[str, float | None] = {
            name: value for name, value in samples.items() if self._last.get(name) != value
        }
        changed |= dict.fromkeys(self._last.keys() - samples.keys() if error is None else ())
        self._last = samples
        self._write(Reading(at_s, at, self._clock() - at_s, changed, error).to_json_line())


def _parse(text: str) -> dict[str, float]:
    try:
        samples = parse_exposition(text)
    except Exception as error:  # the parser raises whatever its handling of the text meets
        raise ScrapeError(f"not in Prometheus's text format ({type(error).__name__})") from None
    if not samples:
        raise ScrapeError("no metrics in the response")
    return samples


def metrics_url(url: str) -> str:
    """Return the address of a server's metrics; that of a server alone gets the usual path."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=METRICS_PATH)) if parts.path in ("", "/") else url


@asynccontextmanager
async def open_fetch(url: str, settings: Settings) -> AsyncGenerator[Fetch, None]:
    """Yield a function that reads an address, through a proxy if the settings name one. Redirects are not followed."""
    labels, key = ServiceLabels("the scraped server", url, KEY_VARIABLE, "--scrape"), settings.get(KEY_VARIABLE)
    config = ServiceConfig(labels, proxy=proxy_for(url, settings.variables), certificates=settings.certificates)
    headers = _FORMAT | ({"Authorization": f"Bearer {key}"} if key else {})
    async with httpx2.AsyncClient(**config.client_kwargs(httpx2), headers=headers) as client:

        async def fetch() -> str:
            try:
                async with asyncio.timeout(SCRAPE_TIMEOUT_S):
                    return await _read_text(client, url)
            except TimeoutError:
                raise ScrapeError(f"no response in {SCRAPE_TIMEOUT_S:g} s") from None
            except (httpx2.HTTPError, OSError) as error:
                raise ScrapeError(str(error) or type(error).__name__) from None

        yield fetch


async def _read_text(client: httpx2.AsyncClient, url: str) -> str:
    async with client.stream("GET", url) as response:
        if response.is_redirect:
            target = urlsplit(response.headers.get("location", ""))
            raise ScrapeError(f"status {response.status_code}, a redirect to {target.netloc or 'another page'}")
        if response.status_code in (401, 403):
            words = f"set {KEY_VARIABLE} to the server's API key"
            raise ScrapeError(f"status {response.status_code}, the server refuses the key or wants one; {words}")
        if response.status_code != 200:
            raise ScrapeError(f"status {response.status_code}")
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MAX_EXPOSITION_BYTES:
                raise ScrapeError(f"a response larger than {size_text(MAX_EXPOSITION_BYTES)}")
    return body.decode(errors="replace")


async def check_server(url: str, settings: Settings) -> dict[str, Any]:
    """Read a server's metrics once; return the manifest's entry: the server, or the `problem` in words."""
    try:
        async with open_fetch(url, settings) as fetch:
            samples = _parse(await fetch())
    except ScrapeError as error:
        return {"url": url, "server": None, "problem": str(error)}
    return {"url": url, "server": find_server(samples), "problem": None}


@contextmanager
def scraping(url: str, folder: Path, settings: Settings) -> Iterator[None]:
    """Scrape a server into `SERVER_FILE` of a folder while the context is open.

    Raises UsageError when the process does not start.
    """
    command = [sys.executable, "-m", "evaluation.server_metrics", url, str((folder / SERVER_FILE).absolute())]
    with TemporaryDirectory() as log, start_process(command, Path(log, "words"), settings.variables):
        yield
