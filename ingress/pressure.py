"""Back-pressure: a service with too many due deliveries takes no more of them over HTTP until workers have caught up.

The forms say how many are too many (`limits.most_due`). What the ledger said is believed for `_FRESH_S`: a flood of
commands costs no flood of counting. A foreign Celery message is never turned away: it has no way to come back.
"""

import threading
import time
from collections.abc import Callable, Mapping

from config.policy import Spec
from delivery.commands import KINDS
from ingress.problems import Problem

_FRESH_S = 2.0
_RETRY_S = 30


class Pressure:
    """Knows which services are too far behind.

    Args:
        count: Asks the ledger for due deliveries by service, counting no further than it is told.
        specs: They say how many are too many.
        ticks: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        count: Callable[[int], Mapping[str, int]],
        specs: Mapping[str, Spec],
        *,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._limits = {name: spec.limits.most_due for name, spec in specs.items() if spec.limits.most_due}
        self._ticks = ticks
        self._counts: Mapping[str, int] = {}
        self._good_until = float("-inf")
        self._asking = threading.Lock()

    def check(self, kind: str) -> None:
        """Let a command of this kind pass.

        Raises:
            Problem: Too many deliveries of its service are due; 429 with Retry-After.
            LedgerUnavailable: Postgres is away.
        """
        service = KINDS[kind].service if kind in KINDS else ""
        most = self._limits.get(service)
        if most is not None and self._fresh().get(service, 0) > most:
            raise Problem("too_far_behind", retry_after_s=_RETRY_S, service=service)

    def _fresh(self) -> Mapping[str, int]:
        # One thread asks; the others go on with what was known.
        if self._ticks() >= self._good_until and self._asking.acquire(blocking=False):
            try:
                # So far that at least one service is over its limit when this many are due.
                self._counts = self._count(sum(self._limits.values()) + 1)
                self._good_until = self._ticks() + _FRESH_S
            finally:
                self._asking.release()
        return self._counts
