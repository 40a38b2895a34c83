"""Who asks: an address that cannot be made up, and keys that are nowhere kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.callers import Caller, Keys, address, client_address, digest, make_key, network, parse_keys
from guard.refusal import Refusal
from streaming.errors import UsageError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("forwarded", "hops", "expected"),
    [
        (None, 1, "10.0.0.1"),
        ("1.1.1.1", 0, "10.0.0.1"),
        ("9.9.9.9, 1.1.1.1", 1, "1.1.1.1"),
        ("9.9.9.9, 1.1.1.1, 10.0.0.7", 2, "1.1.1.1"),
        ("1.1.1.1", 2, "10.0.0.1"),  # shorter than two proxies would have made it
        ("nonsense", 1, "10.0.0.1"),
        ("1.1.1.1,", 1, "10.0.0.1"),
        ("9.9.9.9, 1.1.1.1:4711", 1, "1.1.1.1"),
        ("[2001:db8::1]:443", 1, "2001:db8::1"),
        ("::ffff:1.1.1.1", 1, "1.1.1.1"),
        ("9.9.9.9, " * 20_000 + "1.1.1.1", 1, "1.1.1.1"),
    ],
)
def test_the_address_is_what_a_trusted_proxy_wrote(forwarded: str | None, hops: int, expected: str) -> None:
    assert address("10.0.0.1", forwarded, hops) == expected


def test_what_a_caller_writes_changes_nothing() -> None:
    spoofed = {address("10.0.0.1", f"203.0.113.{n}, 1.1.1.1", 1) for n in range(50)}
    assert spoofed == {"1.1.1.1"}
    assert {address("1.1.1.1", f"203.0.113.{n}", 0) for n in range(50)} == {"1.1.1.1"}


def test_one_household_is_one_address() -> None:
    assert network("2001:db8:1:2:3::4") == network("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::") != network("2001:db8:1:2::")
    assert network("fe80::1%eth0") == "fe80::/64"
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") == "192.0.2.1"
    assert network(None) == network("") == network("a unix socket") == "unknown"


@given(st.text(st.characters(categories=None), max_size=60), st.integers(0, 4))
def test_no_header_is_an_error(text: str, hops: int) -> None:
    network(address("10.0.0.1", text, hops))
    network(text)


def test_a_key_never_shows() -> None:
    assert "s3cret" not in repr(Caller("s3cret", "1.1.1.1"))
    key, line = make_key("ann")
    assert key not in line and digest(key) in line and len(key) > 40
    assert make_key("ann")[0] != key


def test_known_keys_are_let_in_and_others_are_not() -> None:
    (ann, first), (bob, second) = make_key("ann"), make_key("bob")
    keys = parse_keys(f" {first} ,{second.replace('sha256:', 'sha256:')},")
    assert keys.identify(Caller(ann, "1.1.1.1")) == "key:ann"
    assert keys.identify(Caller(bob)) == "key:bob"
    for wrong in (None, "", ann[:-1], ann + "x", digest(ann), "\ud800", "x" * 100_000, "ключ"):
        with pytest.raises(Refusal, match="Authorization: Bearer KEY") as caught:
            keys.identify(Caller(wrong, "1.1.1.1"))
        assert (caught.value.rule, caught.value.kind, caught.value.status) == ("auth", "unauthorized", 401)
        assert not wrong or wrong not in str(caught.value)


def test_all_hashes_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def counted(presented: str, known: str) -> bool:
        compared.append(known)
        return presented == known

    monkeypatch.setattr("guard.callers.hmac.compare_digest", counted)
    keys = Keys({"a": digest("1"), "b": digest("2"), "c": digest("3")})
    for key in ("1", "3", "4"):
        compared.clear()
        keys.name_of(key)
        assert len(compared) == 3


def test_without_keys_everybody_is_let_in_by_address() -> None:
    assert Keys().identify(Caller("anything", "2001:db8::1")) == "address:2001:db8::/64"


@pytest.mark.parametrize(
    "text", ["ann", "ann=sha256:12", "=sha256:" + "a" * 64, "a b=sha256:" + "a" * 64, "ann=" + "a" * 64]
)
def test_a_faulty_entry_is_named_and_not_shown(text: str) -> None:
    _, good = make_key("good")
    with pytest.raises(UsageError, match=r"^API_KEYS: entry 2 .* `python -m guard NAME`") as caught:
        parse_keys(f"{good},{text}")
    assert "a" * 10 not in str(caught.value)


def test_a_name_counts_once() -> None:
    with pytest.raises(UsageError, match="entry 2"):
        parse_keys(",".join([make_key("ann")[1], make_key("ann")[1]]))


def test_the_command_makes_a_key_that_is_let_in() -> None:
    command = [sys.executable, "-m", "guard"]
    done = subprocess.run([*command, "ann"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    made = json.loads(done.stdout.splitlines()[-1])
    assert parse_keys(made["api_keys"]).name_of(made["key"]) == made["name"] == "ann"
    assert f"API_KEYS={made['api_keys']}" in done.stdout
    failed = subprocess.run([*command, "a b"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
    assert failed.stderr.startswith("error: 'a b' is no name for a key")


def test_client_address_repeated_header_lines_are_one_list() -> None:
    lines = [("X-Forwarded-For", "6.6.6.6"), ("host", "x"), ("x-forwarded-for", "203.0.113.8")]
    assert client_address("10.0.0.1", lines, 1) == "203.0.113.8"
    assert client_address("10.0.0.1", lines, 2) == "6.6.6.6"
    assert client_address("10.0.0.1", lines, 0) == "10.0.0.1"
    assert client_address("10.0.0.1", [], 1) == "10.0.0.1"
