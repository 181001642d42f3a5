"""Group commit: who shares a set, and what each is told when a set fails."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.together import Together


class Sets:
    """Carries out sets; the first two wait until as many others have asked as are expected."""

    def __init__(self, others, fault=lambda _: None):
        self.sets = []
        self.fault = fault
        self.gathered = threading.Barrier(3)
        self.others = others
        self.together = Together(self.act)

    def act(self, asked):
        self.sets.append(list(asked))
        if len(self.sets) <= 2:
            self.gathered.wait(60)
        if fault := self.fault(asked):
            raise fault
        return [each * 10 for each in asked]

    def ask(self):
        """Ask for 1 and 2, which are carried out alone, and meanwhile for the others; return the answers or faults."""
        with ThreadPoolExecutor(self.others + 2) as pool:
            led = [pool.submit(self.together, number) for number in (1, 2)]
            while len(self.sets) < 2:
                pass
            rest = [pool.submit(self.together, number) for number in range(3, 3 + self.others)]
            while len(self.together._waiting) < self.others:
                pass
            self.gathered.wait(60)
            return [each.exception() or each.result() for each in led + rest]


def test_threads_that_ask_while_sets_are_written_share_the_next_one():
    sets = Sets(30)

    assert sets.ask() == [number * 10 for number in range(1, 33)]
    assert [sorted(each) for each in sets.sets] == [[1], [2], list(range(3, 33))]


def test_of_a_set_that_fails_each_is_tried_alone_and_only_the_faulty_one_is_told_so():
    fault = ValueError("an invented fault")
    sets = Sets(5, lambda asked: fault if 4 in asked else None)

    assert sets.ask() == [10, 20, 30, fault, 50, 60, 70]


def test_a_set_whose_thread_is_interrupted_holds_up_nobody():
    sets = Sets(3, lambda asked: KeyboardInterrupt() if len(asked) > 1 else None)

    answers = sets.ask()

    told = [each for each in answers if not isinstance(each, KeyboardInterrupt)]
    assert len(told) == 4
    assert set(told) < {10, 20, 30, 40, 50}
    assert sets.together(9) == 90


def test_a_child_that_was_forked_waits_for_no_set_of_its_parent():
    begun, go_on = threading.Semaphore(0), threading.Event()

    def act(numbers):
        begun.release()
        go_on.wait(60)
        return numbers

    together = Together(act)
    with ThreadPoolExecutor(2) as pool:
        led = [pool.submit(together, number) for number in (1, 2)]
        assert begun.acquire(timeout=60)
        assert begun.acquire(timeout=60)
        child = os.fork()
        if not child:
            go_on.set()
            os._exit(together(3))
        _, status = os.waitpid(child, 0)
        go_on.set()

    assert os.waitstatus_to_exitcode(status) == 3
    assert [each.result() for each in led] == [1, 2]


def test_one_alone_is_told_its_own_fault_and_asked_once():
    asked = []

    def act(numbers):
        asked.append(numbers)
        raise ValueError("an invented fault")

    with pytest.raises(ValueError, match="invented"):
        Together(act)(1)
    assert asked == [[1]]
