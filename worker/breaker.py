"""The circuit breakers of a worker: one for each account and operation, shared by all workers through Redis.

Owns the gate that the engine asks, what operators see of a breaker and how they override it. The rules are in
`delivery.breaker`, the single breaker in `worker.breaker_shared`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from logging import INFO, WARNING
from typing import Protocol

import structlog
from redis import Redis

from config.policy import Spec
from delivery.breaker import Change, Mark, Mode, Refusal, Rules, State, View, deferral, mark, room
from delivery.breaker_local import LocalCircuit
from delivery.errors import LedgerUnavailable
from delivery.judging import lease
from delivery.outcomes import Deferred
from delivery.ports import Claimed, Settlement
from worker.breaker_redis import RedisCircuit
from worker.breaker_shared import Admitted, Line, SharedBreaker
from worker.telling import Log

# Passes whose end is never told (a thread that was killed) must not fill the memory.
_MOST_OUT = 10_000
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Changed:
    """One breaker went from one state to another; told once, by the process whose call made it change.

    Attributes:
        failures: Of the window, or of the trials, that decided it.
        calls: As `failures`.
        shared: False when it is the breaker of one process, Redis being away.
    """

    account: str
    operation: str
    before: State
    after: State
    failures: int
    calls: int
    shared: bool


@dataclass(frozen=True)
class Override:
    """An operator's word about a breaker. It is kept in Redis and lives no longer than what Redis keeps."""

    mode: Mode
    actor: str
    reason: str
    since: datetime


@dataclass(frozen=True)
class Status:
    """One breaker as an operator sees it.

    Attributes:
        state: "closed", "open" or "half-open".
        calls: Counted calls in the window while closed, else those that decided the last opening.
        failures: As `calls`.
        changed_at: When it came into this state; None before the first change.
        opened_at: The same, while it is open.
        next_trial_at: When trial calls may go; a past instant means with the next delivery. None unless it is open by
            its own decision.
        trials_out: Trial calls under way.
        override: None when the breaker decides by itself.
        shared: False when Redis is away: then this is the breaker of the process that answers, and no other's.
    """

    account: str
    operation: str
    state: State
    calls: int
    failures: int
    changed_at: datetime | None
    opened_at: datetime | None
    next_trial_at: datetime | None
    trials_out: int
    trials_won: int
    trials_lost: int
    override: Override | None
    shared: bool


class Book(Protocol):
    """The record of open breakers; `ledger.breakers.OpenBreakers`. Every method may raise LedgerUnavailable."""

    def keep(self, name: str) -> None:
        """Record that a breaker opened."""
        ...

    def forget(self, name: str) -> None:
        """Record that it closed."""
        ...

    def stands(self, name: str) -> bool:
        """Tell whether it opened and did not close since."""
        ...


class BreakerGate:
    """The engine's gate: one breaker for each account and operation, made when it is first needed.

    Args:
        specs: One for each service; rules and what counts come from here.
        redis: Where workers share; with short time-outs and no retries of its own. None: local breakers only.
        book: Where it is recorded which shared breakers are open, for a Redis that forgets. None: nowhere.
        changed: Called once for each change, by the process that made it; must be quick. Its faults are swallowed.
        ticks: A monotonic clock, in seconds.
        wall: The time now, for what operators see.
        log: Where to write; the process's own log when left out.
    """

    def __init__(  # noqa: PLR0913 - what a gate stands on, all but the first two with a usual value
        self,
        specs: Mapping[str, Spec],
        redis: Redis | None,
        *,
        book: Book | None = None,
        changed: Callable[[Changed], None] | None = None,
        ticks: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        log: Log | None = None,
    ) -> None:
        self._specs = specs
        self._redis = redis
        self._book = book
        self._changed = changed
        self._ticks = ticks
        self._wall = wall
        self._log: Log = log or structlog.stdlib.get_logger("entrega.breaker")
        self._line = Line(ticks, self._log)
        self._breakers: dict[tuple[str, str], SharedBreaker] = {}
        self._out: dict[tuple[str, int], tuple[SharedBreaker, Admitted]] = {}
        self._lock = threading.Lock()

    def closed(self, claimed: Sequence[Claimed]) -> list[Deferred | None]:
        """See `delivery.ports.Gate.closed`; one question for each breaker while it is closed."""
        answers: dict[tuple[str, int], Deferred | None] = {}
        for (account, kind), mine in _by_breaker(claimed).items():
            try:
                breaker = self.breaker(account, kind)
            except LookupError:
                continue  # the call itself ends with the right words about an account that nobody set up
            keys = [_key(each) for each in mine]
            admitted = breaker.admit_all([f"{id_}:{fence}" for id_, fence in keys])
            for key, answer in zip(keys, admitted, strict=True):
                if isinstance(answer, Refusal):
                    answers[key] = deferral(answer, f"{account}, {kind}")
                else:
                    self._remember(key, (breaker, answer))
        return [answers.get(_key(each)) for each in claimed]

    def ended(self, settlements: Sequence[Settlement]) -> None:
        """Count the attempts, or give a trial's place back when one says nothing about the provider."""
        told: dict[SharedBreaker, list[tuple[Admitted, Mark]]] = {}
        for each in settlements:
            with self._lock:
                known = self._out.pop(_key(each.claimed), None)
            if known:
                breaker, admitted = known
                end = mark(each, self._specs[each.claimed.order.command.service])
                told.setdefault(breaker, []).append((admitted, end))
        for breaker, ends in told.items():
            breaker.record_all(ends)

    def room(self, account: str, kind: str, *, within: timedelta, most: int) -> list[timedelta]:
        """See `delivery.ports.Gate.room`."""
        try:
            breaker = self.breaker(account, kind)
        except LookupError:
            return [timedelta()] * most
        return room(breaker.look()[0], breaker.rules, within=within, most=most)

    def status(self, account: str, operation: str) -> Status:
        """Return one breaker as an operator sees it.

        Raises:
            LookupError: No spec has such an operation; the message lists those there are.
        """
        view, shared = self.breaker(account, operation).look()
        return _status(account, operation, view, shared=shared, now=self._wall())

    def statuses(self, accounts: Iterable[str]) -> list[Status]:
        """Return every breaker of these accounts, e.g. ["crm:default"]. Raises as `status`."""
        return [self.status(account, kind) for account in accounts for kind in self._spec(account).operations]

    def force(self, account: str, operation: str, mode: Mode, *, actor: str, reason: str) -> Status:
        """Hold a breaker open or closed for all workers, or let it decide again ("auto"), and return what it became.

        Args:
            account: E.g. "crm:default".
            operation: E.g. "create_lead".
            mode: After "open", "auto" begins with trial calls; after "closed" it goes on with the window as it is.
            actor: Who; kept in Redis and shown.
            reason: Why, at most 200 characters, without personal data; kept in Redis and shown.

        Raises:
            LookupError: As `status`.
            BreakerUnreachable: Redis is away; nothing was changed.
        """
        breaker = self.breaker(account, operation)
        breaker.force(mode, actor=actor[:_LONGEST_REASON], reason=reason[:_LONGEST_REASON])
        self._log.log(INFO, "breaker_forced", account=account, operation=operation, mode=mode)
        return self.status(account, operation)

    def breaker(self, account: str, operation: str) -> SharedBreaker:
        """Return the pybreaker of one account and operation. Raises as `status`."""
        found = self._breakers.get((account, operation))
        if found:
            return found
        with self._lock:
            return self._breakers.setdefault((account, operation), self._made(account, operation))

    def _made(self, account: str, operation: str) -> SharedBreaker:
        spec = self._spec(account)
        if operation not in spec.operations:
            raise LookupError(f"{account} has no operation {operation}; it has {', '.join(spec.operations)}")
        rules = Rules.of(spec.breaker, lease(spec.operations[operation]))
        name = f"{account}/{operation}"
        return SharedBreaker(
            name,
            rules,
            shared=RedisCircuit(self._redis, name, rules, was_open=self._asked(name)) if self._redis else None,
            line=self._line,
            changed=lambda change, shared: self._tell(account, operation, change, shared=shared),
            local=lambda rules: LocalCircuit(rules, self._ticks),
        )

    def _asked(self, name: str) -> Callable[[], bool | None] | None:
        book = self._book
        if book is None:
            return None

        def was_open() -> bool | None:
            try:
                return book.stands(name)
            except LedgerUnavailable:
                return None

        return was_open

    def _record(self, name: str, change: Change) -> None:
        if self._book is None or change.after == "half-open":
            return
        try:
            self._book.keep(name) if change.after == "open" else self._book.forget(name)
        except LedgerUnavailable:
            self._log.log(WARNING, "breaker_not_recorded", breaker=name, to=change.after)

    def _spec(self, account: str) -> Spec:
        service = account.partition(":")[0]
        if service not in self._specs:
            raise LookupError(f"no spec is named {service}; there are {', '.join(self._specs)}")
        return self._specs[service]

    def _remember(self, key: tuple[str, int], entry: tuple[SharedBreaker, Admitted]) -> None:
        with self._lock:
            self._out[key] = entry
            if len(self._out) > _MOST_OUT:
                del self._out[next(iter(self._out))]

    def _tell(self, account: str, operation: str, change: Change, *, shared: bool) -> None:
        told = Changed(account, operation, change.before, change.after, change.failures, change.calls, shared)
        fields = asdict(told)
        words = {"from": fields.pop("before"), "to": fields.pop("after")}
        with suppress(Exception):
            self._log.log(WARNING if change.after == "open" else INFO, "breaker_changed", **fields, **words)
        if shared:
            self._record(f"{account}/{operation}", change)
        with suppress(Exception):
            if self._changed:
                self._changed(told)


def _by_breaker(claimed: Iterable[Claimed]) -> dict[tuple[str, str], list[Claimed]]:
    found: dict[tuple[str, str], list[Claimed]] = {}
    for each in claimed:
        found.setdefault((each.order.account, each.order.command.kind), []).append(each)
    return found


def _key(claimed: Claimed) -> tuple[str, int]:
    return str(claimed.order.delivery_id), claimed.fence


def _status(account: str, operation: str, view: View, *, shared: bool, now: datetime) -> Status:
    changed_at = None if view.age is None else now - view.age
    forced = view.forced
    return Status(
        account=account,
        operation=operation,
        state=view.state,
        calls=view.calls,
        failures=view.failures,
        changed_at=changed_at,
        opened_at=changed_at if view.state == "open" else None,
        next_trial_at=None if view.next_trial is None else now + view.next_trial,
        trials_out=view.trials_out,
        trials_won=view.won,
        trials_lost=view.lost,
        override=Override(view.mode, forced.actor, forced.reason, now - forced.age) if forced else None,
        shared=shared,
    )
