"""What a stand-in saw come in: how each request ended, and when each write arrived. Safe to use from many threads."""

import threading
import time
from collections import Counter


class Tally:
    """The books of one stand-in's door."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._ended: Counter[tuple[str, str]] = Counter()
            self._arrivals: list[float] = []

    def arrived(self) -> None:
        """Note that a write came in whole, whatever becomes of it."""
        with self._lock:
            self._arrivals.append(time.time())

    def ended(self, route: str, status: str) -> None:
        """Count one request under how it ended."""
        with self._lock:
            self._ended[route, status] += 1

    def arrivals(self) -> list[float]:
        """Return when writes came in, in Unix seconds."""
        with self._lock:
            return list(self._arrivals)

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the number of requests per route and status.

        Shape: {"POST /api/v1/leads": {"201": 3, "closed": 1}}
        """
        counters: dict[str, dict[str, int]] = {}
        with self._lock:
            for (route, status), count in self._ended.items():
                counters.setdefault(route, {})[status] = count
        return counters
