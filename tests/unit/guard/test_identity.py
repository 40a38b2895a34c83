"""The identity of callers: client addresses that cannot be forged, and hashed API keys."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.identity import (
    ApiKeys,
    Caller,
    address_block,
    client_address,
    forwarded_address,
    hash_key,
    make_key,
    parse_keys,
)
from guard.rejection import RejectionError
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
def test_client_address_comes_from_trusted_proxy(forwarded: str | None, hops: int, expected: str) -> None:
    assert forwarded_address("10.0.0.1", forwarded, hops) == expected


def test_forged_forwarded_header_is_ignored() -> None:
    spoofed = {forwarded_address("10.0.0.1", f"203.0.113.{n}, 1.1.1.1", 1) for n in range(50)}
    assert spoofed == {"1.1.1.1"}
    assert {forwarded_address("1.1.1.1", f"203.0.113.{n}", 0) for n in range(50)} == {"1.1.1.1"}


def test_address_block_groups_ipv6_by_64() -> None:
    assert address_block("2001:db8:1:2:3::4") == address_block("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert address_block("2001:db8:1:3::") != address_block("2001:db8:1:2::")
    assert address_block("fe80::1%eth0") == "fe80::/64"
    assert address_block("::ffff:192.0.2.1") == address_block("192.0.2.1") == "192.0.2.1"
    assert address_block(None) == address_block("") == address_block("a unix socket") == "unknown"


@given(st.text(st.characters(categories=None), max_size=60), st.integers(0, 4))
def test_any_forwarded_header_is_parsed_without_error(text: str, hops: int) -> None:
    address_block(forwarded_address("10.0.0.1", text, hops))
    address_block(text)


def test_api_key_never_appears_in_repr() -> None:
    assert "s3cret" not in repr(Caller("s3cret", "1.1.1.1"))
    key, line = make_key("ann")
    assert key not in line and hash_key(key) in line and len(key) > 40
    assert make_key("ann")[0] != key


def test_known_key_is_identified_and_unknown_rejected() -> None:
    (ann, first), (bob, second) = make_key("ann"), make_key("bob")
    keys = parse_keys(f" {first} ,{second.replace('sha256:', 'sha256:')},")
    assert keys.identify(Caller(ann, "1.1.1.1")) == "key:ann"
    assert keys.identify(Caller(bob)) == "key:bob"
    for wrong in (None, "", ann[:-1], ann + "x", hash_key(ann), "\ud800", "x" * 100_000, "ключ"):
        with pytest.raises(RejectionError, match="Authorization: Bearer KEY") as excinfo:
            keys.identify(Caller(wrong, "1.1.1.1"))
        assert (excinfo.value.rule, excinfo.value.kind, excinfo.value.status) == ("auth", "unauthorized", 401)
        assert not wrong or wrong not in str(excinfo.value)


def test_key_lookup_finds_each_key_by_its_hash() -> None:
    keys = ApiKeys({"a": hash_key("1"), "b": hash_key("2"), "c": hash_key("3")})
    assert [keys.lookup(key) for key in ("1", "2", "3", "4", hash_key("1"), "")] == ["a", "b", "c", None, None, None]


def test_caller_without_keys_is_identified_by_address() -> None:
    assert ApiKeys().identify(Caller("anything", "2001:db8::1")) == "address:2001:db8::/64"


@pytest.mark.parametrize(
    "text", ["ann", "ann=sha256:12", "=sha256:" + "a" * 64, "a b=sha256:" + "a" * 64, "ann=" + "a" * 64]
)
def test_invalid_key_entry_is_named_without_showing_it(text: str) -> None:
    _, good = make_key("good")
    with pytest.raises(UsageError, match=r"^API_KEYS: entry 2 .* `python -m guard NAME`") as excinfo:
        parse_keys(f"{good},{text}")
    assert "a" * 10 not in str(excinfo.value)


def test_duplicate_key_name_is_rejected() -> None:
    with pytest.raises(UsageError, match="entry 2"):
        parse_keys(",".join([make_key("ann")[1], make_key("ann")[1]]))


def test_guard_command_creates_valid_key() -> None:
    command = [sys.executable, "-m", "guard"]
    done = subprocess.run([*command, "ann"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    made = json.loads(done.stdout.splitlines()[-1])
    assert parse_keys(made["api_keys"]).lookup(made["key"]) == made["name"] == "ann"
    assert f"API_KEYS={made['api_keys']}" in done.stdout
    failed = subprocess.run([*command, "a b"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
    assert failed.stderr.startswith("error: NAME: 'a b' is not a key name")


def test_client_address_repeated_header_lines_are_one_list() -> None:
    lines = [("X-Forwarded-For", "6.6.6.6"), ("host", "x"), ("x-forwarded-for", "203.0.113.8")]
    assert client_address("10.0.0.1", lines, 1) == "203.0.113.8"
    assert client_address("10.0.0.1", lines, 2) == "6.6.6.6"
    assert client_address("10.0.0.1", lines, 0) == "10.0.0.1"
    assert client_address("10.0.0.1", [], 1) == "10.0.0.1"
