"""The URLs of Postgres and Redis: how they are written, and what a line to another machine must have.

Outside the sandbox a line to another machine is encrypted and Redis has a password. In a private network whose owner
says so (ENTREGA_PRIVATE_NETWORK) it may be plain; a password is wanted there as well.
"""

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qs, urlsplit

_POSTGRES = re.compile(r"^(postgres|postgresql|postgresql\+psycopg)://")
# Source: libpq, section 32.1.2, `sslmode`, read 2026-12-01: these never fall back to a plain line.
_ENCRYPTED = frozenset({"require", "verify-ca", "verify-full"})
# Names that no public DNS resolves. Source: RFC 6762 (local), RFC 8375 (home.arpa), ICANN 2024-07-29 (internal).
_PRIVATE_ENDINGS = (".internal", ".local", ".home.arpa", ".lan")
_PRIVATE = "in a private network set ENTREGA_PRIVATE_NETWORK=true"


def split_url(url: str) -> SplitResult | None:
    """Return the parts of a URL, or None where it is none, or where two parsers would see two different hosts."""
    if re.search(r"[\\\s\x00-\x1f]", url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine, without asking any name server."""
    try:
        return host.lower() == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_on_this_machine(url: str) -> bool:
    """Tell whether a Postgres URL leads to this machine: by loopback or by a socket in the file system."""
    return all(each.startswith("/") or is_loopback(each) for each in _hosts(url))


def postgres_url(url: str) -> str:
    """Return the URL as SQLAlchemy takes it.

    Raises:
        ValueError: It is no URL of Postgres.
    """
    if split_url(url) is None or not _POSTGRES.match(url):
        raise ValueError("wanted postgresql://user:password@host:5432/database; special characters percent-encoded")
    return _POSTGRES.sub("postgresql+psycopg://", url)


def encrypted_postgres_url(url: str, *, private: bool) -> str:
    """Return the URL with `sslmode=require` where it leads to another machine and says nothing of TLS.

    Args:
        private: Whether the network is said to be private.

    Raises:
        ValueError: It asks for a line that may be plain.
    """
    parts = urlsplit(url)
    mode = parse_qs(parts.query).get("sslmode", [""])[0]
    if is_on_this_machine(url) or mode in _ENCRYPTED or (private and all(map(_is_private, _hosts(url)))):
        return url
    if mode:
        raise ValueError(f"sslmode={mode} allows a plain line; wanted sslmode=require or verify-full ({_PRIVATE})")
    return f"{url}{'&' if parts.query else '?'}sslmode=require"


def redis_url(url: str) -> str:
    """Return the URL.

    Raises:
        ValueError: It is no URL of Redis.
    """
    parts = split_url(url)
    if parts is None or parts.scheme not in {"redis", "rediss"} or not parts.hostname:
        raise ValueError("wanted redis://host:6379/0 or rediss://:password@host:6379/0")
    return url


def protected_redis_url(url: str, *, private: bool) -> str:
    """Return the URL of a Redis that only those who know its password reach, over an encrypted line.

    Args:
        private: Whether the network is said to be private.

    Raises:
        ValueError: It has no password, or its line is plain.
    """
    parts = urlsplit(redis_url(url))
    host = parts.hostname or ""
    if is_loopback(host):
        return url
    if not parts.password:
        raise ValueError("a Redis on another machine needs a password; wanted REDIS_URL=rediss://:password@host:6379/0")
    if parts.scheme != "rediss" and not (private and _is_private(host)):
        raise ValueError(f"redis:// is a plain line; wanted rediss://:password@host:6379/0 ({_PRIVATE})")
    return url


def _hosts(url: str) -> list[str]:
    """Return every host that a Postgres URL names; none where it leaves it to the driver, which takes its socket.

    Source: SQLAlchemy 2.0, PostgreSQL dialect, "Specifying multiple fallback hosts": `host` in the query replaces the
    host before it, and may hold `name:port`; libpq, section 32.1.2, `hostaddr` likewise. Read 2026-12-01.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    named = ",".join([parts.hostname or "", *query.get("host", ()), *query.get("hostaddr", ())]).split(",")
    return [each.partition(":")[0] if each.count(":") == 1 else each for each in named if each]


def _is_private(host: str) -> bool:
    """Tell whether a host lies in a private network: by its address, or by a name that has no public meaning."""
    try:
        return ip_address(host).is_private
    except ValueError:
        return "." not in host or host.lower().endswith(_PRIVATE_ENDINGS)
