"""The error and the cost of `python -m evaluation run`, compared with a plain client of the OpenAI SDK.

A server sends 64 tokens, 20 ms apart, to streams that open in one burst, and logs each send; both processes read the
same clock. `ttft` and `gap` are errors of these latencies against that log (see `evaluation.calibration.model`). `cpu`
is the CPU time of the whole command, including tables and report, minus that of the same command with a single answer.
`start` is the time from the command's start to its first request, minus that of an `import openai` just before. `peak`
is the peak memory at the end of the load. The SDK's client iterates its stream and takes a timestamp for each chunk;
its CPU time excludes imports.

    python -m benchmarks.instrument [--streams 64,256] [--truth simulator|independent]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, process_time
from typing import Any

from evaluation import manifest
from evaluation.calibration.model import CalibrationRow, ObservedAnswer, compare_with_log
from evaluation.schema import read_events, read_trials
from simulator.server import read_log
from streaming.os_limits import set_realtime_priority

TOKENS, GAP_MS = 64, 20
_QUESTION = "How late are your timestamps?"
_SERVERS = {
    "simulator": ("simulator", "--tokens", str(TOKENS), "--gap-ms", str(GAP_MS), "--log"),
    "independent": ("benchmarks._reference_server",),
}
LIMITS: dict[str, dict[int, float]] = {
    "ttft_p99_ms": {64: 1.0, 256: 2.0},
    "gap_p99_ms": {64: 1.0, 256: 1.0},
    "cpu_s_per_1000_chunks": {256: 0.10},
    "start_s": {64: 1.0, 256: 1.0},
    "peak_mb": {256: 150.0},
}
"""Upper bounds on a machine with two cores, by number of streams; other numbers have none."""


@dataclass(frozen=True, slots=True)
class ClientResult:
    """The metrics of one client, as the module's docstring defines them."""

    answers: int
    failed: int
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    merged_reads: int
    cpu_s_per_1000_chunks: float
    start_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """The resources that a child process used, and its stdout; `began_s` is on CLOCK_MONOTONIC."""

    began_s: float
    cpu_s: float
    peak_mb: float
    said: str


def _run_measured(command: list[str], *variables: str) -> ProcessUsage:
    """Run a process with `NAME=value` in its environment until it ends. Raises RuntimeError when it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        began_s = monotonic()
        process = subprocess.Popen(["env", *variables, sys.executable, *command], stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {errors.read()[-2000:]}")
        return ProcessUsage(began_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read())


@contextmanager
def _run_server(truth: str, log: Path) -> Iterator[str]:
    """Run a server and yield its URL; on exit its log is complete."""
    log.touch()
    module, *options = _SERVERS[truth]
    more = [*options, str(log)] if truth == "simulator" else [str(log), str(TOKENS)]
    with subprocess.Popen([sys.executable, "-m", module, *more], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # it is a pipe
        try:
            yield process.stdout.readline().split()[-1] + "/v1"
        finally:
            process.terminate()


def run_command(
    streams: int, truth: str
) -> tuple[ProcessUsage, list[ObservedAnswer], list[dict[str, Any]], dict[str, Any]]:
    """Run the command; return its usage, the observed answers, the server's log and the manifest."""
    with tempfile.TemporaryDirectory() as name:
        folder, log, prompts = Path(name, "run"), Path(name, "log.jsonl"), Path(name, "prompts.txt")
        prompts.write_text(_QUESTION + "\n", encoding="utf-8")
        with _run_server(truth, log) as url:
            words = (
                f"-m evaluation run --providers openai:steady --repeats {streams} --concurrency {streams} --no-plots"
            )
            files = ["--prompts", str(prompts), "--out", str(folder)]
            used = _run_measured([*words.split(), *files], f"OPENAI_BASE_URL={url}", "OPENAI_API_KEY=none")
        tokens_s: dict[str, list[float]] = defaultdict(list)
        for event in read_events(folder):
            if event.kind == "source_text" and event.source_s is not None:
                tokens_s[event.trial_id].append(event.source_s)
        answers = [
            ObservedAnswer(
                trial.trial_id,
                sent_s := trial.sent_monotonic_s or 0.0,
                [sent_s + at_s for at_s in tokens_s[trial.trial_id]],
                trial.merged_reads or 0,
                trial.stamp_source or "",
                None if trial.outcome == "completed" else trial.error_message,
            )
            for trial in read_trials(folder)
        ]
        return used, answers, read_log(str(log)), manifest.read(folder)


def _measure_ours(streams: int, truth: str) -> ClientResult:
    alone, _, _, _ = run_command(1, truth)
    import_s = _time_import()
    used, record, log, facts = run_command(streams, truth)
    row = compare_with_log("plain", streams, record, log, used.cpu_s - alone.cpu_s)
    return _client_result(row, used, log, import_s, facts["loads"][-1]["peak_memory_bytes"] / 1e6)


def _measure_sdk(streams: int, truth: str) -> ClientResult:
    import_s = _time_import()
    with tempfile.TemporaryDirectory() as name:
        log = Path(name, "log.jsonl")
        with _run_server(truth, log) as url:
            options = ["--client", url, "--streams", str(streams)]
            used = _run_measured(["-m", "benchmarks.instrument", *options])
        data = json.loads(used.said.splitlines()[-1])
        answers, lines = [ObservedAnswer(**one) for one in data["answers"]], read_log(str(log))
    return _client_result(
        compare_with_log("plain", streams, answers, lines, data["cpu_s"]), used, lines, import_s, used.peak_mb
    )


def _client_result(
    row: CalibrationRow, used: ProcessUsage, log: list[dict[str, Any]], import_s: float, peak_mb: float
) -> ClientResult:
    first_s = min(line["at_s"] for line in log if line["event"] == "received")
    return ClientResult(
        row.answers,
        row.failed,
        row.ttft_p50_ms,
        row.ttft_p99_ms,
        row.gap_p50_ms,
        row.gap_p99_ms,
        row.merged_reads,
        row.cpu_s_per_1000_chunks or 0.0,
        round(first_s - used.began_s - import_s, 3),
        round(peak_mb, 1),
    )


async def _measure_with_sdk(url: str, streams: int) -> tuple[list[ObservedAnswer], float]:
    """Measure with a plain client that takes timestamps in its loop over the SDK's stream, after a warm-up."""
    import httpx2
    import openai

    http = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), trust_env=False, timeout=None)
    client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0, http_client=http)

    async def ask_once(name: str) -> ObservedAnswer:
        stream = await client.chat.completions.create(
            model="steady",
            messages=[{"role": "user", "content": _QUESTION}],
            stream=True,
            extra_headers={"X-Client-Request-Id": name},
        )
        tokens_s = [monotonic() async for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
        return ObservedAnswer(name, None, tokens_s, 0, "callback")

    await ask_once("warm-up")
    set_realtime_priority()  # like the instrument
    begun_s = process_time()
    answers = await asyncio.gather(*(ask_once(f"sdk-{number}") for number in range(streams)))
    used_s = process_time() - begun_s
    await client.close()
    return answers, used_s


def _result_line(client: str, streams: int, result: ClientResult) -> str:
    """Return a line of metrics, each with its limit if it has one."""
    parts = []
    for name, value in asdict(result).items():
        most = LIMITS.get(name, {}).get(streams) if client == "ours" else None
        held = "" if most is None else f" ({'within' if value is not None and value <= most else 'OVER'} {most:g})"
        parts.append(f"{name} {value}{held}")
    return f"{streams:4} {client:5}" + ", ".join(parts)


def _compute_ratios(ours: dict[str, Any], sdk: dict[str, Any]) -> dict[str, float]:
    """Return our metrics as ratios to the SDK client's, without counts and start times, which are not comparable."""
    names = [name for name in ours if name.endswith(("_ms", "_chunks", "_mb"))]
    return {name: round(ours[name] / sdk[name], 5) for name in names if sdk[name] and ours[name] is not None}


def main() -> None:
    """Print a line for each client and number of streams, and all results and ratios as JSON in the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.instrument", description=__doc__)
    parser.add_argument("--streams", default="64,256", help="concurrent streams (64,256)")
    parser.add_argument(
        "--truth", choices=_SERVERS, default="simulator", help="server whose log is the reference (simulator)"
    )
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.client:
        answers, cpu_s = asyncio.run(_measure_with_sdk(parsed.client, int(parsed.streams)))
        print(json.dumps({"cpu_s": cpu_s, "answers": [asdict(one) for one in answers]}))
        return
    results = []
    for streams in map(int, parsed.streams.split(",")):
        value = {"ours": _measure_ours(streams, parsed.truth), "sdk": _measure_sdk(streams, parsed.truth)}
        for client, result in value.items():
            print(_result_line(client, streams, result), flush=True)
        ours, sdk = (asdict(result) for result in value.values())
        results.append({"streams": streams, "ours": ours, "sdk": sdk, "ours/sdk": _compute_ratios(ours, sdk)})
    print(json.dumps({"benchmark": "instrument", "truth": parsed.truth, "results": results}))


def _time_import() -> float:
    begun_s = monotonic()
    subprocess.run([sys.executable, "-c", "import openai"], check=True)
    return monotonic() - begun_s


if __name__ == "__main__":
    main()
