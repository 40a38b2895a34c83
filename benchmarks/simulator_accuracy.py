"""The accuracy of the simulator: the send timestamps in its log against its schedule, by number of streams.

The simulator and its clients are two processes on one machine. Each client opens one stream of 64 tokens, 20 ms apart,
all in one burst, and reads it to the end. `p50`, `p99` and `max` are the lateness over all tokens in milliseconds.

    python -m benchmarks.simulator_accuracy [--streams 1,64,256] [--rounds 3]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from simulator.server import read_log

_BODY = json.dumps(
    {"model": "steady", "stream": True, "messages": [{"role": "user", "content": "How exact are you?"}]}
).encode()
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: simulator\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
_TOKENS = 64


class _CountingClient(asyncio.Protocol):
    """A client that sends one request and counts the bytes received until the server closes."""

    def __init__(self, done: "asyncio.Future[int]") -> None:
        self._done = done
        self._bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # create_connection always passes one
        transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._done.set_result(self._bytes)


async def _run_burst(host: str, port: int, streams: int) -> None:
    loop = asyncio.get_running_loop()

    async def ask_once() -> int:
        done: asyncio.Future[int] = loop.create_future()
        await loop.create_connection(lambda: _CountingClient(done), host, port)
        return await done

    received = await asyncio.gather(*(ask_once() for _ in range(streams)))
    if min(received) != max(received) or not received[0]:
        raise RuntimeError(f"streams: sizes differ, from {min(received)} to {max(received)} bytes")


def _measure_lateness_ms(streams: int, rounds: int) -> list[float]:
    """Return the sorted lateness of all tokens of all rounds, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        log = str(Path(folder, "log.jsonl"))
        command = [sys.executable, "-m", "simulator", "--tokens", str(_TOKENS), "--log", log]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None  # it is a pipe
            host, port = process.stdout.readline().rpartition("://")[2].strip().rsplit(":", 1)
            try:
                for _ in range(rounds):
                    asyncio.run(_run_burst(host, int(port), streams))
            finally:
                process.terminate()
        lines = [line for line in read_log(log) if "seq" in line]
    if len(lines) != streams * rounds * _TOKENS:
        raise RuntimeError(f"the log has {len(lines)} tokens, not {streams * rounds * _TOKENS}")
    return sorted((float(str(line["at_s"])) - float(str(line["due_s"]))) * 1000 for line in lines)


def main() -> None:
    """Print a line for each number of streams, and all results as JSON in the last line."""
    parser = argparse.ArgumentParser("python -m benchmarks.simulator_accuracy", description=__doc__)
    parser.add_argument("--streams", default="1,64,256", help="concurrent streams")
    parser.add_argument("--rounds", type=int, default=3, help="bursts for each number of streams")
    parsed = parser.parse_args()
    result = []
    for streams in map(int, parsed.streams.split(",")):
        late_ms = _measure_lateness_ms(streams, parsed.rounds)
        shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        row = {name: round(late_ms[int(share * (len(late_ms) - 1))], 3) for name, share in shares.items()}
        print(f"{streams:5} streams: " + ", ".join(f"{name} {value:.3f} ms" for name, value in row.items()))
        result.append({"streams": streams, "tokens": len(late_ms), **{f"{name}_ms": v for name, v in row.items()}})
    print(json.dumps({"simulator_accuracy": result}))


if __name__ == "__main__":
    main()
