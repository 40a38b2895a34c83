"""How late the requests of a trace are sent, against the trace's times: by our timestamps and by the server's log.

A simulator answers with tokens 20 ms apart; `python -m evaluation run --trace` repeats a trace of each shape: ten
requests a second, alone or in bursts that last a millisecond. `sent` is the time from when a request was due until the
kernel had taken its last byte, `received` until the simulator had read it, in milliseconds; both processes read the
same clock. The share of bursts is of those whose requests were all sent within a millisecond of their times.

    python -m benchmarks.start_times [--shapes single:8,burst-10:32] [--requests 200] [--connection keep-alive] [--tls]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation import manifest
from evaluation.schema import Trial, read_trials
from simulator.certificate import make_self_signed
from simulator.server import read_log

SHAPES = "single:8,single:200,burst-3:32,burst-5:32,burst-10:32"
_PERIOD_S = 0.1
_BURST_S = 0.001


def _make_offsets_s(size: int, requests: int) -> list[float]:
    """Return when each request is due: ten a second, in bursts of `size`."""
    return [number // size * size * _PERIOD_S + number % size * _BURST_S / size for number in range(requests)]


def _percentiles_ms(late_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(late_s)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[round(share * (len(ordered) - 1))] * 1000, 3) for name, share in shares.items()}


@contextmanager
def _run_simulator(log: Path, options: Sequence[str]) -> Iterator[str]:
    """Run a simulator and yield the URL of its API; on exit its log is complete."""
    command = [sys.executable, "-m", "simulator", "--gap-ms", "20", "--log", str(log), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # it is a pipe
        try:
            yield process.stdout.readline().split()[-1] + "/v1"
        finally:
            process.terminate()


def _write_trace(path: Path, offsets_s: Sequence[float], tokens: int) -> None:
    lines = [
        {"timestamp": offset_s * 1000, "input_length": 200, "output_length": tokens, "hash_ids": [number]}
        for number, offset_s in enumerate(offsets_s)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _run_command(folder: Path, url: str, options: Sequence[str], variables: dict[str, str]) -> list[Trial]:
    """Run the trace in `folder` and return its trials. Raises RuntimeError when the command fails."""
    command = [sys.executable, "-m", "evaluation", "run", "--providers", "openai:steady", "--no-plots", *options]
    files = ["--trace", str(folder / "trace.jsonl"), "--out", str(folder / "run")]
    variables = {**os.environ, **variables, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
    done = subprocess.run([*command, *files], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return read_trials(folder / "run")


def measure(shape: str, requests: int, connection: str, *, tls: bool) -> dict[str, Any]:
    """Run a trace of a shape, `single:TOKENS` or `burst-SIZE:TOKENS`; return how late its requests were."""
    kind, _, tokens = shape.partition(":")
    size = int(kind.partition("-")[2] or 1)
    with tempfile.TemporaryDirectory() as name:
        folder, options, variables = Path(name), ["--tokens", tokens], {}
        _write_trace(folder / "trace.jsonl", _make_offsets_s(size, requests), int(tokens))
        if tls:
            certificate, key = make_self_signed(folder)
            options += ["--tls-cert", certificate, "--tls-key", key]
            variables["SSL_CERT_FILE"] = certificate
        log = folder / "log.jsonl"
        with _run_simulator(log, options) as url:
            trials = _run_command(folder, url, ["--connection", connection], variables)
        received_s = {
            str(line["request_id"]): float(str(line["at_s"]))
            for line in read_log(str(log))
            if line["event"] == "received"
        }
        priority = manifest.read(folder / "run")["real_time_priority"]
    trials.sort(key=lambda trial: trial.intended_start_s or 0.0)
    sent_s = [(trial.sent_monotonic_s or 0.0) - (trial.intended_start_s or 0.0) for trial in trials]
    bursts = [sent_s[start : start + size] for start in range(0, len(trials), size)]
    return {
        "shape": shape,
        "requests": len(trials),
        "completed": sum(trial.outcome == "completed" for trial in trials),
        "sent_ms": _percentiles_ms(sent_s),
        "received_ms": _percentiles_ms([received_s[t.trial_id] - (t.intended_start_s or 0.0) for t in trials]),
        "bursts_within_1_ms": round(sum(max(burst) <= _BURST_S for burst in bursts) / len(bursts), 4),
        "real_time_priority": priority,
    }


def main() -> None:
    """Print a line for each shape, and all results as JSON in the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.start_times", description=__doc__)
    parser.add_argument(
        "--shapes", default=SHAPES, help=f"single or burst-SIZE, with the tokens of an answer ({SHAPES})"
    )
    parser.add_argument("--requests", type=int, default=300, help="requests of each shape (300)")
    parser.add_argument("--connection", choices=("new", "keep-alive"), default="new", help="connections (new)")
    parser.add_argument("--tls", action="store_true", help="ask over TLS")
    options = parser.parse_args()
    results = []
    for shape in options.shapes.split(","):
        result = measure(shape, options.requests, options.connection, tls=options.tls)
        parts = [f"{name} p50 {row['p50']:.3f} p99 {row['p99']:.3f} max {row['max']:.3f} ms"
                 for name, row in result.items() if isinstance(row, dict)]  # fmt: skip
        print(f"{shape:12}" + ", ".join(parts) + f", bursts within 1 ms {result['bursts_within_1_ms']:.1%}", flush=True)
        results.append(result)
    load = round(os.getloadavg()[0], 2)
    print(json.dumps({"benchmark": "start_times", "load_average_1min": load, "results": results}))


if __name__ == "__main__":
    main()
