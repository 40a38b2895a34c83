"""The service over the simulator, whose log records what happened to each request, and plain clients."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from providers import ProviderRegistry
from providers.models.pricing import TokenPrices
from settings import Settings
from tests.asgi_server import UNLIMITED_VARIABLES, serve_providers
from tests.simulator_process import run_simulator_process


class ProvidersWithoutModel(ProviderRegistry):
    """All providers, without loading the model at the start."""

    def preload_local_model(self) -> None:
        """Nothing to load."""


class SimulatorWithLog:
    """A simulator and its log; `request_id` is the value of X-Client-Request-Id."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log

    def make_providers(self) -> ProviderRegistry:
        """Return providers whose `openai` is the simulator; `openai:steady` costs 1 USD per output token."""
        settings = Settings({"OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_API_KEY": "k"})
        return ProvidersWithoutModel(settings, prices={"openai:steady": TokenPrices(Decimal(0), Decimal(1_000_000))})

    def events_of_request(self, request_id: str, name: str) -> list[dict[str, Any]]:
        """Return the log's records of one request."""
        return [e for e in self._read_events() if (e["request_id"], e["event"]) == (request_id, name)]

    def count_open(self) -> int:
        """Return the number of answers under way."""
        names = [event["event"] for event in self._read_events()]
        return names.count("received") - names.count("closed")

    def _read_events(self) -> Iterator[dict[str, Any]]:
        whole_lines = self._log.read_bytes().rpartition(b"\n")[0].splitlines()
        return map(json.loads, whole_lines)


@contextmanager
def run_simulator(*arguments: str) -> Iterator[SimulatorWithLog]:
    """Run a simulator with a log."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "truth.jsonl")
        with run_simulator_process("--log", str(log), *arguments) as url:
            yield SimulatorWithLog(url, log)


@asynccontextmanager
async def serve_simulator(
    simulator: SimulatorWithLog, variables: Mapping[str, str] = UNLIMITED_VARIABLES
) -> AsyncIterator[int]:
    """Run the service over the simulator in this event loop, and yield its port."""
    async with serve_providers(simulator.make_providers(), variables) as port:
        yield port


class SentRequest:
    """A connection on which one request was sent; the response is not read yet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def drop(self) -> None:
        """Go without a word, as a closed laptop's system does."""
        self.writer.transport.abort()

    async def read_rest(self) -> bytes:
        """Read the rest, unparsed, until the server closes."""
        result = await self.reader.read()
        self.writer.close()
        await self.writer.wait_closed()
        return result

    async def read_response(self) -> tuple[int, dict[str, str], bytes]:
        """Read to the end: the status, the headers, the body unchunked. The connection must close then."""
        head, _, body = (await self.read_rest()).partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
        if headers.get("transfer-encoding") == "chunked":
            body = _decode_chunked(body)
        return int(lines[0].split()[1]), headers, body


async def send_request(
    port: int, path: str, body: Any = None, *, method: str = "POST", headers: Mapping[str, str] | None = None
) -> SentRequest:
    """Send one request with `Connection: close`; a body that is not bytes is sent as JSON."""
    payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields = {"host": "localhost", "connection": "close", "content-type": "application/json", **(headers or {})}
    if "transfer-encoding" not in fields:
        fields.setdefault("content-length", str(len(payload)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join(lines).encode("latin-1") + payload)
    return SentRequest(reader, writer)


async def scrape_metrics(port: int) -> dict[str, float]:
    """Return the samples of /metrics by name and labels."""
    _, _, body = await (await send_request(port, "/metrics", method="GET")).read_response()
    lines = [line for line in body.decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def count_open_streams(metrics: Mapping[str, float]) -> float:
    """Return the number of answers under way according to /metrics."""
    return sum(value for name, value in metrics.items() if name.startswith("streamgauge_streams_open{"))


def _decode_chunked(body: bytes) -> bytes:
    result = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        result += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return result
