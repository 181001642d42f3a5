"""Keeps what outsiders do from filling the logs: each reason is written a few times a minute, and then counted."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

_EVERY_S = 60.0
_MOST_LINES = 10


class Sampler:
    """Tells which lines to write: the first ten of each reason in a minute, then the 100th, the 1,000th and so on.

    Args:
        ticks: A monotonic clock, in seconds.
    """

    def __init__(self, *, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._until = float("-inf")

    def count(self, reason: str) -> int | None:
        """Count one event; return how many there were in this minute where a line is due, else None.

        Args:
            reason: One of a few words of ours, never anything that a client sent.
        """
        with self._lock:
            if self._ticks() >= self._until:
                self._seen.clear()
                self._until = self._ticks() + _EVERY_S
            self._seen[reason] += 1
            n = self._seen[reason]
        return n if n <= _MOST_LINES or str(n).strip("0") == "1" else None


class SampledWarnings(logging.Filter):
    """Lets through few of a library's warnings of one kind; anything worse is news each time."""

    def __init__(self) -> None:
        super().__init__()
        self._sampler = Sampler()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write the record."""
        return record.levelno > logging.WARNING or self._sampler.count(str(record.msg)) is not None
