"""The load: producers that hand commands over while faults strike, and remember every answer."""

import threading
import time
from dataclasses import dataclass, field

from delivery.errors import LedgerUnavailable
from tests.faults.ground import Ground
from tests.faults.plan import Plan

_PAUSE_S = 0.2
_MOST_OPEN = 600  # enough that every fault finds work in every hand, and not so much that it stays in the queue


@dataclass
class Answers:
    """What producers were told.

    Attributes:
        promised: Delivery id by command number.
        refusals: How often the ledger was away: nothing was promised, and the command was handed over again.
        disagreed: Commands that got another id when they were repeated.
        unexpected: Names of errors that no producer should see.
    """

    promised: dict[int, str] = field(default_factory=dict)
    refusals: int = 0
    repeats: int = 0
    disagreed: list[int] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


class Load:
    """Producers in threads. They wait at the gate, so that faults strike where the plan says."""

    def __init__(self, ground: Ground, plan: Plan) -> None:
        self.answers = Answers()
        self.gate = 0
        self.open = 0
        self._ground, self._plan = ground, plan
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._produce, args=(each,), daemon=True) for each in plan.shares()]
        self._watcher = threading.Thread(target=self._count_open, daemon=True)

    @property
    def handed_over(self) -> int:
        """How many commands have an answer."""
        return len(self.answers.promised)

    @property
    def is_over(self) -> bool:
        """True when every producer has ended."""
        return not any(each.is_alive() for each in self._threads)

    def start(self) -> None:
        """Begin."""
        for each in (*self._threads, self._watcher):
            each.start()

    def end(self) -> None:
        """Hand nothing more over."""
        self._ended.set()
        for each in self._threads:
            each.join(30)

    def _produce(self, numbers: range) -> None:
        for n in numbers:
            while (n >= self.gate or self.open > _MOST_OPEN) and not self._ended.is_set():
                time.sleep(0.05)
            if self._ended.is_set():
                return
            first = self._hand_over(n)
            if first is not None and self._plan.is_repeated(n):
                self._repeat(n, first)

    def _repeat(self, n: int, first: str) -> None:
        again = self._hand_over(n)
        with self._lock:
            self.answers.repeats += 1
            if again not in (first, None):
                self.answers.disagreed.append(n)

    def _hand_over(self, n: int) -> str | None:
        kind, body = self._plan.command(n)
        while True:  # a command that was begun is brought to an answer, also at the end
            try:
                found = self._ground.app.intake.submit(kind, body, producer="faults").id
            except LedgerUnavailable:
                with self._lock:
                    self.answers.refusals += 1
                time.sleep(_PAUSE_S)
            except Exception as err:  # noqa: BLE001 - the point of the run: nothing else may reach a producer
                with self._lock:
                    self.answers.unexpected.append(f"{type(err).__name__}: {err}"[:300])
                return None
            else:
                with self._lock:
                    self.answers.promised.setdefault(n, found)
                return found

    def _count_open(self) -> None:
        while not self.is_over:
            try:
                rows = self._ground.sql("SELECT count(*) FROM deliveries WHERE state IN ('ready', 'attempting')")
                self.open = rows[0][0]
            except LedgerUnavailable:
                pass
            time.sleep(0.3)
