"""The latency that the service adds to an answer, compared with a bare relay between the same upstream and client.

The service has one core; the simulator, which is the upstream, and the client share the other. Streams of 50 chunks/s
are opened evenly over the first second, with the strategy `direct`, the meter and the output filter on, and the rate
limit off. All timestamps are on one clock: those that the upstream logged and those of the client's kernel.

`ttft_p99_ms` is the latency added to the first chunk: from the client's send to the upstream's receipt, plus from the
upstream's send to the client. `gap_p99_ms` is the inter-chunk latency at the client, `gap_added_p99_ms` its difference
from that at the upstream. CPU is of all threads of the relay, in microseconds per chunk; it includes opening the
streams. Memory is the peak during the load minus the resident memory before it. `busy` and `others_busy` are shares of
the relay's core and of the other one. If the simulator and the client saturated their core first or were late
(`late_p99_ms`), the benchmark reports that they were the limit, not the relay. `merged_reads` counts the client's reads
that may contain several sends, whose earlier timestamps are lost. Results are medians of the runs.

    python -m benchmarks.relay [--streams 64,150] [--saturating 32] [--runs 5]
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks._relay_metrics import compute_metrics, limiting_factor
from evaluation.backends.service_process import wait_for_local_model
from settings import Settings
from simulator.server import read_log
from streaming import sse
from streaming.clock import cpu_s
from streaming.http.connection import Origin
from streaming.http.timed_exchange import ExchangeTimeouts, TimedExchange
from streaming.http.timestamped_sockets import TimestampingSelector

_GAP_MS = 20
_CHUNKS = 250
_SATURATING_CHUNKS = 4000
_RAMP_S = 1.0
_UNLIMITED_ENV = {"RATE_LIMIT": "off", "OPENAI_API_KEY": "none"}
_SERVICE_CORE, _OTHER_CORE = 0, 1


@contextmanager
def _run_pinned(command: list[str], core: int, env: dict[str, str] | None = None) -> Iterator[tuple[str, int]]:
    """Run a server on one core, and yield the address that it prints and its pid."""

    def pin_to_core() -> None:
        if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
            os.sched_setaffinity(0, {core})

    environment = {**Settings.from_environment().variables, **(env or {})}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, preexec_fn=pin_to_core
    ) as process:
        assert process.stdout is not None  # it is a pipe
        try:
            yield process.stdout.readline().split()[-1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def _read_cpu_s(pid: int) -> float:
    """Return the CPU seconds of all threads so far, from the scheduler's counters in nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _read_memory_kb(pid: int, name: str) -> int:
    """Return a process's memory in KB: `VmRSS` is the current one, `VmHWM` the peak since its reset."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _reset_peak(pid: int) -> None:
    """Reset the memory peak, which may be higher from the start of the process."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _run_client(url: str, streams: int, batch: str) -> None:
    """Run as the client process, and print the arrival timestamps of each stream's chunks as JSON."""
    host, port = url.removeprefix("http://").split(":")

    async def stream_once(sockets: TimestampingSelector, number: int) -> dict[str, Any]:
        name = f"{batch}-{number}"
        body = json.dumps(
            {"message": f"Question {number}?", "provider": "openai:steady", "strategy": "direct"}
        ).encode()
        head = (
            f"POST /api/chat HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
            f"x-client-request-id: {name}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        await asyncio.sleep(number / streams * _RAMP_S)
        async with TimedExchange(
            sockets, Origin(host, int(port)), head.encode() + body, ExchangeTimeouts()
        ) as exchange:
            await exchange.wait_closed()
        decoder = sse.Decoder()
        came_s, done = [], False
        for read in exchange.reads:
            for event in decoder.feed(read.data):
                done = done or event.data == "[DONE]"
                if event.event == "message" and event.data.startswith('{"content"'):
                    came_s.append(read.at_s)
        if not done:
            raise RuntimeError(f"{name} did not end: {exchange.ending}, {len(came_s)} chunks")
        return {"name": name, "sent_s": exchange.sent_s, "came_s": came_s, "merged": exchange.merged_reads}

    async def run_streams() -> list[dict[str, Any]]:
        sockets = TimestampingSelector()
        try:
            return await asyncio.gather(*(stream_once(sockets, number) for number in range(streams)))
        finally:
            sockets.close()

    begun_s = cpu_s()
    rows = asyncio.run(run_streams())
    print(json.dumps({"rows": rows, "cpu_s": cpu_s() - begun_s}))


def _run_relay(relay: str, streams: int, chunks: int, gap_ms: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        log = str(Path(folder, "log.jsonl"))
        upstream = [sys.executable, "-m", "simulator", "--ttft-ms", "200", "--gap-ms", str(gap_ms)]
        upstream += ["--tokens", str(chunks), "--log", log]
        with _run_pinned(upstream, _OTHER_CORE) as (url, upstream_pid):
            commands = {
                "service": [sys.executable, "app.py", "--no-ui", "--port", "0"],
                "bare": [sys.executable, "-m", "benchmarks._baseline_relay", f"{url}/v1"],
            }
            with _run_pinned(commands[relay], _SERVICE_CORE, {**_UNLIMITED_ENV, "OPENAI_BASE_URL": f"{url}/v1"}) as (
                address,
                pid,
            ):
                if relay == "service":
                    wait_for_local_model(address)
                _run_client_process(address, 2, "warm")
                _reset_peak(pid)
                before_s, others_s, before_kb = (
                    _read_cpu_s(pid),
                    _read_cpu_s(upstream_pid),
                    _read_memory_kb(pid, "VmRSS"),
                )
                output = _run_client_process(address, streams, "run")
                used_s, grown_kb = _read_cpu_s(pid) - before_s, _read_memory_kb(pid, "VmHWM") - before_kb
                others_s = _read_cpu_s(upstream_pid) - others_s + output["cpu_s"]
        return compute_metrics(output["rows"], read_log(log), used_s, others_s, grown_kb)


def _run_client_process(address: str, streams: int, batch: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.relay",
        "--client",
        address,
        "--streams",
        str(streams),
        "--batch",
        batch,
    ]
    if (os.cpu_count() or 1) > 1:
        command = ["taskset", "-c", str(_OTHER_CORE), *command]
    data: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return data


def main() -> None:
    """Print lines for each load and relay, and all results as JSON in the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--streams", default="64,150", help="concurrent streams of 50 chunks/s (64,150)")
    parser.add_argument("--saturating", default="32", help="concurrent streams without gaps (32)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--relays", default="service,bare")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.client:
        _run_client(parsed.client, int(parsed.streams), parsed.batch)
        return
    loads = [(int(n), _CHUNKS, _GAP_MS) for n in parsed.streams.split(",") if n]
    loads += [(int(n), _SATURATING_CHUNKS, 0) for n in parsed.saturating.split(",") if n]
    results = []
    for streams, chunks, gap_ms in loads:
        result = _run_and_take_medians(parsed.relays.split(","), parsed.runs, streams, chunks, gap_ms)
        kind = f"{streams:4} streams" + ("" if gap_ms else ", no gaps")
        for relay, measured in result.items():
            print(f"{kind} {relay:8}" + ", ".join(f"{n} {v:g}" for n, v in measured.items()), flush=True)
            print(f"{kind} {relay:8}{limiting_factor(measured, gap_ms)}", flush=True)
        results.append({"streams": streams, "gap_ms": gap_ms, **result})
        if {"service", "bare"} <= set(result):
            bare = result["bare"]
            ratios = {n: round(v / bare[n], 3) for n, v in result["service"].items() if bare[n]}
            results[-1]["service/bare"] = ratios
            print(f"{kind} ratio   " + ", ".join(f"{n} {v:g}" for n, v in ratios.items()), flush=True)
    print(json.dumps({"benchmark": "relay", "results": results}))


def _run_and_take_medians(
    relays: list[str], times: int, streams: int, chunks: int, gap_ms: int
) -> dict[str, dict[str, float]]:
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(times):
        for relay in relays:
            runs[relay].append(_run_relay(relay, streams, chunks, gap_ms))
    return {r: {n: statistics.median(row[n] for row in rows) for n in rows[0]} for r, rows in runs.items()}


if __name__ == "__main__":
    main()
