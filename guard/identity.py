"""Identification of callers by API key or by client address behind proxies."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from guard.rejection import RejectionError
from streaming.errors import UsageError

_KEY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
_MAX_KEY_CHARS = 512


@dataclass(frozen=True, slots=True)
class Caller:
    """The identifying data of a caller. `address` is the client address behind the trusted proxies.

    The key is excluded from the repr.
    """

    key: str | None = field(default=None, repr=False)
    address: str | None = None
    session: str | None = None


def forwarded_address(peer: str | None, forwarded_for: str | None, hops: int) -> str | None:
    """Return the address at position `hops` from the right of X-Forwarded-For, set by the outermost trusted proxy.

    Entries further left are set by the caller and not trusted. Return `peer` if `hops` is 0, or if the header has
    fewer entries or no valid address at that position, because such a request did not pass through the proxies.
    """
    if hops < 1 or not forwarded_for:
        return peer
    entries = forwarded_for.rsplit(",", hops)[-hops:]
    address = _parse_address(entries[0]) if forwarded_for.count(",") >= hops - 1 else None
    return peer if address is None else str(address)


def client_address(peer: str | None, headers: Iterable[tuple[str, str]], hops: int) -> str | None:
    """Return the caller's address from the peer address and all header lines, by the rules of `forwarded_address`.

    A proxy may append a separate X-Forwarded-For line, so all lines are joined into one list.
    """
    lines = [value for name, value in headers if name.lower() == "x-forwarded-for"]
    return forwarded_address(peer, ",".join(lines), hops)


def address_block(of: str | None) -> str:
    """Return the block that counts as one address: an IPv4 address, or the /64 network of an IPv6 household."""
    address = _parse_address(of or "")
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return "unknown" if address is None else str(address)


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address with or without brackets, port or zone. An IPv4-mapped IPv6 address becomes IPv4."""
    bare = text.strip()[:80]
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        parsed_address = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return parsed_address.ipv4_mapped or parsed_address if isinstance(parsed_address, IPv6Address) else parsed_address


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The hashes of the authorized callers' keys, by caller name. The keys themselves are not stored.

    Unsalted SHA-256 is sufficient because the keys are random and cannot be guessed.
    """

    digests: Mapping[str, str] = field(default_factory=dict, repr=False)

    def lookup(self, key: str | None) -> str | None:
        """Return the name of a known key, or None. The comparison runs in constant time for each known key."""
        if key is None or len(key) > _MAX_KEY_CHARS:
            return None
        presented = hash_key(key)
        key_name = None
        for name, known in self.digests.items():
            if hmac.compare_digest(presented, known):
                key_name = name
        return key_name

    def identify(self, caller: Caller) -> str:
        """Return the caller's ID, `key:NAME` or `address:…`. Raises RejectionError for a missing or unknown key."""
        name = self.lookup(caller.key)
        if name is None and self.digests:
            problem = "unknown" if caller.key else "this service requires one"
            raise RejectionError(
                "auth", "unauthorized", f"API key: {problem} (send a valid key as `Authorization: Bearer KEY`)"
            )
        return f"address:{address_block(caller.address)}" if name is None else f"key:{name}"


def hash_key(key: str) -> str:
    """Return the SHA-256 hash that identifies a key. Accepts any text without raising."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def make_key(name: str) -> tuple[str, str]:
    """Create a key and return it with its `API_KEYS` entry. Raises UsageError when the name is invalid."""
    if not _KEY_NAME.fullmatch(name):
        raise UsageError(
            f"NAME: {name[:80]!r} is not a key name (use up to 64 letters, digits, dots, dashes and underscores)"
        )
    key = "sg-" + secrets.token_urlsafe(32)
    return key, f"{name}=sha256:{hash_key(key)}"


def parse_keys(text: str) -> ApiKeys:
    """Parse comma-separated `NAME=sha256:HEX` entries.

    Raises UsageError when an entry is invalid. The message does not include the hash, which may be a key by mistake.
    """
    digests: dict[str, str] = {}
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        name, _, hashed = (part.strip() for part in entry.partition("="))
        match = _DIGEST.fullmatch(hashed)
        if match is None or not _KEY_NAME.fullmatch(name) or name in digests:
            raise UsageError(
                f"API_KEYS: entry {number} is not NAME=sha256:HEX with a unique name (run `python -m guard NAME`)"
            )
        digests[name] = match[1].lower()
    return ApiKeys(digests)
