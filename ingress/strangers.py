"""Strangers: callers without a known API key, and senders of webhooks that are not verified yet.

They have limits of their own on requests, bytes of bodies and threads, so they never use up what a caller with a key
needs. An address that is refused again and again gets its answers later. Many callers may share one address, so a
caller with a known key is never slowed down, whatever its address did.
"""

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal, TypeVar

from anyio import CapacityLimiter, to_thread

from ingress.bodies import BodyReader

# In the state of a request: its caller proved who it is, by a key or a signature.
PROVED = "proved"

Kind = Literal["webhook", "other"]

_MOST_ADDRESSES = 20_000
_PROVED_FOR_S = 3600.0
# How long an address that was refused too often waits for its answer, and how many may wait at the same time.
_SLOWED_S = (2.0, 4.0)
_MOST_SLOWED = 64
_MOST_AT_ONCE = 128
_THREADS = 2

_Answer = TypeVar("_Answer")


def strangers_bodies() -> BodyReader:
    """Return the reader of unverified webhook bodies: 5 s for an empty one, at least 100 kB/s from a larger one."""
    return BodyReader(
        most_bytes=32_000_000,
        within_s=5,
        least_bytes_per_s=100_000,
        most_bytes_per_s=16_000_000,
        most_unfinished=64,
        gives_way=True,
    )


class Refusals:
    """How often each address was refused lately: a token bucket for each, in bounded memory.

    Args:
        burst: Refusals at once before they are too many.
        per_s: How fast an address earns further refusals, in refusals a second.
        ticks: A monotonic clock, in seconds.
    """

    def __init__(self, burst: float, per_s: float, ticks: Callable[[], float]) -> None:
        self._burst = burst
        self._per_s = per_s
        self._ticks = ticks
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._left)

    def are_too_many(self, host: str) -> bool:
        """Tell whether this address was refused more often than `burst` and `per_s` allow."""
        return self._now_left(network_of(host)) < 1

    def count(self, host: str) -> None:
        """Count one more refusal."""
        who = network_of(host)
        self._left[who] = max(0.0, self._now_left(who) - 1), self._ticks()
        self._left.move_to_end(who)
        if len(self._left) > _MOST_ADDRESSES:
            self._left.popitem(last=False)

    def _now_left(self, who: str) -> float:
        left, at = self._left.get(who, (self._burst, 0.0))
        return min(self._burst, left + (self._ticks() - at) * self._per_s)


class Turns:
    """A queue in front of the parser: five hundred strangers at once would keep all other requests waiting.

    Args:
        per_s: Turns a second.
        burst: Turns that may be taken at once.
        ticks: A monotonic clock, in seconds.
    """

    def __init__(self, per_s: float, burst: float, ticks: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._ticks = ticks
        self._left, self._at = burst, ticks()
        self._first: deque[Callable[[], bool | None]] = deque()
        self._line: deque[Callable[[], bool | None]] = deque()
        self._clock: asyncio.TimerHandle | None = None

    def wait(self, then: Callable[[], bool | None], *, first: bool = False) -> None:
        """Do something when its turn comes, which may be now. Call from the event loop.

        Args:
            then: Returns False when there is nothing left to do; the next one gets its turn.
            first: Comes before all that wait without it.
        """
        (self._first if first else self._line).append(then)
        if self._clock is None:
            self._go_on()

    def _go_on(self) -> None:
        self._clock = None
        now = self._ticks()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._per_s), now
        while self._left >= 1 and (line := self._first or self._line):
            self._left -= 1
            if line.popleft()() is False:
                self._left += 1
        if self._first or self._line:
            self._clock = asyncio.get_running_loop().call_later((1 - self._left) / self._per_s, self._go_on)


class Strangers:
    """The limits that all callers who proved nothing share in this process. Belongs to one event loop.

    Attributes:
        bodies: Reads the bodies of webhooks that are not verified yet.
        refused: Refusals of each kind by address; wrong keys do not slow webhooks, nor the other way round.
        disproved: Refused webhooks by address, with a higher limit: up to it, a small webhook that has arrived whole is
            still verified.
        turns: When the next request of a stranger is parsed.

    Args:
        ticks: A monotonic clock, in seconds.
    """

    def __init__(self, *, ticks: Callable[[], float] = time.monotonic) -> None:
        self.bodies = strangers_bodies()
        self.refused: dict[Kind, Refusals] = {
            "webhook": Refusals(30, 10, ticks),
            "other": Refusals(30, 10, ticks),
        }
        self.disproved = Refusals(200, 50, ticks)
        self.turns = Turns(100, 20, ticks)
        self._ticks = ticks
        self._proved: OrderedDict[str, float] = OrderedDict()
        self._threads = CapacityLimiter(_THREADS)
        self._under_way = 0
        self._slowed = 0

    @property
    def are_full(self) -> bool:
        """True when strangers have as many requests under way as they may; webhooks do not count."""
        return self._under_way >= _MOST_AT_ONCE

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request as under way until the block ends."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def note_proof(self, host: str) -> None:
        """Note that a webhook from this address was verified: for an hour it is let in without waiting its turn."""
        self._proved[network_of(host)] = self._ticks() + _PROVED_FOR_S
        self._proved.move_to_end(network_of(host))
        if len(self._proved) > _MOST_ADDRESSES:
            self._proved.popitem(last=False)

    def has_proved(self, host: str) -> bool:
        """Tell whether a webhook from this address was verified lately."""
        return self._proved.get(network_of(host), 0.0) > self._ticks()

    async def slow_down(self) -> None:
        """Let a refused caller wait for its answer, unless too many wait already."""
        if self._slowed >= _MOST_SLOWED:
            return
        self._slowed += 1
        try:
            await asyncio.sleep(slowed_s())
        finally:
            self._slowed -= 1

    async def in_thread(self, work: Callable[..., _Answer], *arguments: object) -> _Answer:
        """Do something for a stranger on one of the few threads that strangers have."""
        return await to_thread.run_sync(work, *arguments, limiter=self._threads)


def slowed_s() -> float:
    """Return how long a slowed caller waits: not the same for each, so that many do not come again at once."""
    return random.uniform(*_SLOWED_S)  # noqa: S311 - it spreads load and guards nothing


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
