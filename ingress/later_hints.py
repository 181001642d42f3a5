"""Hints that nobody waits for: a receipt leaves as soon as the row is written, and one thread tells the workers.

Publishing costs more than the row (measured: 70 % of a bulk submit). What this process takes with it when it ends is
found by the sweep within seconds, as every lost hint is.
"""

import queue
import threading
from collections.abc import Iterable

import structlog

from delivery.ports import Hint, Hints

_log = structlog.get_logger(__name__)
# Of bulk submits of 10,000 some: with so many hints under way the workers have enough to do for minutes.
_MOST_WAITING = 20_000
_AT_ONCE = 1000


class LaterHints:
    """Takes hints at once and publishes them through `hints`; see `delivery.ports.Hints`."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._waiting: queue.Queue[Hint] = queue.Queue(_MOST_WAITING)
        self._starting = threading.Lock()
        self._started = False

    def send(self, hints: Iterable[Hint]) -> int:
        """Keep the hints for the thread; return how many were taken. The sweep sends the others."""
        taken = 0
        for each in hints:
            try:
                self._waiting.put_nowait(each)
            except queue.Full:
                _log.warning("hints_lost", fault="too many wait to be published", next="the sweep sends them again")
                break
            taken += 1
        self._start()
        return taken

    def backlog(self) -> int | None:
        """See `delivery.ports.Hints.backlog`."""
        return self._hints.backlog()

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                self._started = True
                threading.Thread(target=self._publish, name="hints", daemon=True).start()

    def _publish(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                self._hints.send(batch)
            except Exception:  # noqa: BLE001 - this thread is the only one: it must outlive a fault
                _log.exception("hints_lost", hints_lost=len(batch), next="the sweep sends them again")
