"""The gate for calls that hold a thread of this worker process: no account, producer or service takes all of them.

A slow provider, or a producer's slow callback host, keeps its threads until it answers. Each share is a number in the
spec (`limits.threads`). A delivery that finds its share in use waits in Postgres: it holds no thread, and no attempt is
counted.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

from config.spec_sections import Threads
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Settlement

_LONGEST_WAIT_S = 600.0  # Source: our own choice; a share that was slow for a while may be quick again
_UNKNOWN = Threads(account=None)  # a foreign client may name any account
_FIRST_HOLD_S, _MEMORY = 1.0, 0.2  # how long a call holds a thread, before the first one ended; weight of the newest


class _Share:
    """The threads of one account, producer or service. Its caller holds the lock."""

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.held = 0
        self.was_full = False
        self.hold_s = _FIRST_HOLD_S
        self._last_slot = 0.0

    @property
    def is_full(self) -> bool:
        return self.held >= self.most

    def slot_in_s(self, now: float) -> float:
        """Reserve the next moment at which a thread should be free; each one that waits gets a moment of its own."""
        self._last_slot = max(now, self._last_slot) + self.hold_s / self.most
        self._last_slot = min(self._last_slot, now + _LONGEST_WAIT_S)
        return self._last_slot - now

    def learn(self, hold_s: float) -> None:
        self.hold_s += _MEMORY * (hold_s - self.hold_s)


class ThreadShares:
    """Counts the threads that calls hold in this process; implements `delivery.ports.Gate`. Thread-safe.

    Args:
        threads: The shares of each service, e.g. {"callback": ...}.
        rng: Spreads those that wait for the longest time.
        monotonic: Seconds, never going back.
    """

    def __init__(
        self,
        threads: Mapping[str, Threads],
        *,
        rng: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads = threads
        self._rng = rng or random.SystemRandom()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._shares: dict[str, _Share] = {}

    def closed(self, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        """Take a thread for each call; a wait for those whose account, producer or service has no thread left."""
        with self._lock:
            return [self._asked(each) for each in claimed]

    def ended(self, settlements: Sequence[Settlement]) -> None:
        """Give the threads back."""
        with self._lock:
            for each in settlements:
                for share in self._of(each.claimed):
                    share.held -= 1
                    if each.duration:
                        share.learn(each.duration.total_seconds())

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:  # noqa: ARG002 - the port's
        """See `delivery.ports.Gate.room`. The share of a producer is not foreseen."""
        service = account.partition(":")[0]
        with self._lock:
            shares = [each for name in (service, account) if (each := self._shares.get(name)) is not None]
            return min((_foreseen(each, within, most) for each in shares), key=len, default=[timedelta()] * most)

    def is_half_used(self, account: str) -> bool:
        """Tell whether an account holds half of its threads: what else waits for it should go side by side."""
        with self._lock:
            share = self._shares.get(account)
            return share is not None and 2 * share.held >= share.most

    @contextmanager
    def held_by(self, account: str) -> Iterator[bool]:
        """Hold a thread of an account for something other than one call; false when none is left."""
        with self._lock:
            share = self._share(account, self._most_of(account).account)
            got = share is None or not share.is_full
            if share is not None:
                share.held += got
                share.was_full |= not got
        try:
            yield got
        finally:
            with self._lock:
                if share is not None:
                    share.held -= got

    def was_full(self, account: str) -> bool:
        """Tell, once, whether somebody found no thread of an account since the last time."""
        with self._lock:
            share = self._shares.get(account)
            if share is None or not share.was_full:
                return False
            share.was_full = False
            return True

    def _asked(self, claimed: Claimed) -> Deferred | None:
        shares = self._of(claimed)
        full = next((each for each in shares if each.is_full), None)
        if full is None:
            for each in shares:
                each.held += 1
            return None
        wait_s = full.slot_in_s(self._monotonic())
        if wait_s >= _LONGEST_WAIT_S:
            wait_s *= self._rng.uniform(0.5, 1.0)
        reason = f"{full.name} holds its {full.most} threads of this worker; this one waits for its turn"
        return Deferred("limited", timedelta(seconds=wait_s), reason, burned=False)

    def _of(self, claimed: Claimed) -> list[_Share]:
        # The producer first: what waits for its own producer's share takes no slot in the service's.
        account, service = claimed.order.account, claimed.order.command.service
        most = self._most_of(account)
        found = (
            self._share(f"{service} of {claimed.producer}", most.producer),
            self._share(account, most.account),
            self._share(service, most.service),
        )
        return [each for each in found if each is not None]

    def _share(self, name: str, most: int | None) -> _Share | None:
        return None if most is None else self._shares.setdefault(name, _Share(name, most))

    def _most_of(self, account: str) -> Threads:
        return self._threads.get(account.partition(":")[0], _UNKNOWN)


def _foreseen(share: _Share, within: timedelta, most: int) -> list[timedelta]:
    """Return zeros for the free threads, then the moments at which the held ones should come free."""
    free = min(most, max(0, share.most - share.held))
    step = timedelta(seconds=share.hold_s / share.most)
    later = min(most - free, int(within / step)) if step else most - free
    return [timedelta()] * free + [step * (place + 1) for place in range(later)]
