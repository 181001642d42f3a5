"""The load: producers that hand commands over while faults strike, and remember every answer."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from delivery.errors import LedgerUnavailable
from delivery.ports import Hint
from ledger.canceling import NotCancelable, cancel
from ledger.order import next_in_order
from tests.faults.commands import BLOCK, Order, order
from tests.faults.ground import Ground
from tests.faults.plan import Plan

_PRODUCERS = 2
_PAUSE_S = 0.2
_MOST_OPEN = 400  # enough that every fault finds work in every hand, and not so much that it stays in the queue
_OPEN = """
    SELECT count(*) FROM deliveries WHERE state IN ('ready', 'attempting') OR state = 'waiting' AND next_at <= now()
"""


@dataclass
class Answers:
    """What producers were told.

    Attributes:
        promised: Delivery id by command number.
        canceled: Ids whose cancellation was confirmed.
        refusals: How often the ledger was away: nothing was promised, and the commands were handed over again.
        disagreed: Commands that got another id when they were repeated.
        unexpected: Names of errors that no producer should see.
    """

    promised: dict[int, str] = field(default_factory=dict)
    canceled: set[str] = field(default_factory=set)
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
        self.most_open = _MOST_OPEN
        self._ground, self._plan = ground, plan
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._produce, args=(n,), daemon=True) for n in range(_PRODUCERS)]
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

    def _produce(self, mine: int) -> None:
        for first in range(mine * BLOCK, self._plan.deliveries, _PRODUCERS * BLOCK):
            while (first >= self.gate or self.open > self.most_open) and not self._ended.is_set():
                time.sleep(0.05)
            if self._ended.is_set():
                return
            block = [order(self._plan.seed, n) for n in range(first, min(first + BLOCK, self._plan.deliveries))]
            ids = self._until_answered(self._together(block))
            for each, id_ in zip(block, ids or (), strict=False):
                with self._lock:
                    self.answers.promised[each.number] = id_
                if each.cancel:
                    self._cancel(id_)
                if each.repeat:
                    self._repeat(each, id_)

    def _together(self, block: Sequence[Order]) -> Callable[[], list[str]]:
        """Return how to hand several commands over in one transaction, as a bulk door does."""
        intake = self._ground.app.intake
        new = [intake.prepare(each.kind, each.body, producer="faults") for each in block]

        def submit() -> list[str]:
            opened = intake.ledger.open(new)
            due = [
                Hint(each.id, wanted.command.kind, wanted.command.options.priority)
                for each, wanted in zip(opened, new, strict=True) if each.fresh and each.state == "ready"
            ]  # fmt: skip
            intake.hints.send(due)
            return [str(each.id) for each in opened]

        return submit

    def _repeat(self, wanted: Order, first: str) -> None:
        again = self._until_answered(
            lambda: [self._ground.app.intake.submit(wanted.kind, wanted.body, producer="faults").id]
        )
        with self._lock:
            self.answers.repeats += 1
            if again and again[0] != first:
                self.answers.disagreed.append(wanted.number)

    def _cancel(self, id_: str) -> None:
        def take_back() -> list[str]:
            with suppress(NotCancelable):  # a worker was faster, or an earlier answer was lost
                cancel(self._ground.app.database, UUID(id_), actor="faults", reason="taken back by the producer")
                self._ground.app.hints.send(next_in_order(self._ground.app.database, [UUID(id_)]))
                return [id_]
            return []

        self.answers.canceled.update(self._until_answered(take_back) or ())

    def _until_answered(self, ask: Callable[[], list[str]]) -> list[str] | None:
        while True:  # what was begun is brought to an answer, also at the end
            try:
                return ask()
            except LedgerUnavailable:
                with self._lock:
                    self.answers.refusals += 1
                time.sleep(_PAUSE_S)
            except Exception as err:  # noqa: BLE001 - the point of the run: nothing else may reach a producer
                with self._lock:
                    self.answers.unexpected.append(f"{type(err).__name__}: {err}"[:300])
                return None

    def _count_open(self) -> None:
        while not self.is_over:
            with suppress(LedgerUnavailable):
                self.open = self._ground.sql(_OPEN)[0][0]
            time.sleep(0.25)
