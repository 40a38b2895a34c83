"""Each fault does what its name says, in bytes, on every wire."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.faults import FAULTS, parse
from simulator.server import Options, read_log, serving
from simulator.service import Choices
from tests.simulator_process import PATHS, Heard, ask, listen, opened, question, request

TOKENS = 8
QUICK = Choices(ttft_s=0.01, gap_s=0.001, tokens=TOKENS)
WIRES = list(PATHS)
ERRORS = {
    "openai": ("error", "message"),
    "azure": ("error", "message"),
    "anthropic": ("error", "message"),
    "ollama": ("error",),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Options(choices=QUICK)) as server:
        yield server.url


def text(heard: Heard) -> str:
    """Join the text of a stream's events, in whichever wire."""
    return "".join(_delta(fields) for fields in heard.objects())


def _delta(fields: Any) -> str:
    if fields.get("type") == "content_block_delta":
        return str(fields["delta"].get("text", ""))
    if choices := fields.get("choices"):
        return choices[0]["delta"].get("content") or ""
    return str(fields["message"]["content"]) if "message" in fields and "done" in fields else ""


def finishes(heard: Heard) -> int:
    """Count the events with a finish reason."""
    wanted = (b'"finish_reason":"stop"', b'"stop_reason":"end_turn"', b'"done_reason":"stop"')
    return sum(any(mark in chunk for mark in wanted) for chunk in heard.chunks)


def marked(heard: Heard) -> bool:
    """Whether the end marker came."""
    return any(mark in heard.raw for mark in (b"data: [DONE]", b'"message_stop"', b'"done":true'))


@pytest.mark.parametrize("wire", WIRES)
def test_with_no_fault_an_answer_is_whole(url: str, wire: str) -> None:
    heard = ask(url, wire)
    assert (heard.how, heard.status, heard.complete) == ("closed", 200, True)
    assert text(heard).startswith("[simulated] ")
    assert (finishes(heard), marked(heard)) == (1, True)
    assert heard.headers["x-simulated"] == "true"


@pytest.mark.parametrize("name", [name for name, kind in FAULTS.items() if kind.status])
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_status_comes_in_the_vendors_shape(url: str, name: str, wire: str, streamed: bool) -> None:
    heard = ask(url, wire, name, streamed=streamed, user=f"{wire}-{name}")
    assert (heard.status, heard.complete) == (FAULTS[name].status, True)
    found = json.loads(heard.body)
    for key in ERRORS[wire]:
        found = found[key]
    assert found == f"simulated fault {name}"
    assert heard.headers.get("retry-after") == ("1" if name == "429-retry-after" else None)


def test_the_wait_of_a_429_can_be_set(url: str) -> None:
    assert ask(url, fault="429-retry-after-90").headers["retry-after"] == "90"


def test_a_fault_can_be_a_models_name(url: str) -> None:
    assert ask(url, model="fault-429-retry-after-7").headers["retry-after"] == "7"
    assert ask(url, "ollama", model="fault-503:latest").status == 503
    assert ask(url, "azure").status == 200


def test_the_header_goes_before_the_model_and_the_command_line() -> None:
    with serving(Options(choices=Choices(fault=parse("503"), ttft_s=0.01, gap_s=0.001, tokens=TOKENS))) as server:
        assert ask(server.url).status == 503
        assert ask(server.url, model="fault-404").status == 404
        assert ask(server.url, fault="401", model="fault-404").status == 401


@pytest.mark.parametrize("fields", [{"fault": "nonsense"}, {"model": "fault-nonsense"}])
def test_an_unknown_fault_is_a_bad_request(url: str, fields: dict[str, str]) -> None:
    heard = ask(url, **fields)  # type: ignore[arg-type]  # the names decide which parameter they are
    assert heard.status == 400
    assert "there is no fault" in json.loads(heard.body)["error"]["message"]


def test_500_once_lets_the_next_attempt_pass(url: str) -> None:
    body = question("openai", streamed=False)

    def status(request_id: str, body: bytes) -> int:
        headers = {"x-simulator-fault": "500-once"} | ({"x-client-request-id": request_id} if request_id else {})
        with opened(url) as sock:
            sock.sendall(request(PATHS["openai"], body, headers))
            return listen(sock).status

    assert [status(request_id, body) for request_id in ("a", "b", "a", "b")] == [500, 500, 200, 200]
    other = question("openai", streamed=False, user="somebody else")
    assert [status("", given) for given in (body, other, body, other)] == [500, 500, 200, 200]


@pytest.mark.parametrize("streamed", [True, False])
def test_reset_before_headers_says_nothing(url: str, streamed: bool) -> None:
    assert ask(url, fault="reset-before-headers", streamed=streamed) == Heard(b"", "reset")


@pytest.mark.parametrize("streamed", [True, False])
def test_no_response_says_nothing_and_stays(url: str, streamed: bool) -> None:
    assert ask(url, fault="no-response", streamed=streamed, silence_s=0.3) == Heard(b"", "silent")


@pytest.mark.parametrize("streamed", [True, False])
def test_slow_first_token_keeps_its_time(tmp_path: Path, streamed: bool) -> None:
    log = str(tmp_path / "log")
    with serving(Options(choices=QUICK, log=log)) as server:
        assert ask(server.url, fault="slow-first-token-1", streamed=streamed).complete
    lines = read_log(log)
    first = next(line for line in lines if line.get("seq") == 0)
    waited_s = float(str(first["due_s"])) - float(str(lines[0]["at_s"]))
    assert waited_s == pytest.approx(1 if streamed else 1 + TOKENS * 0.001, abs=1e-5)


@pytest.mark.parametrize("wire", WIRES)
def test_empty_and_html_answers_are_200(url: str, wire: str) -> None:
    empty, page = ask(url, wire, "empty-200"), ask(url, wire, "html-200")
    assert (empty.status, empty.complete, empty.body) == (200, True, b"")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.body.startswith(b"<!doctype html>")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_wrong_content_type_is_all_that_is_wrong(url: str, streamed: bool) -> None:
    right, wrong = ask(url, streamed=streamed), ask(url, fault="wrong-content-type", streamed=streamed)
    assert wrong.headers["content-type"] == "text/html"
    assert len(wrong.body) == len(right.body)


def test_a_redirect_that_is_followed_stands_in_the_log(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with serving(Options(choices=QUICK, log=log)) as server:
        first = ask(server.url, fault="redirect")
        assert (first.status, first.headers["location"]) == (307, "/redirected/v1/chat/completions")
        with opened(server.url) as sock:
            sock.sendall(request(first.headers["location"], question("openai"), {"x-simulator-fault": "redirect"}))
            assert text(listen(sock)).startswith("[simulated] ")
    paths = [line["path"] for line in read_log(log) if line["event"] == "received"]
    assert paths == ["/v1/chat/completions", "/redirected/v1/chat/completions"]


@pytest.mark.parametrize(
    ("wire", "beat"),
    [("openai", b": keep-alive\n\n"), ("anthropic", b'event: ping\ndata: {"type":"ping"}\n\n'), ("ollama", b"\n")],
)
def test_keepalives_are_all_that_comes(url: str, wire: str, beat: bytes) -> None:
    with opened(url) as sock:
        sock.sendall(request(PATHS[wire], question(wire), {"x-simulator-fault": "keepalive-only"}))
        raw = b""
        while raw.count(b"\r\n" + beat) < 3:
            data = sock.recv(65536)
            assert data
            raw += data
    assert set(Heard(raw, "open").chunks) == {beat}


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
def test_half_an_answer_and_then_it_breaks(url: str, wire: str, name: str, how: str, complete: bool) -> None:
    heard = ask(url, wire, name, silence_s=0.3)
    assert (heard.status, heard.how, heard.complete) == (200, how, complete)
    assert text(ask(url, wire)).startswith(text(heard)) and text(heard)
    assert len(text(heard)) < len(text(ask(url, wire)))
    assert (finishes(heard), marked(heard)) == (0, False)
    assert (b"simulated error inside the stream" in heard.raw) is (name == "error-in-stream")


@pytest.mark.parametrize("wire", WIRES)
def test_the_profiles_cut_and_error_break_by_themselves(url: str, wire: str) -> None:
    cut, error = ask(url, wire, model="cut"), ask(url, wire, model="error")
    if wire == "azure":  # its model stands in the path
        assert cut.complete and error.complete
        return
    assert (cut.how, cut.complete, finishes(cut)) == ("closed", False, 0)
    assert (error.complete, finishes(error)) == (True, 0)
    assert b"simulated error inside the stream" in error.raw
    assert ask(url, wire, model="error", streamed=False).status == 500
    assert ask(url, wire, model="cut", streamed=False) == Heard(b"", "closed")


@pytest.mark.parametrize("wire", WIRES)
def test_one_event_is_not_json(url: str, wire: str) -> None:
    heard = ask(url, wire, "malformed-json")
    with pytest.raises(json.JSONDecodeError):
        heard.objects()
    assert (heard.complete, finishes(heard), marked(heard)) == (True, 1, True)


@pytest.mark.parametrize("wire", WIRES)
def test_one_event_is_not_utf8(url: str, wire: str) -> None:
    heard = ask(url, wire, "bad-utf8")
    assert heard.body.count(b"\xff\xfe") == 1
    assert (heard.complete, finishes(heard), marked(heard)) == (True, 1, True)


@pytest.mark.parametrize("wire", WIRES)
def test_an_emoji_is_split_over_two_events(url: str, wire: str) -> None:
    heard = ask(url, wire, "split-surrogate")
    halves = [chunk for chunk in heard.chunks if rb"\ud83c" in chunk or rb"\udf0d" in chunk]
    assert len(halves) == 2
    assert text(heard).encode("utf-16", "surrogatepass").decode("utf-16").count("\U0001f30d") == 1


@pytest.mark.parametrize("wire", WIRES)
def test_a_big_event_comes_whole(url: str, wire: str) -> None:
    heard = ask(url, wire, "big-event")
    assert max(map(len, heard.chunks)) > 5_000_000
    assert text(heard).count(" big") == 1_250_000


@pytest.mark.parametrize("wire", WIRES)
def test_a_missing_end_marker_leaves_the_finish_reason(url: str, wire: str) -> None:
    heard = ask(url, wire, "missing-end-marker")
    assert (heard.complete, finishes(heard), marked(heard)) == (True, 1, False)


@pytest.mark.parametrize("wire", WIRES)
def test_a_finish_comes_twice(url: str, wire: str) -> None:
    heard = ask(url, wire, "doubled-finish")
    assert (heard.complete, finishes(heard)) == (True, 2)


@pytest.mark.parametrize("wire", WIRES)
def test_text_comes_after_the_end(url: str, wire: str) -> None:
    heard = ask(url, wire, "text-after-end")
    assert text(heard).endswith(" after all")
    assert heard.complete and b" after" in heard.chunks[-2] and b" all" in heard.chunks[-1]


@pytest.mark.parametrize("name", [name for name, kind in FAULTS.items() if kind.scope == "stream"])
def test_a_fault_of_the_stream_leaves_the_whole_answer_healthy(url: str, name: str) -> None:
    heard = ask(url, fault=name, streamed=False)
    assert heard.complete
    assert json.loads(heard.body)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("name", "how"), [("stall", "silent"), ("cut", "closed"), ("reset-mid-stream", "reset")])
def test_always_breaks_the_whole_answer_too(url: str, name: str, how: str) -> None:
    heard = ask(url, fault=f"{name}-always", streamed=False, silence_s=0.3)
    assert (heard.how, heard.complete) == (how, False)
    assert heard.body


def test_always_spoils_the_whole_answer_too(url: str) -> None:
    malformed, bad = (ask(url, fault=f"{name}-always", streamed=False) for name in ("malformed-json", "bad-utf8"))
    assert malformed.complete and bad.complete
    with pytest.raises(json.JSONDecodeError):
        json.loads(malformed.body)
    with pytest.raises(UnicodeDecodeError):
        bad.body.decode()


def test_an_answer_that_was_reset_leaves_the_server_well(url: str) -> None:
    for _ in range(20):
        with opened(url) as sock:
            sock.sendall(request(PATHS["openai"], question("openai")))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert ask(url).complete
