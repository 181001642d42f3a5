"""Callers who proved nothing: without a known API key, or with a webhook that is not verified yet.

They share limits of their own, so that what they use up is never what a caller with a key needs: requests under way,
bytes of bodies, threads. An address that is refused again and again is slowed down. An address is a hint and no proof,
because many callers may share one; so a caller with a known key is never slowed, whatever its address did.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal, TypeVar

from anyio import CapacityLimiter, to_thread

from ingress.bodies import BodyReader

Kind = Literal["webhook", "other"]

# Refusals of one address: so many at once, and so many a second after that.
_BURST = 30.0
_PER_S = 10.0
_MOST_ADDRESSES = 20_000
# An address that was refused too often waits this long for its answer; so many may wait at the same time.
_SLOWED_S = 1.0
_MOST_SLOWED = 64
_MOST_AT_ONCE = 128
_THREADS = 2

_Answer = TypeVar("_Answer")


def strangers_bodies() -> BodyReader:
    """Return the reader of unverified webhook bodies: 5 s for an empty one, at least 100 kB/s from a larger one."""
    return BodyReader(most_bytes=32_000_000, within_s=5, least_bytes_per_s=100_000, most_unfinished=64, gives_way=True)


@dataclass
class Strangers:
    """The limits that all callers who proved nothing share in this process. Belongs to one event loop.

    Attributes:
        bodies: Reads the bodies of webhooks that are not verified yet.
        under_way: Their requests under way, webhooks apart: those are limited by `bodies`.
        ticks: A monotonic clock, in seconds.
    """

    bodies: BodyReader = field(default_factory=strangers_bodies)
    under_way: int = 0
    ticks: Callable[[], float] = time.monotonic
    _threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_THREADS))
    _slowed: int = 0
    _left: OrderedDict[tuple[Kind, str], tuple[float, float]] = field(default_factory=OrderedDict)

    @property
    def is_full(self) -> bool:
        """True when one more request of a stranger is one too many."""
        return self.under_way >= _MOST_AT_ONCE

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request as under way until the block ends."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def is_spent(self, kind: Kind, host: str) -> bool:
        """Tell whether this address was refused too often lately."""
        return self._now_left((kind, network_of(host))) < 1

    def charge(self, kind: Kind, host: str) -> None:
        """Count one refusal of an address."""
        who = kind, network_of(host)
        self._left[who] = max(0.0, self._now_left(who) - 1), self.ticks()
        self._left.move_to_end(who)
        if len(self._left) > _MOST_ADDRESSES:
            self._left.popitem(last=False)

    async def slow_down(self) -> None:
        """Let a refused caller wait for its answer, unless too many wait already."""
        if self._slowed >= _MOST_SLOWED:
            return
        self._slowed += 1
        try:
            await asyncio.sleep(_SLOWED_S)
        finally:
            self._slowed -= 1

    async def in_thread(self, work: Callable[..., _Answer], *arguments: object) -> _Answer:
        """Do something for a stranger on one of the few threads that strangers have."""
        return await to_thread.run_sync(work, *arguments, limiter=self._threads)

    def _now_left(self, who: tuple[Kind, str]) -> float:
        left, at = self._left.get(who, (_BURST, 0.0))
        return min(_BURST, left + (self.ticks() - at) * _PER_S)


@lru_cache(4096)
def network_of(host: str) -> str:
    """Return what counts as one address: an IPv4 address, the /64 of an IPv6 address, "?" for anything else."""
    try:
        address = ip_address(host)
    except ValueError:
        return "?"
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
