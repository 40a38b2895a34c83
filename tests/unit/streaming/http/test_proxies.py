"""The decision whether a request goes through a proxy, by the rules that curl and Python share."""

import pytest

from streaming.errors import UsageError
from streaming.http.proxies import is_this_machine, plain_exceptions, proxy_for, system_proxy_for

PROXY = "http://p.example:3128"
OPENAI = "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        (OPENAI, {}, None),
        (OPENAI, {"HTTPS_PROXY": PROXY}, PROXY),
        (OPENAI, {"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        (OPENAI, {"http_proxy": PROXY}, None),
        (OPENAI, {"ALL_PROXY": PROXY}, PROXY),
        (OPENAI, {"HTTPS_PROXY": " ", "ALL_PROXY": PROXY}, PROXY),
        (OPENAI, {"HTTPS_PROXY": "127.0.0.1:1081"}, "http://127.0.0.1:1081"),
        (OPENAI, {"ALL_PROXY": "socks5://127.0.0.1:1080"}, "socks5://127.0.0.1:1080"),
        ("wss://a.example/x", {"HTTPS_PROXY": PROXY}, PROXY),
        ("ws://a.example/x", {"HTTP_PROXY": PROXY}, PROXY),
    ],
)
def test_proxy_is_the_one_that_the_environment_names(url: str, variables: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, variables) == proxy


@pytest.mark.parametrize(
    ("url", "excepted", "is_direct"),
    [
        ("http://gpu1.example:8000/v1", "gpu1.example:8000", True),
        ("http://gpu1.example:8000/v1", "gpu1.example:8001", False),
        ("http://gpu1.example/v1", "gpu1.example:80", True),
        ("http://gpu1.example:8000/v1", "GPU1.EXAMPLE", True),
        ("http://GPU1.example:8000/v1", "gpu1.example", True),
        ("http://gpu1.example:8000/v1", ".example", True),
        ("http://gpu1.example:8000/v1", "*.example", True),
        ("http://gpu1.example:8000/v1", "example", True),
        ("http://gpu1.example:8000/v1", "ample", False),
        ("http://gpu1.example./v1", "gpu1.example", True),
        ("http://10.1.2.3:8000/v1", "10.0.0.0/8", True),
        ("http://10.1.2.3:8000/v1", "10.0.0.1/8", True),
        ("http://11.1.2.3:8000/v1", "10.0.0.0/8", False),
        ("http://10.1.2.3:8000/v1", "10.1.2.3", True),
        ("http://10.1.2.3:8000/v1", "10.1.2.3:8000", True),
        ("http://[fd00::5]:8000/v1", "fd00::/8", True),
        ("http://[fd00::5]:8000/v1", "[fd00::5]", True),
        ("http://[fd00::5]:8000/v1", "[fd00::5]:8000", True),
        ("http://[fd00::5]:8000/v1", "[fd00::5]:1", False),
        ("http://[fd00::5]:8000/v1", "fd00::5", True),
        ("http://[fd00::5]:8000/v1", "10.0.0.0/8", False),
        ("http://a.example/v1", "localhost,127.0.0.1,[::1]", False),
        ("http://a.example/v1", "b.example, a.example", True),
        ("http://a.example/v1", "b.example a.example", True),
        ("http://a.example/v1", "*", True),
        ("http://a.example/v1", ",.,[", False),
    ],
)
def test_no_proxy_covers_names_addresses_ranges_and_ports(url: str, excepted: str, is_direct: bool) -> None:
    assert (proxy_for(url, {"HTTP_PROXY": PROXY, "NO_PROXY": excepted}) is None) is is_direct


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/v1", "http://127.9.9.9", "localhost:11434", "http://LOCALHOST", "http://me.localhost",
        "http://[::1]:11434", "http://0.0.0.0:11434", "http://[::]:11434", "http://[::ffff:127.0.0.1]:1",
    ],
)  # fmt: skip
def test_this_machine_never_has_a_proxy(url: str) -> None:
    assert proxy_for(url, {"HTTP_PROXY": PROXY, "ALL_PROXY": "not a proxy"}) is None


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "localhost.example", "", "128.0.0.1"])
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_this_machine(host)


@pytest.mark.parametrize("value", ["ftp://p:1", "socks4://p:1", "http://", "http://[", "http://p:x", "://"])
def test_value_that_is_no_proxy_is_rejected_with_its_variable_and_not_quoted(value: str) -> None:
    with pytest.raises(UsageError, match=r"^HTTPS_PROXY: this is not a proxy's address \(write ") as error:
        proxy_for(OPENAI, {"HTTPS_PROXY": value})
    assert "ftp" not in str(error.value) and "socks4" not in str(error.value)


def test_client_without_settings_follows_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "b.example")
    assert system_proxy_for("http://a.example") == PROXY
    assert system_proxy_for("http://b.example") is None
    assert system_proxy_for("http://127.0.0.1:1") is None


def test_exceptions_for_libraries_have_no_brackets_and_no_ranges_of_ipv6() -> None:
    excepted = "localhost, 127.0.0.1,[::1] ::1,10.0.0.0/8,fd00::/8,[::1]:80,.example:8000,*"
    unreadable = "[::1,*.example:port,bücher.example,http://a.example/b"
    assert plain_exceptions(unreadable) == []
    assert plain_exceptions(excepted) == ["localhost", "127.0.0.1", "::1", "::1", "10.0.0.0/8", ".example:8000", "*"]
