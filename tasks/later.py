"""What one thread does while the others go on: a submit returns as soon as its row is written, and workers are told.

Publishing costs as much as the row, and a broker that is frozen would hold a producer for seconds. What a process that
is killed takes with it is found by the sweep within seconds, as every lost hint is.
"""

import atexit
import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import structlog

_Item = TypeVar("_Item")
_log = structlog.get_logger(__name__)
_MOST_WAITING = 20_000
_AT_ONCE = 1000
# A program that ends soon after a submit gives its hints so long to leave; a broker that is well needs milliseconds.
_END_WITHIN_S = 2.0
_NEXT = "the sweep sends them again"


class Later(Generic[_Item]):
    """Takes items at once, hints to workers for example, and has a thread publish them.

    Args:
        publish: Sends items and waits for the broker or the ledger.
        what: Their name in the log.
        consequence: What follows when some are lost.
    """

    def __init__(
        self, publish: Callable[[list[_Item]], object], *, what: str = "hints", consequence: str = _NEXT
    ) -> None:
        self._publish = publish
        self._what = what
        self._consequence = consequence
        self._renew()
        # A child that was forked has no such thread, and perhaps a lock that nobody gives back.
        os.register_at_fork(after_in_child=self._renew)

    def put(self, items: Iterable[_Item]) -> None:
        """Keep the items for the thread; those for which there is no room are lost."""
        if lost := sum(not self._take(each) for each in items):
            self._tell(lost, "too many wait to be published")
        if not self._started and not self._waiting.empty():
            self._start()

    def flush(self, within_s: float = _END_WITHIN_S) -> bool:
        """Wait until all is published; return False when that took too long, and what is left may be lost."""
        waiting = self._waiting
        with waiting.all_tasks_done:
            return waiting.all_tasks_done.wait_for(lambda: not waiting.unfinished_tasks, within_s)

    def _renew(self) -> None:
        self._waiting: queue.Queue[_Item] = queue.Queue(_MOST_WAITING)
        self._starting = threading.Lock()
        self._started = False

    def _take(self, item: _Item) -> bool:
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            return False
        return True

    def _start(self) -> None:
        with self._starting:
            if self._started:
                return
            try:
                threading.Thread(target=self._run, args=(self._waiting,), name=self._what, daemon=True).start()
            except RuntimeError as err:  # the interpreter ends, or the machine has no thread left
                self._tell(self._waiting.qsize(), str(err))
                return
            self._started = True
            atexit.register(self._end)

    def _run(self, waiting: "queue.Queue[_Item]") -> None:
        while True:
            batch = [waiting.get()]
            while len(batch) < _AT_ONCE and not waiting.empty():
                batch.append(waiting.get_nowait())
            try:
                self._publish(batch)
            except Exception:  # noqa: BLE001 - this thread is the only one: it must outlive a fault
                _log.exception(f"{self._what}_lost", **{f"{self._what}_lost": len(batch)}, next=self._consequence)
            for _ in batch:
                waiting.task_done()

    def _end(self) -> None:
        if not self.flush():
            self._tell(self._waiting.unfinished_tasks, "publishing took too long, and this process ends")

    def _tell(self, lost: int, fault: str) -> None:
        _log.warning(f"{self._what}_lost", **{f"{self._what}_lost": lost}, fault=fault, next=self._consequence)
