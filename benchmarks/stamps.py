"""How true the stamps are: arrivals by this project's sockets and by the OpenAI SDK, against the simulator's own log.

Each way is a process of its own that opens all streams in one burst (64 tokens, 20 ms apart) and notes when each token
came. Errors are absolute values in milliseconds, on the clock that both processes share: `ttft` is where the client
puts the first token (when it sent the request, plus its TTFT) against when the server sent it; `gap` is the time
between two tokens against the same two in the log. `queue` is the client's own wait before it sent (for the SDK, which
shows nothing before, from its call to the request's arrival), `heard` from there until the server had read the request:
its own queue. CPU is of the client alone, opening and decoding included, imports not.

    python -m benchmarks.stamps [--streams 64,256] [--tls]
"""

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from time import monotonic, process_time
from typing import Any

from providers import Providers
from providers.stamped import ask
from settings import Settings
from simulator.certificate import self_signed
from simulator.server import read_log
from streaming.events import Finish, TextDelta
from streaming.messages import ChatRequest, Message
from streaming.priority import take_real_time_priority
from streaming.sockets import Sockets

_TOKENS = 64
_QUESTION = "How late are your stamps?"


@dataclass(frozen=True, slots=True)
class Noted:
    """What a client noted of one stream; seconds on CLOCK_MONOTONIC."""

    request_id: str
    called_s: float
    sent_s: float | None
    tokens_s: list[float]
    merged: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One way's figures, as the module's text tells them."""

    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    queue_p99_ms: float
    heard_p99_ms: float | None
    merged_reads: int
    cpu_s_per_1000: float
    peak_mb: float


async def _ours(base_url: str, ca_file: str, streams: int) -> list[Noted]:
    settings = Settings({"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none", "SSL_CERT_FILE": ca_file})
    providers = Providers(settings)
    route = providers.route("openai:steady")
    adapter: Any = route.adapter
    prepared = await adapter.prepare(ChatRequest((Message("user", _QUESTION),), model=route.model))
    sockets = Sockets()

    async def one(number: int) -> Noted:
        asked = await ask(sockets, prepared, f"ours-{streams}-{number}")
        exchange = asked.exchange
        if not isinstance(asked.events[-1].event, Finish):
            raise RuntimeError(f"a stream failed: {asked.events[-1].event}")
        if exchange.stamp_source != "kernel":
            raise RuntimeError("the kernel does not stamp here")
        tokens_s = [timed.at_s for timed in asked.events if isinstance(timed.event, TextDelta)]
        return Noted(f"ours-{streams}-{number}", exchange.queued_s, exchange.sent_s, tokens_s, exchange.merged_reads)

    noted = await asyncio.gather(*map(one, range(streams)))
    sockets.close()
    await providers.aclose()
    return noted


async def _sdk(base_url: str, ca_file: str, streams: int) -> list[Noted]:
    import ssl

    import httpx2
    import openai

    verify = ssl.create_default_context(cafile=ca_file) if ca_file else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx2.Limits(max_connections=None)
    http = httpx2.AsyncClient(limits=limits, verify=verify, trust_env=False, timeout=None)
    client = openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0, http_client=http)

    async def one(number: int) -> Noted:
        request_id = f"sdk-{streams}-{number}"
        called_s = monotonic()
        stream = await client.chat.completions.create(
            model="steady",
            messages=[{"role": "user", "content": _QUESTION}],
            stream=True,
            extra_headers={"X-Client-Request-Id": request_id},
        )
        tokens_s = [monotonic() async for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
        return Noted(request_id, called_s, None, tokens_s)

    noted = await asyncio.gather(*map(one, range(streams)))
    await client.close()
    return noted


_WAYS: dict[str, Callable[[str, str, int], Awaitable[list[Noted]]]] = {"ours": _ours, "sdk": _sdk}


def _client(way: str, base_url: str, ca_file: str, streams: int) -> None:
    """Be a client process: print what was noted, and what it cost."""

    async def run() -> tuple[list[Noted], float]:
        await _WAYS[way](base_url, ca_file, 1)  # imports, and what an SDK builds once
        take_real_time_priority()
        gc.collect()
        gc.freeze()  # walking through what the imports left takes tens of milliseconds, in which nothing is read
        begun_s = process_time()
        return await _WAYS[way](base_url, ca_file, streams), process_time() - begun_s

    noted, cpu_s = asyncio.run(run())
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"cpu_s": cpu_s, "peak_mb": peak_mb, "noted": [asdict(row) for row in noted]}))


def _measure(way: str, streams: int, tls: bool) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        log, ca_file = str(Path(folder, "log.jsonl")), ""
        command = [sys.executable, "-m", "simulator", "--tokens", str(_TOKENS), "--gap-ms", "20", "--log", log]
        if tls:
            ca_file, key = self_signed(Path(folder))
            command += ["--tls-cert", ca_file, "--tls-key", key]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None  # it is a pipe
            url = process.stdout.readline().split()[-1]
            own = [sys.executable, "-m", "benchmarks.stamps", "--client", way, "--url", f"{url}/v1"]
            try:
                more = ["--ca-file", ca_file, "--streams", str(streams)]
                said = subprocess.run([*own, *more], capture_output=True, text=True, check=True).stdout
            finally:
                process.terminate()
        result = json.loads(said.splitlines()[-1])
        return _compared(result, read_log(log))


def _compared(result: dict[str, Any], log: list[dict[str, Any]]) -> Found:
    received_s: dict[str, float] = {}
    sent_s: dict[str, dict[int, float]] = defaultdict(dict)
    for line in log:
        if line["event"] == "received":
            received_s[line["request_id"]] = line["at_s"]
        elif "seq" in line:
            sent_s[line["request_id"]][line["seq"]] = line["at_s"]
    ttft_ms: list[float] = []
    gap_ms: list[float] = []
    queue_ms: list[float] = []
    heard_ms: list[float] = []
    for row in result["noted"]:
        name, tokens_s = row["request_id"], row["tokens_s"]
        true_s = [at_s for _, at_s in sorted(sent_s[name].items())]
        if len(true_s) != len(tokens_s):
            raise RuntimeError(f"{name}: {len(tokens_s)} tokens came of {len(true_s)}")
        ttft_ms.append(abs(tokens_s[0] - true_s[0]) * 1000)
        pairs = zip(pairwise(tokens_s), pairwise(true_s), strict=True)
        gap_ms += [abs((b - a) - (d - c)) * 1000 for (a, b), (c, d) in pairs]
        queue_ms.append(((row["sent_s"] or received_s[name]) - row["called_s"]) * 1000)
        heard_ms += [(received_s[name] - row["sent_s"]) * 1000] if row["sent_s"] else []
    tokens = sum(len(row["tokens_s"]) for row in result["noted"])
    return Found(
        ttft_p50_ms=_share(ttft_ms, 0.5),
        ttft_p99_ms=_share(ttft_ms, 0.99),
        gap_p50_ms=_share(gap_ms, 0.5),
        gap_p99_ms=_share(gap_ms, 0.99),
        queue_p99_ms=_share(queue_ms, 0.99),
        heard_p99_ms=_share(heard_ms, 0.99) if heard_ms else None,
        merged_reads=sum(row["merged"] for row in result["noted"]),
        cpu_s_per_1000=round(result["cpu_s"] / tokens * 1000, 4),
        peak_mb=round(result["peak_mb"], 1),
    )


def _share(values: list[float], share: float) -> float:
    return round(sorted(values)[int(share * (len(values) - 1))], 4)


def main() -> None:
    """Print a line for each way and number of streams, and all as JSON in the last."""
    parser = argparse.ArgumentParser("python -m benchmarks.stamps", description=__doc__)
    parser.add_argument("--streams", default="64,256", help="how many at once")
    parser.add_argument("--tls", action="store_true", help="over TLS, with a certificate made for the run")
    parser.add_argument("--client", choices=_WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--ca-file", default="", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.client:
        _client(parsed.client, parsed.url, parsed.ca_file, int(parsed.streams))
        return
    results: list[dict[str, Any]] = []
    for streams in map(int, parsed.streams.split(",")):
        found = {way: asdict(_measure(way, streams, parsed.tls)) for way in _WAYS}
        for way, figures in found.items():
            print(f"{streams:4} {way:5}" + ", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
        ratios = {name: round(found["ours"][name] / value, 5) for name, value in found["sdk"].items() if value}
        results.append({"streams": streams, **found, "ours/sdk": ratios})
    print(json.dumps({"benchmark": "stamps", "tls": parsed.tls, "results": results}))


if __name__ == "__main__":
    main()
