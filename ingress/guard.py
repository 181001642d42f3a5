"""Decides what happens to the requests of strangers before they are parsed.

Parsing and refusing a request takes half a millisecond, so five hundred requests at once, or a few thousand a second,
would keep everybody else waiting. A request with a key that this process remembers is parsed at once. Any other waits
its turn. From an address that was refused too often lately only a small webhook whose body has arrived gets one; the
rest is answered with a fixed text, late, and its connection is closed. What passes here has proved nothing yet.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from typing import Literal

from config.spec_webhook import Network
from ingress.access import Doorkeeper
from ingress.problems import Problem
from ingress.strangers import Kind, Strangers

Weight = Literal["parse", "first", "turn", "wait", "refuse"]

_KEY = re.compile(rb"\r\n(?:authorization:[ \t]*bearer[ \t]|x-api-key:)[ \t]*([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_OPEN_TO_ALL = re.compile(rb"(?:GET|HEAD) /health/(?:live|ready)[ ?]")
_WEBHOOK = re.compile(rb"POST /webhooks/")
_MOST_BODY_BYTES = 65_536


@dataclass
class Guard:
    """Guards the connections of one server.

    Attributes:
        proxies: Addresses behind which many callers stand; what one of them did is never held against such an address.
        most_connections: Connections at the same time, of which strangers get half.
        unproved: Connections without a request yet that had a known key or a verified signature, the oldest first.
    """

    doorkeeper: Doorkeeper
    strangers: Strangers
    proxies: Sequence[Network] = ()
    most_connections: int = 800
    unproved: dict[asyncio.Transport, None] = field(default_factory=dict)

    def is_proxy(self, host: str) -> bool:
        """Tell whether operators named this address as a proxy."""
        try:
            return any(ip_address(host) in each for each in self.proxies)
        except ValueError:
            return False

    def has_known_key(self, data: bytes) -> bool:
        """Tell whether the head of a request holds a key that this process remembers."""
        head = data[: max(data.find(b"\r\n\r\n"), 0)]
        keys = [each.decode("latin-1").strip() for each in _KEY.findall(head)]
        for each in keys:
            self.doorkeeper.list_soon(each)  # it may have been made a moment ago
        return any(map(self.doorkeeper.remembers, keys))

    def weigh(self, host: str, data: bytes) -> Weight:
        """Tell what to do with the bytes of a request that came so far.

        What is held up because of its address counts as one more refusal, so that an address which goes on does not
        recover.

        Returns:
            "parse": now. "first", "turn": when its turn comes; weigh it again then. "wait": for more bytes.
            "refuse": late.
        """
        end = data.find(b"\r\n\r\n")
        if _OPEN_TO_ALL.match(data) or self.has_known_key(data):
            return "parse"
        kind: Kind = "webhook" if _WEBHOOK.match(data) else "other"
        if not self.strangers.refused[kind].are_too_many(host):
            return self._weigh_first(host, kind, data, end)
        self.strangers.refused[kind].count(host)
        return self._weigh_again(host, kind, data, end)

    def _weigh_first(self, host: str, kind: Kind, data: bytes, end: int) -> Weight:
        if end < 0 or (kind == "webhook" and self.strangers.has_proved(host)):
            return "parse"
        return "first" if kind == "webhook" and _is_whole(data, end) else "turn"

    def _weigh_again(self, host: str, kind: Kind, data: bytes, end: int) -> Weight:
        if end < 0:
            return "wait"
        if kind == "other" or self.strangers.disproved.are_too_many(host):
            return "refuse"
        size = _size(data, end)
        if size is None or size > _MOST_BODY_BYTES:
            return "refuse"
        return "first" if _is_whole(data, end) else "wait"


def _size(data: bytes, end: int) -> int | None:
    length = _LENGTH.search(data, 0, end + 2)
    return int(length[1]) if length else None


def _is_whole(data: bytes, end: int) -> bool:
    size = _size(data, end)
    return size is not None and len(data) >= end + 4 + size


@cache
def late_refusal() -> bytes:
    """Return the whole answer to a request that is not worth parsing."""
    problem = Problem("too_many_refusals", retry_after_s=1)
    body = json.dumps(problem.body("en")).encode()
    head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Retry-After: 1\r\nConnection: close\r\n\r\n" + body
