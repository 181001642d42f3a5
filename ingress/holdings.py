"""How much each producer may have waiting: deliveries and megabytes, those scheduled for later included.

Every producer has this bound, also without a policy of its own. What the ledger said is believed for a while that grows
with the time that the answer took, so that counting never costs more than a few per cent of one connection; what was
accepted here meanwhile is added. A foreign Celery message is never turned away: it has no way to come back.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from delivery.producers import ProducerPolicy
from ingress.problems import Problem
from ledger.reading import Holding

_FRESH_S, _TIMES_THE_ANSWER = 2.0, 20.0
_RETRY_S = 60
_MB = 1_000_000


class Holdings:
    """Knows what of each producer waits.

    Args:
        count: Asks the ledger.
        policy: Of a producer; it says how much may wait.
        ticks: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        count: Callable[[], Mapping[str, Holding]],
        policy: Callable[[str], ProducerPolicy],
        *,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._policy = policy
        self._ticks = ticks
        self._known: Mapping[str, Holding] = {}
        self._since: Counter[str] = Counter()
        self._good_until = float("-inf")
        self._asking = threading.Lock()

    def check(self, producer: str) -> None:
        """Let one more command of a producer pass, and count it.

        Raises:
            Problem: Too much of it waits; 429 with Retry-After.
            LedgerUnavailable: Postgres is away.
        """
        self._refresh()
        policy, found = self._policy(producer), self._known.get(producer, Holding(0, 0))
        rows = found.rows + self._since[producer]
        if rows >= policy.most_open or found.size >= policy.most_open_mb * _MB:
            raise Problem("too_much_waits", retry_after_s=_RETRY_S)
        self._since[producer] += 1

    def _refresh(self) -> None:
        # One thread asks; the others go on with what was known.
        if self._ticks() < self._good_until or not self._asking.acquire(blocking=False):
            return
        try:
            began, counted = self._ticks(), Counter(self._since)
            self._known = self._count()
            self._since -= counted  # what was accepted during the question may be counted twice, for a moment
            ended = self._ticks()
            self._good_until = ended + max(_FRESH_S, _TIMES_THE_ANSWER * (ended - began))
        finally:
            self._asking.release()
