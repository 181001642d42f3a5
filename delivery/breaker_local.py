"""A circuit breaker in the memory of one process, for when the shared one cannot be reached.

Keeps the rules of `delivery.breaker` with a clock that is passed in. It is also the plain-Python statement of what the
script in `worker.breaker_redis` does: the two are tested against each other.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from delivery.breaker import MS, SLICES, Admission, Change, Forced, Mark, Mode, Pass, Refusal, Rules, State, View


class LocalCircuit:
    """A breaker for one process; its threads share it.

    Args:
        rules: When it opens and closes.
        clock: Seconds that never run backwards.
    """

    def __init__(self, rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._window = _Window(rules.slice_ms)
        self._trials: dict[str, int] = {}
        self._state: State = "closed"
        self._mode: Mode = "auto"
        self._forced: tuple[str, str, int] = ("", "", 0)
        self._era = self._won = self._lost = self._open_until = 0
        self._since: int | None = None

    def admit(self, token: str) -> Admission:
        """Decide about one call."""
        with self._lock:
            now, change = self._now(), None
            if self._is_ready_for_trials(now):
                change = self._moved("half-open", now)
            return Admission(self._answer(token, now), self._state, self._mode, change)

    def record(self, granted: Pass, mark: Mark, times: int = 1) -> Change | None:
        """Learn how the call ended, or so many of the same era."""
        with self._lock:
            if granted.era != self._era:
                return None
            now = self._now()
            if granted.trial:
                return self._end_trial(granted.token, mark, now)
            return None if mark == "neutral" else self._count(mark, times, now)

    def force(self, mode: Mode, *, actor: str, reason: str) -> Change | None:
        """Hold the breaker open or closed, or let it decide again."""
        with self._lock:
            now, before = self._now(), self._mode
            self._mode, self._forced = mode, (actor, reason, now)
            if mode == "auto":
                # What was held open is tried first: nobody knows how the provider is by now.
                self._open_until = now if before == "open" else self._open_until
                return None
            return None if self._state == mode else self._moved(mode, now)

    def move(self, to: State) -> Change | None:
        """Put the breaker into a state from which it goes on by itself."""
        with self._lock:
            return self._moved(to, self._now()) if self._mode == "auto" else None

    def view(self) -> View:
        """Return what an operator wants to see."""
        with self._lock:
            now = self._now()
            self._forget_trials(now)
            calls, failures = self._counts(now)
            waits = self._state == "open" and self._mode == "auto"
            return View(
                state=self._state,
                mode=self._mode,
                calls=calls,
                failures=failures,
                age=None if self._since is None else (now - self._since) * MS,
                next_trial=max(0, self._open_until - now) * MS if waits else None,
                trials_out=len(self._trials),
                won=self._won,
                lost=self._lost,
                forced=self._override(now),
            )

    def _answer(self, token: str, now: int) -> Pass | Refusal:
        if self._mode == "open":
            return Refusal(self._rules.open_for, forced=True)
        if self._state == "open":
            return Refusal((self._open_until - now) * MS)
        if self._state == "half-open":
            return self._trial(token, now)
        return Pass(token, self._era, trial=False)

    def _trial(self, token: str, now: int) -> Pass | Refusal:
        self._forget_trials(now)
        if len(self._trials) + self._won + self._lost >= self._rules.trials:
            return Refusal(timedelta())
        self._trials[token] = now + self._rules.lease // MS
        return Pass(token, self._era, trial=True)

    def _end_trial(self, token: str, mark: Mark, now: int) -> Change | None:
        self._forget_trials(now)
        if self._trials.pop(token, None) is None:
            return None
        self._won += mark == "success"
        self._lost += mark == "failure"
        if self._won >= self._rules.needed:
            return self._moved("closed", now)
        # Decided as soon as it is certain: an ill provider is spared the remaining trials.
        return self._moved("open", now) if self._lost > self._rules.trials - self._rules.needed else None

    def _count(self, mark: Mark, times: int, now: int) -> Change | None:
        calls, failures = self._window.add(now, calls=times, failures=times if mark == "failure" else 0)
        return self._moved("open", now) if self._mode == "auto" and self._rules.trips(calls, failures) else None

    def _is_ready_for_trials(self, now: int) -> bool:
        return self._state == "open" and self._mode == "auto" and now >= self._open_until

    def _moved(self, to: State, now: int) -> Change:
        change = Change(self._state, to, *self._deciding(now))
        if to == "closed":
            self._window.clear()
        else:
            self._window.freeze(change.calls, change.failures)
        self._state, self._since = to, now
        self._open_until = now + self._rules.open_for // MS
        self._era += 1
        self._won = self._lost = 0
        self._trials.clear()
        return change

    def _deciding(self, now: int) -> tuple[int, int]:
        """Return failures and calls that a change now would be built on."""
        if self._state == "half-open":
            return self._lost, self._won + self._lost
        calls, failures = self._counts(now)
        return failures, calls

    def _counts(self, now: int) -> tuple[int, int]:
        return self._window.totals(now) if self._state == "closed" else self._window.frozen

    def _override(self, now: int) -> Forced | None:
        actor, reason, at = self._forced
        return None if self._mode == "auto" else Forced(actor, reason, (now - at) * MS)

    def _forget_trials(self, now: int) -> None:
        # The worker that took the place may be dead: a lease ends by itself, so it cannot block the breaker for ever.
        self._trials = {token: end for token, end in self._trials.items() if end > now}

    def _now(self) -> int:
        return math.floor(self._clock() * 1000)


class _Window:
    """Calls and failures of the last sixty slices of time."""

    def __init__(self, slice_ms: int) -> None:
        self._slice_ms = slice_ms
        self._slices: deque[tuple[int, int, int]] = deque()
        self._calls = self._failures = 0
        self.frozen = (0, 0)

    def add(self, now_ms: int, *, calls: int, failures: int) -> tuple[int, int]:
        """Count calls, and return all calls and failures with them."""
        self._slide(now_ms)
        index = now_ms // self._slice_ms
        same = self._slices and self._slices[-1][0] == index
        _, before, failed_before = self._slices.pop() if same else (index, 0, 0)
        self._slices.append((index, before + calls, failed_before + failures))
        self._calls += calls
        self._failures += failures
        return self._calls, self._failures

    def totals(self, now_ms: int) -> tuple[int, int]:
        """Return calls and failures."""
        self._slide(now_ms)
        return self._calls, self._failures

    def clear(self) -> None:
        """Forget everything."""
        self.freeze(0, 0)

    def freeze(self, calls: int, failures: int) -> None:
        """Forget the slices and keep two numbers to show."""
        self._slices.clear()
        self._calls = self._failures = 0
        self.frozen = (calls, failures)

    def _slide(self, now_ms: int) -> None:
        while self._slices and self._slices[0][0] <= now_ms // self._slice_ms - SLICES:
            _, calls, failures = self._slices.popleft()
            self._calls -= calls
            self._failures -= failures
