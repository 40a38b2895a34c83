"""Whether a request goes through a proxy, and through which: decided here for providers, clients and evaluations.

The rules are those that curl and Python share: the variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` in
small or capital letters, the small ones first; a proxy without a scheme is an HTTP proxy. An entry of `no_proxy` is a
domain with its subdomains (with or without a leading dot), an address, or a range of addresses, each with an optional
port. Capitals do not matter, and `*` stands for every host. Addresses of this machine never have a proxy.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from streaming.errors import UsageError

SCHEMES = ("http", "https", "socks5", "socks5h")
"""The schemes of the proxies that the HTTP libraries support."""
_PLAIN_NAME = re.compile(r"\*|(?:\*?\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?(?::[0-9]{1,5}|/[0-9]{1,2})?", re.IGNORECASE)
"""A name or an address of IPv4, with or without a port, or a range."""
_PORTS = {"http": 80, "https": 443}
_WEBSOCKET_SCHEMES = {"ws": "http", "wss": "https"}


def proxy_for(url: str, variables: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy that the environment names for a URL; None for a direct connection.

    Raises UsageError naming the variable whose value is not a proxy.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = (parts.hostname or "").rstrip(".")
    scheme = _WEBSOCKET_SCHEMES.get(parts.scheme, parts.scheme)
    for name in (f"{scheme}_proxy", "all_proxy"):
        if (found := _find_variable(variables, name)) is not None:
            break
    else:
        return None
    port = parts.port or _PORTS.get(scheme)
    excepted = _find_variable(variables, "no_proxy")
    if is_this_machine(host) or (excepted is not None and _is_excepted(host, port, excepted[1])):
        return None
    return parse_proxy(*found)


def system_proxy_for(url: str) -> str | None:
    """Return the same for this process's own environment, for clients that have no settings."""
    return proxy_for(url, {f"{name}_proxy": value for name, value in getproxies_environment().items()})


def parse_proxy(name: str, value: str) -> str:
    """Return the URL of a proxy from the value of the variable `name`. Raises UsageError when it is none."""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme.lower() in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UsageError(f"{name}: this is not a proxy's address (write http://host:port or socks5://host:port)")
    return url


def plain_exceptions(excepted: str) -> list[str]:
    """Return the entries of `no_proxy` that every library can read: `*`, names, addresses and ranges of IPv4.

    An IPv6 address loses its brackets, and is left out if it is a range or has a port.
    """
    entries = [entry for part in excepted.split(",") for entry in part.split()]
    plain = [entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry for entry in entries]
    return [entry for entry in plain if _PLAIN_NAME.fullmatch(entry) or _is_ipv6(entry)]


def _is_ipv6(entry: str) -> bool:
    try:
        return ip_address(entry).version == 6
    except ValueError:
        return False


def is_this_machine(host: str) -> bool:
    """Return whether a host is this machine: a loopback or unspecified address, or `localhost`."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or address.is_unspecified or (mapped is not None and mapped.is_loopback)


def _find_variable(variables: Mapping[str, str], name: str) -> tuple[str, str] | None:
    """Return the name and the value of a variable in small or capital letters; None if it is unset or empty."""
    for spelled in (name, name.upper()):
        if value := variables.get(spelled, "").strip():
            return spelled, value
    return None


def _is_excepted(host: str, port: int | None, excepted: str) -> bool:
    entries = (entry for part in excepted.split(",") for entry in part.split())
    return any(_covers(entry.lower(), host.lower(), port) for entry in entries)


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of `no_proxy` covers a host at a port."""
    if entry == "*":
        return True
    name, wanted_port = _split_port(entry)
    if wanted_port is not None and wanted_port != port:
        return False
    try:
        return ip_address(host) in ip_network(name, strict=False)
    except (ValueError, TypeError):  # one of the two is a name, or they are of different versions
        domain = name.removeprefix("*").strip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """Return an entry without its brackets and port, and the port; an IPv6 address needs brackets to have one."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, int(rest[1:]) if rest[1:].isdecimal() else None
    name, colon, port = entry.rpartition(":")
    if colon and ":" not in name and port.isdecimal():
        return name, int(port)
    return entry, None
