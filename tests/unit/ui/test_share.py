"""Tests of the public link, with and without a share server."""

from collections.abc import Callable

import httpx
import pytest

from guard import RejectionError
from server.hosts import AllowedHosts
from ui import app


def run_share(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, on_link: Callable[[str], None] = lambda link: None
) -> tuple[list[str], list[object]]:
    lines: list[str] = []
    requests: list[object] = []

    def fake_tunnel(*given: object) -> str:
        requests.extend(given)
        if isinstance(answer, Exception):
            raise RuntimeError("Could not get share link from Gradio API Server.") from answer
        return answer

    monkeypatch.setattr(app, "setup_tunnel", fake_tunnel)
    app.share(7861, lines.append, on_link).join(10)
    return lines, requests


def test_share_link_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, requests = run_share(monkeypatch, "https://abc.gradio.live")
    assert len(lines) == 1 and "https://abc.gradio.live" in lines[0]
    assert requests[:2] == ["127.0.0.1", 7861] and len(str(requests[2])) >= 32, "nobody guesses the tunnel's token"


def test_share_link_is_passed_to_host_check(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = AllowedHosts.from_listener("127.0.0.1", frozenset(), is_proxied=False)
    with pytest.raises(RejectionError):
        hosts.check([b"abc.gradio.live"], "1.1")
    run_share(monkeypatch, "https://abc.gradio.live", hosts.add_link)
    hosts.check([b"abc.gradio.live"], "1.1")
    with pytest.raises(RejectionError):
        hosts.check([b"abd.gradio.live"], "1.1")


def test_missing_share_server_prints_reason_and_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = run_share(monkeypatch, httpx.ConnectError("[Errno -2] Name or service not known"))
    assert len(lines) == 1 and "\n" not in lines[0]
    assert "ConnectError" in lines[0] and "Space" in lines[0] and "--host" in lines[0]
