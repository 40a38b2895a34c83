"""The spelling of a root path, and who may name it."""

import pytest

from settings import InvalidVariablesError, Settings
from streaming.http.root_path import forwarded_root_path, remove_root_path, route_path

HEADER = b"x-forwarded-prefix"


@pytest.mark.parametrize("path", ["/chat", "/tools/gauge", "/a.b-c_d~1", "/user/ann/proxy/7860", "/..a/b.."])
def test_path_of_names_is_root_path(path: str) -> None:
    assert Settings({"ROOT_PATH": path}).root_path == path


@pytest.mark.parametrize(
    "path",
    [
        "chat", "chat/", "/chat/", "/", "//chat", "/a//b", "https://example.com/chat", "/a b", "/..", "/a/../b", "/a/.",
        "/%2e", "/chat?x=1", "/chat#x", "/chät", "/a\\b", "/a\r\nx: y", "/api", "/v1/chat", "/gradio_api", "/assets/x",
        "/" + "a" * 256,
    ],
)  # fmt: skip
def test_any_other_path_is_reported_in_one_line(path: str) -> None:
    with pytest.raises(InvalidVariablesError) as failure:
        Settings({"ROOT_PATH": path})
    (problem,) = failure.value.problems
    assert problem.startswith("ROOT_PATH: ") and "/chat" in problem and "\n" not in problem


@pytest.mark.parametrize(
    ("hops", "values", "path"),
    [
        (0, [b"/chat"], ""),
        (1, [], ""),
        (1, [b"/chat"], "/chat"),
        (1, [b"/chat/"], "/chat"),
        (1, [b"/"], ""),
        (1, [b"/forged, /chat"], "/chat"),
        (1, [b"/forged", b"/chat"], "/chat"),
        (2, [b"/chat"], "/chat"),
        (2, [b"/forged, /outer, /inner"], "/outer/inner"),
        (1, [b"//evil.example"], ""),
        (1, [b"/a/../b"], ""),
        (1, [b"/chat\xff"], ""),
        (1, [b"/api"], ""),
    ],
)
def test_forwarded_path_counts_by_trusted_hops(hops: int, values: list[bytes], path: str) -> None:
    headers = [(b"host", b"h"), *((HEADER, value) for value in values)]
    assert forwarded_root_path(headers, hops) == path


def test_route_path_is_what_follows_the_root_path() -> None:
    assert route_path({"path": "/chat/api/chat", "root_path": "/chat"}) == "/api/chat"
    assert route_path({"path": "/api/chat"}) == "/api/chat"
    assert remove_root_path("/chatter", "/chat") == "/chatter"
    assert remove_root_path("/chat", "/chat") == ""
