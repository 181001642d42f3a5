"""Where a callback may go: what a producer's URL must look like, and which addresses may be connected to.

A producer chooses the URL and we connect from inside our own network, so both are checked: the text when a command is
accepted, without asking a name server, and every address the name stands for at each new connection. The text alone
decides nothing: names resolve to anything, and numbers have many disguises.

Source: OWASP, "Server Side Request Forgery Prevention", and IANA's special-purpose address registries, read 2026-11-22.
"""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

Address = IPv4Address | IPv6Address

LONGEST_URL = 2000
_HTTPS_PORT = 443
_PORTS = frozenset({_HTTPS_PORT, 8443})

# One alphabet in which no two parsers disagree: no space, control, backslash, quote or letter beyond ASCII.
_PLAIN = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+")
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
# What a name server inside a network answers for; the names say themselves that they mean no public host.
_PRIVATE_ZONES = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "home.arpa")

# Public by the registries, and yet no place for a callback.
_REFUSED_V4 = tuple(
    map(
        IPv4Network,
        (
            "168.63.129.16/32",  # metadata of a large cloud
            "192.88.99.0/24",  # 6to4 relays
            "192.0.0.0/24",  # protocol assignments; a cloud's metadata is among them
        ),
    )
)
# Unicast addresses of the internet lie in here. Outside are loopback, link-local, private, multicast, NAT64, and the
# mapped and compatible forms of IPv4. Inside, these are left out: protocol assignments (Teredo, ORCHID), documentation,
# 6to4 and the old 6bone. They can carry an IPv4 address that nobody would have allowed by itself.
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3ffe::/16", "3fff::/20")))


def is_public(address: Address) -> bool:
    """Tell whether an address belongs to a host of the internet and to nothing else."""
    if isinstance(address, IPv4Address):
        special = address.is_multicast or address.is_reserved or any(address in each for each in _REFUSED_V4)
        return address.is_global and not special
    return address.scope_id is None and address in _GLOBAL_V6 and not any(address in each for each in _REFUSED_V6)


def may_connect(address: Address, scheme: str, *, sandbox: bool) -> bool:
    """Tell whether a callback may go to an address: https to a public one; in the sandbox also to loopback."""
    if sandbox and address.is_loopback:
        return True
    return scheme == "https" and is_public(address)


def url_issue(url: str, *, sandbox: bool) -> str | None:
    """Return what is wrong with a callback URL, as a word of `delivery.wording`, or None; asks no name server.

    Args:
        sandbox: Plain http and any port are allowed to loopback.
    """
    if len(url) > LONGEST_URL:
        return f"callback_long:{LONGEST_URL}"
    parts = _split(url)
    if parts is None or not parts.hostname:
        return "callback_url"
    literal = _literal(parts.hostname)
    is_local = parts.hostname == "localhost" or (literal is not None and literal.is_loopback)
    if sandbox and is_local:
        return None
    if parts.scheme != "https":
        return "callback_https"
    if (parts.port or _HTTPS_PORT) not in _PORTS:
        return "callback_port:" + ", ".join(map(str, sorted(_PORTS)))
    is_reachable = is_public(literal) if literal is not None else _is_public_name(parts.hostname)
    return None if is_reachable else "callback_private"


def host_of(url: str) -> str:
    """Return the host of a URL that was checked, with its port unless it is the usual one. Never the path."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else str(parts.hostname)
    return host if parts.port in (None, _HTTPS_PORT) else f"{host}:{parts.port}"


def _split(url: str) -> SplitResult | None:
    if not _PLAIN.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and _NETLOC.fullmatch(parts.netloc) else None


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_public_name(host: str) -> bool:
    """Tell whether a name is one of the public name system; a last label that is a number is an address in disguise."""
    name = host.removesuffix(".")
    labels = name.split(".")
    zones = tuple(f".{each}" for each in _PRIVATE_ZONES)
    well_formed = len(name) <= 253 and all(_LABEL.fullmatch(each) for each in labels)  # noqa: PLR2004 - RFC 1035
    return well_formed and len(labels) > 1 and not labels[-1][0].isdigit() and not name.endswith(zones)
