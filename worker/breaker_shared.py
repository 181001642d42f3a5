"""One circuit breaker that workers share, with pybreaker's face, and the local one in its place while Redis is away.

pybreaker's interface is kept: states, listeners, exceptions, `call`, `calling`, the decorator. Its counting and its
lock around a call are not: a call is admitted, runs without a lock, and its end is recorded.

Source: pybreaker 1.4.1, `CircuitBreaker` and `CircuitBreakerState`: `call` holds a lock during the call, `calling` lets
every caller through half-open, consecutive failures are counted without a window; read 2026-11-22.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from logging import INFO, WARNING
from typing import Any, NoReturn, TypeVar

import pybreaker
from redis import RedisError

from delivery.breaker import Admission, Change, Circuit, Mark, Mode, Pass, Refusal, Rules, State, View
from delivery.breaker_local import LocalCircuit
from worker.telling import Log

# While Redis is away one call asks it again after each such pause; all others go on with the local breaker at once.
_AWAY = timedelta(seconds=5)

Answer = TypeVar("Answer")
Exclusion = type[BaseException] | Callable[[Any], bool]


class BreakerUnreachable(RuntimeError):
    """Redis is away, so no operator's word can reach the breakers that workers share."""


@dataclass(frozen=True)
class Admitted:
    """A call that may go, and the circuit that wants to know its end."""

    circuit: Circuit
    granted: Pass


class Line:
    """Whether Redis can be asked now; one for all breakers of a process, so that they do not all wait for it.

    Args:
        ticks: A monotonic clock, in seconds.
        log: Told once when Redis goes away and once when it is back.
    """

    def __init__(self, ticks: Callable[[], float], log: Log) -> None:
        self._ticks = ticks
        self._log = log
        self._lock = threading.Lock()
        self._ask_at = float("-inf")
        self.is_up = True

    def ask(self, question: Callable[[], Answer]) -> Answer | None:
        """Return Redis's answer, or None while it is away."""
        if not self._may_ask():
            return None
        try:
            answer = question()
        except (RedisError, OSError) as err:
            self._turn(up=False, error=type(err).__name__)
            return None
        if not self.is_up:
            self._turn(up=True)
        return answer

    def _may_ask(self) -> bool:
        if self.is_up:
            return True
        with self._lock:
            now = self._ticks()
            due = now >= self._ask_at
            if due:  # the others stay away meanwhile
                self._ask_at = now + _AWAY.total_seconds()
            return due

    def _turn(self, *, up: bool, error: str | None = None) -> None:
        with self._lock:
            turned, self.is_up = self.is_up != up, up
            self._ask_at = self._ticks() + _AWAY.total_seconds()
        if turned:
            fields = {} if up else {"error": error}
            self._log.log(INFO if up else WARNING, "breaker_shared" if up else "breaker_local", **fields)


class SharedBreaker(pybreaker.CircuitBreaker):
    """A pybreaker circuit breaker with a window, a ratio and shared trials: admit, run without a lock, record.

    What differs from pybreaker: an excluded exception counts for nothing (there: as a success); the call that trips the
    breaker raises its own error; `fail_counter` counts the window; `fail_max`, the thresholds and `call_async` have no
    effect. A `state_change` listener of another process hears of a change when that process looks at `state`.

    Args:
        name: E.g. "crm:default/create_lead".
        rules: When it opens and closes.
        shared: The circuit in Redis; None when there is no Redis.
        line: Whether Redis can be asked.
        changed: Told about each change that this process made, and whether the shared circuit changed.
        local: Makes the circuit for the time when Redis is away.
        exclude: Exceptions, or predicates, that say nothing about the provider; for `call` and `calling`.
        listeners: As in pybreaker.
    """

    def __init__(  # noqa: PLR0913 - what a shared breaker stands on, all by name
        self,
        name: str,
        rules: Rules,
        *,
        shared: Circuit | None,
        line: Line,
        changed: Callable[[Change, bool], None] | None = None,
        local: Callable[[Rules], Circuit] = LocalCircuit,
        exclude: Iterable[Exclusion] = (),
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
    ) -> None:
        self.rules = rules
        self._shared = shared
        self._line = line
        self._changed = changed
        self._make_local = local
        self._local: Circuit | None = None
        self._local_lock = threading.Lock()
        self._seen: tuple[State, Mode] = ("closed", "auto")
        storage = _Shown(name)
        super().__init__(
            fail_max=rules.minimum_calls,
            reset_timeout=rules.open_for.total_seconds(),
            success_threshold=rules.needed,
            exclude=list(exclude),
            listeners=list(listeners),
            state_storage=storage,
            name=name,
            throw_new_error_on_trip=False,
        )
        storage.view = lambda: self.look()[0]

    def admit(self, token: str) -> Admitted | Refusal:
        """Ask for one call.

        Args:
            token: Names the call; unique among those under way.
        """
        shared = self._shared
        admission = self._line.ask(lambda: shared.admit(token)) if shared else None
        if shared and admission:
            self._seen, self._local = (admission.state, admission.mode), None
            return self._admitted(shared, admission)
        local = self._local_circuit()
        return self._admitted(local, local.admit(token))

    def admit_all(self, tokens: Sequence[str]) -> list[Admitted | Refusal]:
        """Ask for many calls at once; while the breaker is closed, or open, one answer serves them all."""
        answers: list[Admitted | Refusal] = []
        while len(answers) < len(tokens):
            answer = self.admit(tokens[len(answers)])
            answers.append(answer)
            rest = tokens[len(answers) :]
            if isinstance(answer, Refusal):
                answers += [answer] * len(rest)
            elif not answer.granted.trial:
                answers += [Admitted(answer.circuit, replace(answer.granted, token=each)) for each in rest]
        return answers

    def record(self, admitted: Admitted, mark: Mark, times: int = 1) -> None:
        """Tell the end of a call that `admit` let go; lost when Redis went away meanwhile, and a trial's lease ends.

        Args:
            times: So many calls of the same era ended so; a trial is told of by itself.
        """
        circuit, granted = admitted.circuit, admitted.granted
        if circuit is not self._shared:
            self._tell(circuit.record(granted, mark, times), circuit)
            return
        self._tell(self._line.ask(lambda: circuit.record(granted, mark, times)), circuit)

    def record_all(self, ended: Iterable[tuple[Admitted, Mark]]) -> None:
        """Tell the ends of many calls; those alike in one step."""
        alike: dict[tuple[int, int, Mark], list[Admitted]] = {}
        for admitted, mark in ended:
            if admitted.granted.trial:
                self.record(admitted, mark)
            elif mark != "neutral":
                alike.setdefault((id(admitted.circuit), admitted.granted.era, mark), []).append(admitted)
        # Failures last: they decide by what all of these calls came to.
        for (_, _, mark), those in sorted(alike.items(), key=lambda item: item[0][2] == "failure"):
            self.record(those[0], mark, len(those))

    def look(self) -> tuple[View, bool]:
        """Return what the breaker looks like, and whether that is the shared one."""
        shared = self._shared
        seen = self._line.ask(shared.view) if shared else None
        return (seen, True) if seen else (self._local_circuit().view(), False)

    def force(self, mode: Mode, *, actor: str, reason: str) -> None:
        """Hold the breaker open or closed for all workers, or let it decide again.

        Raises:
            BreakerUnreachable: Redis is away; nothing was changed.
        """
        change = self._command(lambda shared: shared.force(mode, actor=actor, reason=reason))
        self._seen = (self._seen[0], mode)
        self._tell(change, self._shared)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Guard the block of a `with` statement.

        Raises:
            CircuitBreakerError: The call may not go.
        """
        admitted = self.admit(uuid.uuid4().hex)
        if isinstance(admitted, Refusal):
            raise pybreaker.CircuitBreakerError(f"{self.name}: the circuit lets no call through now")
        end: Mark = "neutral"
        try:
            yield
            end = "success"
        except Exception as err:
            if self.is_system_error(err):
                end = "failure"
                for listener in self._ears():
                    listener.failure(self, err)
            raise
        finally:
            self.record(admitted, end)
        for listener in self._ears():
            listener.success(self)

    def call(self, func: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
        """Call a function through the breaker; other threads may do so at the same time.

        Raises:
            CircuitBreakerError: The call may not go.
        """
        with self.calling():
            for listener in self._ears():
                listener.before_call(self, func, *args, **kwargs)
            return func(*args, **kwargs)

    def call_async(self, func: Any, *args: Any, **kwargs: Any) -> NoReturn:  # pybreaker's signature
        """Refuse: pybreaker's coroutines are Tornado's, and would go around the shared counting."""
        raise NotImplementedError("use `with breaker.calling():` in a thread; coroutines are not guarded")

    def open(self) -> bool:
        """Open the circuit; trials follow after the open time. Returns whether the call that did so gets a new error.

        Raises:
            BreakerUnreachable: Redis is away; nothing was changed.
        """
        self._move("open")
        return False

    def half_open(self) -> None:
        """Let trial calls through. Raises as `open`."""
        self._move("half-open")

    def close(self) -> None:
        """Close the circuit and empty its window. Raises as `open`."""
        self._move("closed")

    def _move(self, to: State) -> None:
        self._tell(self._command(lambda shared: shared.move(to)), self._shared)

    def _command(self, step: Callable[[Circuit], Change | None]) -> Change | None:
        shared = self._shared
        done = self._line.ask(lambda: (step(shared),)) if shared else None
        if done is None:
            raise BreakerUnreachable(
                f"the breaker of {self.name} was not changed: Redis is away; try again when it is back"
            )
        return done[0]

    def _ears(self) -> tuple[pybreaker.CircuitBreakerListener, ...]:
        return self.listeners

    def _admitted(self, circuit: Circuit, admission: Admission) -> Admitted | Refusal:
        self._tell(admission.change, circuit)
        answer = admission.answer
        return Admitted(circuit, answer) if isinstance(answer, Pass) else answer

    def _local_circuit(self) -> Circuit:
        with self._local_lock:
            if self._local is None:
                self._local = self._make_local(self.rules)
                _resume(self._local, *self._seen)
            return self._local

    def _tell(self, change: Change | None, circuit: Circuit | None) -> None:
        if change is None:
            return
        if circuit is self._shared:
            self._seen = (change.after, self._seen[1])
        if self._changed:
            self._changed(change, circuit is self._shared)
        with suppress(Exception):  # a listener's fault decides no delivery
            self.state = change.after  # pybreaker reads a state object here and takes a word


def _resume(local: Circuit, state: State, mode: Mode) -> None:
    """Begin where the shared breaker was last seen, so that losing Redis does not send everybody to an ill provider."""
    if mode != "auto":
        local.force(mode, actor="", reason="last seen before Redis went away")
    elif state != "closed":
        local.move("open")


class _Shown(pybreaker.CircuitBreakerStorage):
    """What pybreaker's properties show of a breaker; it stores nothing, and its setters do nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.view: Callable[[], View] | None = None

    @property
    def state(self) -> str:
        return self.view().state if self.view else pybreaker.STATE_CLOSED

    @state.setter
    def state(self, state: str) -> None:
        pass

    @property
    def counter(self) -> int:
        return self.view().failures if self.view else 0

    @property
    def success_counter(self) -> int:
        return self.view().won if self.view else 0

    @property
    def opened_at(self) -> datetime | None:
        view = self.view() if self.view else None
        return datetime.now(UTC) - view.age if view and view.age is not None and view.state == "open" else None

    @opened_at.setter
    def opened_at(self, datetime: datetime) -> None:
        pass
