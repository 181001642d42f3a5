"""Threads that want the same done at the same time share one statement and one commit: a group commit.

While a set is written the next one gathers, so a thread that is alone waits for nobody, and many threads cost Postgres
little more than one.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
# A set that has to wait for a lock does not hold up those who came after it.
_SETS_AT_ONCE = 2


class _Place(Generic[Asked, Answer]):
    """One thread's place in a set."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answers: Sequence[Answer] = ()
        self.is_taken = self.is_over = False


class Together(Generic[Asked, Answer]):
    """Carries out what several threads ask for as one set.

    Args:
        act: Carries out a set and returns one answer for each, in order; either all of it has happened or nothing.
    """

    def __init__(self, act: Callable[[Sequence[Asked]], Sequence[Answer]]) -> None:
        self._act = act
        self._renew()
        # A child that was forked has none of the threads whose sets are under way here.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Place[Asked, Answer]] = []
        self._sets = 0

    def __call__(self, asked: Asked) -> Answer:
        """Have one carried out, with what others ask for just now; return its answer.

        Raises:
            Exception: What `act` raised for this one alone: after a set that failed each thread tries its own again.
        """
        mine = _Place[Asked, Answer](asked)
        led = self._joined(mine)
        if led:
            self._carry_out(led)
        return mine.answers[0] if mine.answers else self._act([asked])[0]

    def _joined(self, mine: _Place[Asked, Answer]) -> list[_Place[Asked, Answer]]:
        """Wait until this place's set is over, or return the set that this thread has to carry out."""
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.is_over or (not mine.is_taken and self._sets < _SETS_AT_ONCE))
            if mine.is_over:
                return []
            led, self._waiting = self._waiting, []
            for each in led:
                each.is_taken = True
            self._sets += 1
            return led

    def _carry_out(self, places: Sequence[_Place[Asked, Answer]]) -> None:
        answers: Sequence[Answer] = ()
        try:
            answers = self._act([each.asked for each in places])
        except Exception:
            if len(places) == 1:
                raise
        finally:
            with self._changed:
                for number, each in enumerate(places):
                    each.answers = answers[number : number + 1]
                    each.is_over = True
                self._sets -= 1
                self._changed.notify_all()
