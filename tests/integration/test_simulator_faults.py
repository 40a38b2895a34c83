"""Each fault produces the documented bytes in every wire format."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.faults import FAULTS, parse_fault
from simulator.request_handler import Defaults
from simulator.server import ServerOptions, read_log, run_in_thread
from tests.simulator_process import (
    PATHS,
    RawResponse,
    ask_simulator,
    connect,
    encode_request,
    question_body,
    read_response,
)

TOKENS = 8
QUICK_DEFAULTS = Defaults(ttft_s=0.01, gap_s=0.001, tokens=TOKENS)
WIRES = list(PATHS)
ERROR_PATHS = {
    "openai": ("error", "message"),
    "azure": ("error", "message"),
    "anthropic": ("error", "message"),
    "ollama": ("error",),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS)) as server:
        yield server.url


def join_text(response: RawResponse) -> str:
    """Return the joined text of a stream's events, in any wire format."""
    return "".join(_delta_text(fields) for fields in response.json_objects())


def _delta_text(fields: Any) -> str:
    if fields.get("type") == "content_block_delta":
        return str(fields["delta"].get("text", ""))
    if choices := fields.get("choices"):
        return choices[0]["delta"].get("content") or ""
    return str(fields["message"]["content"]) if "message" in fields and "done" in fields else ""


def count_finishes(response: RawResponse) -> int:
    """Count the events with a finish reason."""
    expected = (b'"finish_reason":"stop"', b'"stop_reason":"end_turn"', b'"done_reason":"stop"')
    return sum(any(mark in chunk for mark in expected) for chunk in response.chunks)


def has_end_marker(response: RawResponse) -> bool:
    """Return whether the end marker was received."""
    return any(mark in response.raw for mark in (b"data: [DONE]", b'"message_stop"', b'"done":true'))


@pytest.mark.parametrize("wire", WIRES)
def test_answer_without_fault_is_complete(url: str, wire: str) -> None:
    response = ask_simulator(url, wire)
    assert (response.how, response.status, response.complete) == ("closed", 200, True)
    assert join_text(response).startswith("[simulated] ")
    assert (count_finishes(response), has_end_marker(response)) == (1, True)
    assert response.headers["x-simulated"] == "true"


@pytest.mark.parametrize("name", [name for name, kind in FAULTS.items() if kind.status])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("streamed", [True, False])
def test_status_fault_uses_vendor_error_shape(url: str, name: str, wire: str, streamed: bool) -> None:
    response = ask_simulator(url, wire, name, streamed=streamed, user=f"{wire}-{name}")
    assert (response.status, response.complete) == (FAULTS[name].status, True)
    data = json.loads(response.body)
    for key in ERROR_PATHS[wire]:
        data = data[key]
    assert data == (FAULTS[name].words or f"simulated fault {name}")
    assert response.headers.get("retry-after") == ("1" if name == "429-retry-after" else None)


def test_retry_after_of_429_fault_is_configurable(url: str) -> None:
    assert ask_simulator(url, fault="429-retry-after-90").headers["retry-after"] == "90"


def test_model_name_selects_fault(url: str) -> None:
    assert ask_simulator(url, model="fault-429-retry-after-7").headers["retry-after"] == "7"
    assert ask_simulator(url, "ollama", model="fault-503:latest").status == 503
    assert ask_simulator(url, "azure").status == 200


def test_fault_header_overrides_model_and_command_line() -> None:
    with run_in_thread(
        ServerOptions(choices=Defaults(fault=parse_fault("503"), ttft_s=0.01, gap_s=0.001, tokens=TOKENS))
    ) as server:
        assert ask_simulator(server.url).status == 503
        assert ask_simulator(server.url, model="fault-404").status == 404
        assert ask_simulator(server.url, fault="401", model="fault-404").status == 401


@pytest.mark.parametrize("fields", [{"fault": "nonsense"}, {"model": "fault-nonsense"}])
def test_unknown_fault_returns_400(url: str, fields: dict[str, str]) -> None:
    response = ask_simulator(url, **fields)  # type: ignore[arg-type]  # the names decide which parameter they are
    assert response.status == 400
    assert ": unknown (use one of" in json.loads(response.body)["error"]["message"]


def test_fault_500_once_fails_only_first_attempt(url: str) -> None:
    body = question_body("openai", streamed=False)

    def status(request_id: str, body: bytes) -> int:
        headers = {"x-simulator-fault": "500-once"} | ({"x-client-request-id": request_id} if request_id else {})
        with connect(url) as sock:
            sock.sendall(encode_request(PATHS["openai"], body, headers))
            return read_response(sock).status

    assert [status(request_id, body) for request_id in ("a", "b", "a", "b")] == [500, 500, 200, 200]
    other = question_body("openai", streamed=False, user="somebody else")
    assert [status("", given) for given in (body, other, body, other)] == [500, 500, 200, 200]


@pytest.mark.parametrize("streamed", [True, False])
def test_reset_before_headers_sends_nothing(url: str, streamed: bool) -> None:
    assert ask_simulator(url, fault="reset-before-headers", streamed=streamed) == RawResponse(b"", "reset")


@pytest.mark.parametrize("streamed", [True, False])
def test_no_response_sends_nothing_and_stays_open(url: str, streamed: bool) -> None:
    assert ask_simulator(url, fault="no-response", streamed=streamed, silence_s=0.3) == RawResponse(b"", "silent")


@pytest.mark.parametrize("streamed", [True, False])
def test_slow_first_token_waits_configured_time(tmp_path: Path, streamed: bool) -> None:
    log = str(tmp_path / "log")
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS, log=log)) as server:
        assert ask_simulator(server.url, fault="slow-first-token-1", streamed=streamed).complete
    lines = read_log(log)
    first = next(line for line in lines if line.get("seq") == 0)
    waited_s = float(str(first["due_s"])) - float(str(lines[0]["at_s"]))
    assert waited_s == pytest.approx(1 if streamed else 1 + TOKENS * 0.001, abs=1e-5)


@pytest.mark.parametrize("wire", WIRES)
def test_empty_and_html_faults_return_200(url: str, wire: str) -> None:
    empty, page = ask_simulator(url, wire, "empty-200"), ask_simulator(url, wire, "html-200")
    assert (empty.status, empty.complete, empty.body) == (200, True, b"")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.body.startswith(b"<!doctype html>")


@pytest.mark.parametrize("streamed", [True, False])
def test_wrong_content_type_leaves_body_unchanged(url: str, streamed: bool) -> None:
    right, wrong = (
        ask_simulator(url, streamed=streamed),
        ask_simulator(url, fault="wrong-content-type", streamed=streamed),
    )
    assert wrong.headers["content-type"] == "text/html"
    assert len(wrong.body) == len(right.body)


def test_followed_redirect_is_logged(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with run_in_thread(ServerOptions(choices=QUICK_DEFAULTS, log=log)) as server:
        first = ask_simulator(server.url, fault="redirect")
        assert (first.status, first.headers["location"]) == (307, "/redirected/v1/chat/completions")
        with connect(server.url) as sock:
            sock.sendall(
                encode_request(first.headers["location"], question_body("openai"), {"x-simulator-fault": "redirect"})
            )
            assert join_text(read_response(sock)).startswith("[simulated] ")
    paths = [line["path"] for line in read_log(log) if line["event"] == "received"]
    assert paths == ["/v1/chat/completions", "/redirected/v1/chat/completions"]


@pytest.mark.parametrize(
    ("wire", "beat"),
    [("openai", b": keep-alive\n\n"), ("anthropic", b'event: ping\ndata: {"type":"ping"}\n\n'), ("ollama", b"\n")],
)
def test_keepalive_only_sends_nothing_but_keepalives(url: str, wire: str, beat: bytes) -> None:
    with connect(url) as sock:
        sock.sendall(encode_request(PATHS[wire], question_body(wire), {"x-simulator-fault": "keepalive-only"}))
        raw = b""
        while raw.count(b"\r\n" + beat) < 3:
            data = sock.recv(65536)
            assert data
            raw += data
    assert set(RawResponse(raw, "open").chunks) == {beat}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("name", "how", "complete"),
    [
        ("stall", "silent", False),
        ("cut", "closed", False),
        ("reset-mid-stream", "reset", False),
        ("truncated", "closed", True),
        ("error-in-stream", "closed", True),
    ],
)
def test_mid_stream_fault_breaks_after_half_the_answer(
    url: str, wire: str, name: str, how: str, complete: bool
) -> None:
    response = ask_simulator(url, wire, name, silence_s=0.3)
    assert (response.status, response.how, response.complete) == (200, how, complete)
    assert join_text(ask_simulator(url, wire)).startswith(join_text(response)) and join_text(response)
    assert len(join_text(response)) < len(join_text(ask_simulator(url, wire)))
    assert (count_finishes(response), has_end_marker(response)) == (0, False)
    assert (b"simulated error inside the stream" in response.raw) is (name == "error-in-stream")


@pytest.mark.parametrize("wire", WIRES)
def test_cut_and_error_profiles_break_without_fault(url: str, wire: str) -> None:
    cut, error = ask_simulator(url, wire, model="cut"), ask_simulator(url, wire, model="error")
    if wire == "azure":  # its model stands in the path
        assert cut.complete and error.complete
        return
    assert (cut.how, cut.complete, count_finishes(cut)) == ("closed", False, 0)
    assert (error.complete, count_finishes(error)) == (True, 0)
    assert b"simulated error inside the stream" in error.raw
    assert ask_simulator(url, wire, model="error", streamed=False).status == 500
    assert ask_simulator(url, wire, model="cut", streamed=False) == RawResponse(b"", "closed")


@pytest.mark.parametrize("wire", WIRES)
def test_malformed_json_fault_breaks_one_event(url: str, wire: str) -> None:
    response = ask_simulator(url, wire, "malformed-json")
    with pytest.raises(json.JSONDecodeError):
        response.json_objects()
    assert (response.complete, count_finishes(response), has_end_marker(response)) == (True, 1, True)


@pytest.mark.parametrize("wire", WIRES)
def test_bad_utf8_fault_breaks_one_event(url: str, wire: str) -> None:
    response = ask_simulator(url, wire, "bad-utf8")
    assert response.body.count(b"\xff\xfe") == 1
    assert (response.complete, count_finishes(response), has_end_marker(response)) == (True, 1, True)


@pytest.mark.parametrize("wire", WIRES)
def test_split_surrogate_fault_splits_emoji_over_two_events(url: str, wire: str) -> None:
    response = ask_simulator(url, wire, "split-surrogate")
    halves = [chunk for chunk in response.chunks if rb"\ud83c" in chunk or rb"\udf0d" in chunk]
    assert len(halves) == 2
    assert join_text(response).encode("utf-16", "surrogatepass").decode("utf-16").count("\U0001f30d") == 1


@pytest.mark.parametrize("wire", WIRES)
def test_big_event_fault_sends_large_event(url: str, wire: str) -> None:
    response = ask_simulator(url, wire, "big-event")
    assert max(map(len, response.chunks)) > 3_000_000
    assert join_text(response).count(" big") == 750_000


@pytest.mark.parametrize("wire", WIRES)
def test_missing_end_marker_keeps_finish_reason(url: str, wire: str) -> None:
    response = ask_simulator(url, wire, "missing-end-marker")
    assert (response.complete, count_finishes(response), has_end_marker(response)) == (True, 1, False)


@pytest.mark.parametrize("wire", WIRES)
def test_doubled_finish_sends_finish_twice(url: str, wire: str) -> None:
    response = ask_simulator(url, wire, "doubled-finish")
    assert (response.complete, count_finishes(response)) == (True, 2)


@pytest.mark.parametrize("wire", WIRES)
def test_text_after_end_sends_text_after_end(url: str, wire: str) -> None:
    response = ask_simulator(url, wire, "text-after-end")
    assert join_text(response).endswith(" after all")
    assert response.complete and b" after" in response.chunks[-2] and b" all" in response.chunks[-1]


@pytest.mark.parametrize("name", [name for name, kind in FAULTS.items() if kind.scope == "stream"])
def test_stream_fault_leaves_non_streamed_answer_intact(url: str, name: str) -> None:
    response = ask_simulator(url, fault=name, streamed=False)
    assert response.complete
    assert json.loads(response.body)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("name", "how"), [("stall", "silent"), ("cut", "closed"), ("reset-mid-stream", "reset")])
def test_always_suffix_breaks_non_streamed_answer(url: str, name: str, how: str) -> None:
    response = ask_simulator(url, fault=f"{name}-always", streamed=False, silence_s=0.3)
    assert (response.how, response.complete) == (how, False)
    assert response.body


def test_always_suffix_corrupts_non_streamed_answer(url: str) -> None:
    malformed, bad = (
        ask_simulator(url, fault=f"{name}-always", streamed=False) for name in ("malformed-json", "bad-utf8")
    )
    assert malformed.complete and bad.complete
    with pytest.raises(json.JSONDecodeError):
        json.loads(malformed.body)
    with pytest.raises(UnicodeDecodeError):
        bad.body.decode()


def test_client_resets_leave_server_healthy(url: str) -> None:
    for _ in range(20):
        with connect(url) as sock:
            sock.sendall(encode_request(PATHS["openai"], question_body("openai")))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ask_simulator(url).complete
