"""`make space` over a Hub on loopback: what is sent where, by whose token, and that a dry run sends nothing."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "x" * 34


@dataclass
class FakeHub:
    """The endpoints of the Hub that an upload uses, with what they received. `refusal`: the status of a creation."""

    refusal: int = 0
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    created: dict[str, Any] = field(default_factory=dict)
    commit: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        """Return the status and the JSON of a response."""
        if path == "/api/whoami-v2":
            return 200, {"name": "somebody", "type": "user", "auth": {}}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            self.created = json.loads(body)
            return self.refusal or 200, {"url": f"{self.url}/spaces/somebody/gauge", "error": "Payment Required"}
        if path.startswith("/api/spaces/somebody/gauge/preupload/"):
            files = json.loads(body)["files"]
            return 200, {
                "files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            }
        if path.startswith("/api/spaces/somebody/gauge/commit/"):
            self.commit = [json.loads(line) for line in body.splitlines()]
            return 200, {
                "commitUrl": f"{self.url}/spaces/somebody/gauge/commit/{'1' * 40}",
                "commitOid": "1" * 40,
                "success": True,
            }
        if path.startswith("/api/spaces/somebody/gauge/tree/"):
            names = ("app.py", "left-over.py", ".gitattributes")
            return 200, [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names]
        return 404, {"error": f"no {path} here"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    result = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            result.requests.append((self.command, self.path, self.headers.get("authorization")))
            status, fields = result.answer(self.path.partition("?")[0], body)
            data = json.dumps(fields).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        result.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield result
        finally:
            server.shutdown()
            thread.join()


def upload(hub: FakeHub, home: Path, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_ENDPOINT": hub.url, **variables}
    command = [sys.executable, "-m", "space", "upload", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_dry_run_says_what_would_be_sent_and_sends_nothing(hub: FakeHub, tmp_path: Path) -> None:
    run = upload(hub, tmp_path, "somebody/gauge", HF_TOKEN=TOKEN)
    assert run.returncode == 0, run.stderr
    assert "https://huggingface.co/spaces/somebody/gauge\n" in run.stdout
    assert "hardware: zero-a10g " in run.stdout and "PUSH=1" in run.stdout
    assert hub.requests == []


def test_push_makes_the_space_and_sends_the_files_in_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    run = upload(hub, tmp_path, "somebody/gauge", "--push", HF_TOKEN=TOKEN)
    assert run.returncode == 0, run.stderr
    assert "uploaded: " in run.stdout and TOKEN not in run.stdout + run.stderr
    sent = {token for method, _, token in hub.requests if method == "POST"}
    assert sent == {f"Bearer {TOKEN}"}
    assert (hub.created["name"], hub.created["organization"], hub.created["type"]) == ("gauge", "somebody", "space")
    assert (hub.created["sdk"], hub.created["hardware"]) == ("gradio", "zero-a10g")
    files = {
        one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in hub.commit if one["key"] == "file"
    }
    assert files["app.py"] == (ROOT / "app.py").read_bytes() and "requirements.txt" in files
    assert not [name for name in files if name.startswith("tests/")]
    thumbnail = b"thumbnail: https://huggingface.co/spaces/somebody/gauge/resolve/main/docs/images/chat-light.png\n"
    assert thumbnail in files["README.md"]
    deleted = [one["value"]["path"] for one in hub.commit if one["key"] == "deletedFile"]
    assert deleted == ["left-over.py"]


def test_push_without_token_says_how_to_log_in_and_asks_nothing(hub: FakeHub, tmp_path: Path) -> None:
    run = upload(hub, tmp_path, "somebody/gauge", "--push")
    assert run.returncode == 2
    assert run.stderr == "error: PUSH: no token for the Hub is set (run hf auth login, or set HF_TOKEN)\n"
    assert hub.requests == []


def test_push_to_hardware_that_has_to_be_paid_says_so(hub: FakeHub, tmp_path: Path) -> None:
    hub.refusal = 402
    run = upload(hub, tmp_path, "somebody/gauge", "--push", "--hardware", "cpu-basic", HF_TOKEN=TOKEN)
    assert run.returncode == 2 and hub.created["hardware"] == "cpu-basic" and hub.commit == []
    assert "the Hub answered 402: " in run.stderr and "two Spaces, on zero-a10g only" in run.stderr


@pytest.mark.parametrize(
    ("options", "output"),
    [(["gauge"], "NAME: 'gauge' is not the name of a Space"), (["a/b", "--hardware", "x"], "HARDWARE: the Hub has no")],
)
def test_upload_with_a_wrong_name_or_hardware_says_what_to_write(
    hub: FakeHub, tmp_path: Path, options: list[str], output: str
) -> None:
    run = upload(hub, tmp_path, *options)
    assert run.returncode == 2 and output in run.stderr and hub.requests == []
