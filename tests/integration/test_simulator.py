"""The simulator as a server: connections, its log, its command line."""

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from simulator.__main__ import main as simulator_main
from simulator.request_handler import Defaults
from simulator.server import ServerOptions, SimulatorServer, read_log, run_in_thread
from streaming.errors import UsageError
from tests.simulator_process import (
    PATHS,
    RawResponse,
    ask_simulator,
    connect,
    encode_request,
    question_body,
    read_response,
    run_simulator_process,
)

QUICK_DEFAULTS = Defaults(ttft_s=0.01, gap_s=0.001, tokens=8)
KEEP_ALIVE_HEADERS = {"connection": "keep-alive"}


def wait_for(result: Callable[[], list[Any]]) -> list[Any]:
    """Poll until the condition returns a value. Raises AssertionError after 5 s."""
    patience = threading.Event()
    for _ in range(500):
        if lines := result():
            return lines
        patience.wait(0.01)
    raise AssertionError("it did not come")


def log_events(log: str, event: str) -> list[dict[str, Any]]:
    return [line for line in read_log(log) if line["event"] == event]


def read_answer(sock: socket.socket) -> RawResponse:
    """Read one answer from a connection that stays open."""
    raw = b""
    while not (b"\r\n\r\n" in raw and RawResponse(raw, "open").complete):
        data = sock.recv(65536)
        assert data
        raw += data
    return RawResponse(raw, "open")


def test_keep_alive_connection_serves_further_answers() -> None:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        for streamed in (True, False, True):
            sock.sendall(encode_request(PATHS["openai"], question_body("openai", streamed), KEEP_ALIVE_HEADERS))
            assert read_answer(sock).status == 200
        sock.sendall(encode_request(PATHS["openai"], question_body("openai")))
        assert read_response(sock).how == "closed"


def test_pipelined_requests_are_answered_in_turn() -> None:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        kept = encode_request(PATHS["openai"], question_body("openai", False), KEEP_ALIVE_HEADERS)
        sock.sendall(kept + kept + encode_request(PATHS["openai"], question_body("openai", False)))
        assert read_response(sock).raw.count(b"HTTP/1.1 200 OK") == 3


def test_chunked_request_body_is_read() -> None:
    body = question_body("openai", False)
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])
    head = f"POST {PATHS['openai']} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        sock.sendall(head.encode() + chunks)
        assert read_response(sock).status == 200


def test_expect_continue_gets_100_response() -> None:
    data = encode_request(PATHS["openai"], question_body("openai", False), {"expect": "100-continue"})
    head, _, body = data.partition(b"\r\n\r\n")
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert read_response(sock).status == 200


def test_http_1_0_client_gets_unchunked_body() -> None:
    data = encode_request(PATHS["openai"], question_body("openai")).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        sock.sendall(data)
        response = read_response(sock)
    assert "transfer-encoding" not in response.headers
    assert response.raw.endswith(b"\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/nothing", b"{}", 404),
        ("GET", "/v1/messages", b"", 405),
        ("POST", "/v1/messages", b"{", 400),
        ("POST", "/api/chat", b"{}", 400),
        ("GET", "/healthz", b"", 200),
    ],
)
def test_invalid_request_is_rejected_with_status(method: str, path: str, body: bytes, status: int) -> None:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        sock.sendall(encode_request(path, body).replace(b"POST", method.encode(), 1))
        response = read_response(sock)
    assert (response.status, response.complete) == (status, True)
    json.loads(response.body)


def test_non_http_bytes_return_400_and_close_connection() -> None:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        sock.sendall(b"rubbish\r\n\r\n")
        response = read_response(sock)
    assert (response.status, response.how) == (400, "closed")


@pytest.mark.parametrize(
    ("wire", "header"), [("openai", "x-request-id"), ("anthropic", "request-id"), ("azure", "apim-request-id")]
)
def test_response_has_vendor_request_id_header(wire: str, header: str) -> None:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server:
        assert ask_simulator(server.url, wire).headers[header] == "req_000001"


def test_log_records_what_was_sent_and_when(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS, log=log)) as server, connect(server.url) as sock:
        before_s = time.monotonic()
        sock.sendall(encode_request(PATHS["openai"], question_body("openai"), {"x-client-request-id": "mine"}))
        read_response(sock)
        after_s = time.monotonic()
    lines: list[dict[str, Any]] = read_log(log)
    assert {line["request_id"] for line in lines} == {"mine"}
    assert [line["event"] for line in lines] == ["received", *["sent"] * 13, "closed"]
    assert [line.get("kind", line.get("seq")) for line in lines[1:-1]] == [
        "head", "role", 0, 1, 2, 3, 4, 5, 6, 7, "finish", "end", "last-chunk"
    ]  # fmt: skip
    assert {name: lines[0][name] for name in ("wire", "path", "streamed", "model", "fault")} == {
        "wire": "openai", "path": "/v1/chat/completions", "streamed": True, "model": "any", "fault": None
    }  # fmt: skip
    assert (lines[-1]["by"], lines[-1]["how"]) == ("server", "complete")
    times = [before_s, *(line["at_s"] for line in lines), after_s]
    assert times == sorted(times)
    zero_s = lines[0]["at_s"]
    due_s = [line["due_s"] - zero_s for line in lines if "seq" in line]
    assert due_s == pytest.approx([0.01 + 0.001 * i for i in range(8)], abs=1e-6)
    assert all(line["at_s"] >= line["due_s"] for line in lines if line["event"] == "sent")


def test_log_is_written_while_server_runs(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS, log=log)) as server:
        ask_simulator(server.url)
        assert wait_for(lambda: log_events(log, "closed"))[0]["request_id"] == "sim-000001"


@pytest.mark.parametrize("fault", ["", "no-response", "slow-first-token-60", "stall", "keepalive-only"])
@pytest.mark.parametrize("streamed", [True, False])
def test_client_disconnect_is_logged_at_once(tmp_path: Path, fault: str, streamed: bool) -> None:
    log = str(tmp_path / "log")
    with run_in_thread(ServerOptions(choices=Defaults(ttft_s=0.1, gap_s=30), log=log)) as server:
        with connect(server.url) as sock:
            sock.sendall(
                encode_request(PATHS["openai"], question_body("openai", streamed), {"x-simulator-fault": fault})
            )
            assert wait_for(lambda: log_events(log, "received"))
        closed = wait_for(lambda: log_events(log, "closed"))[0]
    assert (closed["by"], closed["how"]) == ("client", "left")


def test_stalled_reader_receives_everything_later() -> None:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server, connect(server.url) as sock:
        sock.sendall(encode_request(PATHS["openai"], question_body("openai"), {"x-simulator-fault": "big-event-20"}))
        assert select.select([sock], [], [], 10)[0]
        assert ask_simulator(server.url).complete  # others are served while the kernel's buffers are full
        response = read_response(sock)
    assert response.complete and len(response.body) > 20_000_000


def test_concurrent_streams_are_complete_and_never_early(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with run_simulator_process("--tokens", "16", "--log", log) as url, ThreadPoolExecutor(64) as pool:
        response = list(pool.map(lambda _: ask_simulator(url), range(64)))
    assert len({one.body.count(b"\n\n") for one in response}) == 1
    late_s = [line["at_s"] - line["due_s"] for line in log_events(log, "sent") if "seq" in line]
    assert len(late_s) == 64 * 16
    assert min(late_s) >= 0


def test_command_line_flags_apply_to_every_profile_and_seed_changes_text() -> None:
    def text(*flags: str, model: str = "steady") -> bytes:
        with run_simulator_process("--ttft-ms", "1", "--gap-ms", "0", "--tokens", "40", *flags) as url:
            response = ask_simulator(url, model=model, streamed=False)
        answer = json.loads(response.body)
        assert answer["usage"]["completion_tokens"] == (40 if model == "steady" else 64)
        return str(answer["choices"][0]["message"]["content"]).encode()

    assert text() == text() != text("--seed", "5")
    text(model="thinking")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_simulator_cleanly_and_logs_shutdown(tmp_path: Path, number: signal.Signals) -> None:
    log = str(tmp_path / "log")
    command = [sys.executable, "-m", "simulator", "--port", "0", "--log", log]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with connect(url) as sock:
            sock.sendall(encode_request(PATHS["openai"], question_body("openai"), {"x-simulator-fault": "stall"}))
            assert select.select([sock], [], [], 10)[0]
            process.send_signal(number)
            _, problems = process.communicate(timeout=300)
    assert (process.returncode, problems) == (0, "")
    assert (log_events(log, "closed")[0]["by"], log_events(log, "closed")[0]["how"]) == ("server", "shutdown")


@pytest.mark.parametrize(
    ("flags", "output"),
    [
        (["--fault", "nonsense"], "fault 'nonsense': unknown"),
        (["--profile", "nonsense"], "timing profile 'nonsense': unknown"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "--tls-cert: cannot read /nowhere"),
        (["--tls-cert", "/nowhere"], "--tls-cert, --tls-key: only one is set (set both or neither)"),
        (["--log", "/nowhere/log"], "--log /nowhere/log: No such file"),
        (["--port", "70000"], "--port: cannot listen on 127.0.0.1:70000"),
    ],
)
def test_invalid_flags_exit_with_2_and_one_line(flags: list[str], output: str) -> None:
    done = subprocess.run([sys.executable, "-m", "simulator", *flags], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"simulator: {output}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("flag", "value"), [("--tokens", "1e9"), ("--tokens", "0"), ("--ttft-ms", "soon")])
def test_invalid_number_of_a_flag_is_shown_with_what_to_write(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        simulator_main([flag, value])
    assert f"{flag}: '{value}' is not a " in capsys.readouterr().err


def test_port_in_use_raises_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"^--port: cannot listen on 127.0.0.1:{port}, the port is in use"):
            SimulatorServer(ServerOptions(port=port))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True, env={**os.environ, "OPENSSL_CONF": os.devnull},
    )  # fmt: skip
    return files


def test_tls_server_serves_answers(certificate: tuple[str, str], tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    context = ssl.create_default_context(cafile=certificate[0])
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS, tls=certificate, log=log)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with context.wrap_socket(connect(server.url), server_hostname="127.0.0.1") as sock:
            for path in ("openai", "ollama"):
                sock.sendall(encode_request(PATHS[path], question_body(path), KEEP_ALIVE_HEADERS))
                assert read_answer(sock).status == 200
            sock.sendall(encode_request(PATHS["openai"], question_body("openai"), {"x-simulator-fault": "big-event"}))
            raw = b""
            while data := sock.recv(1_000_000):
                raw += data
        assert RawResponse(raw, "closed").complete and len(raw) > 3_000_000
    assert [line["by"] for line in log_events(log, "closed")] == ["server"] * 3


def test_tls_client_disconnect_is_logged(certificate: tuple[str, str], tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    context = ssl.create_default_context(cafile=certificate[0])
    with run_in_thread(ServerOptions(choices=Defaults(ttft_s=60), tls=certificate, log=log)) as server:
        with context.wrap_socket(connect(server.url), server_hostname="127.0.0.1") as sock:
            sock.sendall(encode_request(PATHS["anthropic"], question_body("anthropic")))
            assert wait_for(lambda: log_events(log, "received"))
        assert wait_for(lambda: log_events(log, "closed"))[0]["by"] == "client"
