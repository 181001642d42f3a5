"""A spare clock in every worker: when beat is dead, sweep, drain and the rest of the timetable go on.

Beat is the usual clock. This one only speaks up for a tick that nobody took for three intervals, and the tick table
makes it one tick however many workers speak up at once.
"""

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from config.timetable import TIMETABLE, Tick
from delivery.errors import LedgerUnavailable

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 5.0
_MISSED = 3


class SpareClock:
    """Watches the ticks from a thread of its own."""

    def __init__(self, app: "Entrega") -> None:
        self._app = app
        self._ended = threading.Event()

    def start(self) -> None:
        """Watch from now on; the first look comes at once, so that a fresh system need not wait for beat."""
        threading.Thread(target=self._watch, name="spare-clock", daemon=True).start()

    def stop(self) -> None:
        """End the watch."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(_LOOK_EVERY_S)

    def look(self) -> list[str]:
        """Send the ticks that nobody took for too long; return their names."""
        try:
            missed = [tick for tick in TIMETABLE if self._is_missed(tick)]
        except LedgerUnavailable:
            return []
        if not missed or self._app.hints.backlog() is None:
            return []
        for tick in missed:
            self._app.tasks[tick.task].apply_async(expires=tick.expires.total_seconds())
        names = [tick.task for tick in missed]
        _log.info("beat_missed", ticks=names, next="is `celery -A worker beat` running?")
        return names

    def _is_missed(self, tick: Tick) -> bool:
        last = self._app.archive.last_tick(tick.task)
        return last is None or datetime.now(UTC) - last > tick.every * _MISSED
