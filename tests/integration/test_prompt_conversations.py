"""Prompts with a system prompt, earlier turns, a limit and a right answer: what a vendor receives, over every way."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation.__main__ import main as evaluate
from evaluation.load_test.__main__ import main as load_test

PROMPT = {
    "id": "capital",
    "system": "You answer with one word.",
    "messages": [{"role": "user", "content": "France?"}, {"role": "assistant", "content": "Paris"}],
    "prompt": "And Portugal?",
    "max_tokens": 7,
    "expected": {"exact": "Lisbon"},
}
SENT = [
    {"role": "system", "content": "You answer with one word."},
    {"role": "user", "content": "France?"},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": "And Portugal?"},
]
ANSWER = (
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Lisbon"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}},
)


@contextmanager
def run_vendor() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve chat completions; yield the base URL, and the bodies received."""
    bodies: list[dict[str, Any]] = []

    class Vendor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._respond("application/json", b'{"object": "list", "data": [{"id": "m", "object": "model"}]}')

        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            chunks = [f"data: {json.dumps(chunk)}\n\n" for chunk in ANSWER]
            self._respond("text/event-stream", "".join([*chunks, "data: [DONE]\n\n"]).encode())

        def _respond(self, content_type: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Vendor) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", bodies
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    with run_vendor() as (url, bodies):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("UNPRICED_USD_PER_1M", "0/0")
        yield bodies


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n", encoding="utf-8")
    return tmp_path / "prompts.jsonl"


def limit_of(body: dict[str, Any]) -> object:
    return body.get("max_completion_tokens", body.get("max_tokens"))


def test_evaluation_sends_whole_conversation_over_every_transport(
    vendor: list[dict[str, Any]], prompts: Path, tmp_path: Path
) -> None:
    words = "run --providers openai:m --transport in-process,sse,websocket,openai --no-fresh --no-warm-up --no-plots"
    assert evaluate([*words.split(), "--prompts", str(prompts), "--out", str(tmp_path / "run")]) == 0
    assert [body["messages"] for body in vendor] == [SENT] * 4
    assert {limit_of(body) for body in vendor} == {7}
    trials = evaluation.load(tmp_path / "run").trials
    assert trials["correct"].tolist() == [True] * 4
    report = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "of the prompts 1 with a system prompt, 1 with earlier turns, 1 with a limit of their own" in report


def test_load_users_send_whole_conversation(vendor: list[dict[str, Any]], prompts: Path, tmp_path: Path) -> None:
    words = "run --kind sse,websocket,openai,gradio --users 4 --duration 2s --think-s 1 --no-plots"
    options = ("--provider", "openai:m", "--model", "openai:m", "--prompts", str(prompts))
    assert load_test([*words.split(), *options, "--out", str(tmp_path / "load")]) in (0, 4)
    assert {json.dumps(body["messages"]) for body in vendor} == {json.dumps(SENT)}
    assert {limit_of(body) for body in vendor} == {7}
    trials = evaluation.load(tmp_path / "load").trials
    assert set(trials["transport"]) == {"sse", "websocket", "openai", "gradio"}
    assert set(trials["correct"]) == {True}


def test_load_test_names_an_invalid_line_before_anything_starts(
    vendor: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"id": "a", "prompt": "Why?"}\n{"id": "b", "prompt": "How?", "sytem": "x"}\n', encoding="utf-8")
    assert load_test(["run", "--prompts", str(file), "--out", str(tmp_path / "load")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}, line 2: 'sytem' is not a field of a prompt") and said.count("\n") == 1
    assert not vendor and not (tmp_path / "load").exists()
