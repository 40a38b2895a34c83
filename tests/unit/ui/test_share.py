"""The link for others, where there is a share server and where there is none."""

from collections.abc import Callable

import httpx
import pytest

from guard import Refusal
from server.hosts import AllowedHosts
from ui import share


def said(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, on_link: Callable[[str], None] = lambda link: None
) -> tuple[list[str], list[object]]:
    lines: list[str] = []
    asked: list[object] = []

    def tunnel(*given: object) -> str:
        asked.extend(given)
        if isinstance(answer, Exception):
            raise RuntimeError("Could not get share link from Gradio API Server.") from answer
        return answer

    monkeypatch.setattr(share, "setup_tunnel", tunnel)
    share.share(7861, lines.append, on_link).join(10)
    return lines, asked


def test_the_link_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, asked = said(monkeypatch, "https://abc.gradio.live")
    assert len(lines) == 1 and "https://abc.gradio.live" in lines[0]
    assert asked[:2] == ["127.0.0.1", 7861] and len(str(asked[2])) >= 32, "nobody guesses the tunnel's token"


def test_the_link_is_known_to_the_host_check(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = AllowedHosts.from_listener("127.0.0.1", frozenset(), is_proxied=False)
    with pytest.raises(Refusal):
        hosts.check([b"abc.gradio.live"], "1.1")
    said(monkeypatch, "https://abc.gradio.live", hosts.add_link)
    hosts.check([b"abc.gradio.live"], "1.1")
    with pytest.raises(Refusal):
        hosts.check([b"abd.gradio.live"], "1.1")


def test_without_a_share_server_one_line_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, _ = said(monkeypatch, httpx.ConnectError("[Errno -2] Name or service not known"))
    assert len(lines) == 1 and "\n" not in lines[0]
    assert "ConnectError" in lines[0] and "Space" in lines[0] and "--host" in lines[0]
