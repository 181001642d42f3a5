import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from delivery.commands import CreateLead
from delivery.errors import LedgerUnavailable
from delivery.ids import new_id
from delivery.lane import Lanes, Turn
from delivery.outcomes import Deferred, Receipt, Succeeded
from delivery.ports import Claimed, Order, Settlement

LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
SHUT = Deferred("limited", timedelta(seconds=1), "full", burned=False)


class Works:
    """An engine with so many deliveries waiting; every attempt takes one second of its clock."""

    def __init__(self, waiting, *, room=99, outcome=None, away_after=None):
        self.waiting, self.free, self.outcome, self.away_after = waiting, room, outcome, away_after
        self.now, self.asked, self.concluded, self.opens_in, self.paced = 0.0, [], 0, timedelta(), set()

    def clock(self):
        return self.now

    def room(self, account, kind, *, within, most):
        return [self.opens_in] * min(most, self.free)

    def wait(self, seconds):
        self.now += seconds
        self.opens_in = timedelta()

    def claim_next(self, account, kind, *, most, first=()):
        if self.away_after is not None and len(self.asked) == self.away_after:
            raise LedgerUnavailable("away")
        taken = min(most, self.waiting)
        self.asked.append(most)
        self.waiting -= taken
        ids = [*first, *(new_id() for _ in range(taken))]
        orders = [Order(each, account, LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC)) for each in ids]
        return [Claimed(each, "t", 1, {}, 0, timedelta.max) for each in orders]

    def attempt(self, claimed, since, *, paced):
        self.now += 1
        self.paced.add(paced)
        return Settlement(claimed, self.outcome or Succeeded(Receipt("1")))

    def admit(self, claimed, *, paced):
        if not isinstance(self.outcome, Deferred):
            return claimed, []
        return [], [Settlement(each, self.outcome) for each in claimed]

    def conclude(self, settlements, turned_back=()):
        self.concluded += len(settlements) + len(turned_back)
        return [*settlements, *turned_back]


@pytest.fixture
def calls():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def work(works, calls, **changes):
    told = []
    clock = {"monotonic": works.clock, "pause": works.wait}
    lanes = Lanes(works, lambda _: calls, **({"at_once": 3, "ahead": 1, "turn": timedelta(days=1)} | clock | changes))
    return lanes.work("crm:default", "create_lead", told.extend), told


def test_a_lane_goes_on_until_nothing_waits(calls):
    works = Works(10)

    turn, told = work(works, calls)

    assert (turn, len(told), works.concluded, works.waiting) == (Turn.EMPTY, 10, 10, 0)


def test_never_more_than_its_share_is_under_way(calls):
    works = Works(40)

    work(works, calls)

    assert max(works.asked) <= 4


def test_no_more_is_taken_than_the_gates_let_through(calls):
    works = Works(10, room=2)

    work(works, calls)

    assert set(works.asked) == {2}


@pytest.mark.parametrize(("room", "at_once"), [(7, False), (8, True)])
def test_a_set_asks_the_pacer_at_once_only_where_twice_as_much_as_a_lane_holds_would_find_room(calls, room, at_once):
    works = Works(3, room=room)

    work(works, calls)

    assert works.paced == {at_once}


def test_nothing_is_claimed_where_a_gate_is_closed(calls):
    works = Works(10, room=0)

    turn, told = work(works, calls)

    assert (turn, told, works.asked) == (Turn.SHUT, [], [])


def test_a_gate_that_opens_soon_is_waited_for(calls):
    works = Works(10)
    works.opens_in = timedelta(milliseconds=300)

    turn, told = work(works, calls)

    assert (turn, len(told)) == (Turn.EMPTY, 10)


def test_a_lane_ends_when_a_gate_turns_one_back(calls):
    works = Works(100, outcome=SHUT)

    turn, told = work(works, calls)

    assert turn is Turn.SHUT
    assert len(told) <= 8


def test_a_lane_goes_on_where_a_gate_turned_back_one_delivery_for_its_own_sake(calls):
    works = Works(100, outcome=replace(SHUT, lone=True))

    _, told = work(works, calls)

    assert len(told) == 100


def test_a_lane_ends_with_its_turn_and_says_that_more_may_wait(calls):
    works = Works(1000)

    turn, _ = work(works, calls, turn=timedelta(seconds=20))

    assert turn is Turn.OVER
    assert works.waiting > 900


class Interrupted(Works):
    """Somebody asks for the lane while its last claim, which finds nothing, is under way; then one more waits."""

    def claim_next(self, account, kind, *, most, first=()):
        found = super().claim_next(account, kind, most=most, first=first)
        if not found and self.lanes is not None:
            lanes, self.lanes = self.lanes, None
            self.waiting += 1
            self.answer = lanes.work(account, kind, print)
        return found


def test_who_asks_for_a_busy_lane_is_sent_away_and_it_looks_again(calls):
    works = Interrupted(2)
    works.lanes = Lanes(works, lambda _: calls, monotonic=works.clock)

    turn = works.lanes.work("crm:default", "create_lead", print)

    assert (works.answer, turn, works.waiting, works.concluded) == (Turn.BUSY, Turn.EMPTY, 0, 3)


class Handing(Works):
    """Somebody hands a delivery to the lane during one of its claims; what it was told is kept."""

    def __init__(self, waiting, *, during, **changes):
        super().__init__(waiting, **changes)
        self.during, self.handed, self.answer, self.seen = during, new_id(), None, []

    def claim_next(self, account, kind, *, most, first=()):
        found = super().claim_next(account, kind, most=most, first=first)
        if len(self.asked) == self.during:
            self.answer = self.lanes.takes(account, kind, self.handed)
        return found

    def attempt(self, claimed, since, *, paced):
        self.seen.append(claimed.order.delivery_id)
        return super().attempt(claimed, since, paced=paced)


@pytest.mark.parametrize("during", [1, 2], ids=["while more is found", "with the claim that finds nothing"])
def test_a_delivery_that_is_handed_to_a_lane_goes_with_its_next_set(calls, during):
    works = Handing(1, during=during, room=999)
    works.lanes = Lanes(works, lambda _: calls, monotonic=works.clock)

    works.lanes.work("crm:default", "create_lead", print)

    assert works.answer
    assert works.seen.count(works.handed) == 1
    assert works.concluded == 2


def test_what_is_handed_over_in_the_last_moment_of_a_turn_is_carried_out_all_the_same(calls):
    works = Handing(1000, during=1, room=999)
    works.lanes = Lanes(works, lambda _: calls, at_once=1, ahead=1, turn=timedelta(seconds=1), monotonic=works.clock)

    turn = works.lanes.work("crm:default", "create_lead", print)

    assert (works.answer, turn) == (True, Turn.OVER)
    assert works.seen.count(works.handed) == 1


def test_a_lane_that_nobody_works_takes_nothing(calls):
    assert not Lanes(Works(1), lambda _: calls).takes("crm:default", "create_lead", new_id())


def test_near_a_limit_each_delivery_is_left_to_get_a_slot_of_its_own(calls):
    works = Handing(4, during=1, room=5)
    works.lanes = Lanes(works, lambda _: calls, at_once=3, ahead=1, monotonic=works.clock)

    works.lanes.work("crm:default", "create_lead", print)

    assert works.answer is False


class Hanging(Works):
    """The first calls hang until they are let go."""

    def __init__(self, waiting, *, hang):
        super().__init__(waiting, room=999)
        self.left, self.hung, self.let_go = hang, threading.Semaphore(0), threading.Event()

    def attempt(self, claimed, since, *, paced):
        self.left -= 1
        if self.left >= 0:
            self.hung.release()
            assert self.let_go.wait(20)
        return super().attempt(claimed, since, paced=paced)


@pytest.fixture
def hanging(calls):
    """A lane that is worked elsewhere, once so many of its calls hang."""
    with ThreadPoolExecutor(1) as other:

        def start(waiting, hang):
            works = Hanging(waiting, hang=hang)
            works.lanes = Lanes(
                works, lambda _: calls, at_once=1, ahead=1, turn=timedelta(days=1), monotonic=works.clock
            )
            works.end = other.submit(works.lanes.work, "crm:default", "create_lead", print)
            started.append(works)
            for _ in range(hang):
                assert works.hung.acquire(timeout=20)
            return works

        started = []
        yield start
        for works in started:
            works.let_go.set()
            works.end.result(20)


def test_a_full_lane_takes_nothing_so_that_nobody_waits_behind_slow_calls(hanging):
    works = hanging(5, hang=1)

    assert not works.lanes.takes("crm:default", "create_lead", new_id())


def test_a_call_that_hangs_holds_up_nobody_who_finds_more_to_do(hanging):
    works = hanging(1, hang=1)
    end = time.monotonic() + 20
    while works.lanes.work("crm:default", "create_lead", print) is Turn.BUSY:
        assert time.monotonic() < end
    works.waiting = 3

    turn = works.lanes.work("crm:default", "create_lead", print)

    assert (turn, works.concluded) == (Turn.EMPTY, 3)


def test_a_lane_is_free_again_after_a_fault(calls):
    works = Works(0, away_after=0)
    lanes = Lanes(works, lambda _: calls, monotonic=works.clock)
    with pytest.raises(LedgerUnavailable):
        lanes.work("crm:default", "create_lead", print)
    works.away_after = None

    turn = lanes.work("crm:default", "create_lead", print)

    assert turn is Turn.EMPTY


def test_what_flies_is_written_when_the_ledger_cannot_be_asked_for_more(calls):
    works = Works(12, away_after=1)

    with pytest.raises(LedgerUnavailable):
        work(works, calls)

    assert works.concluded == 4


class Ending:
    """Threads of a process that is ending: it begins so many pieces of work and no more."""

    def __init__(self, pool, begins):
        self.pool, self.left = pool, begins

    def submit(self, work):
        if not self.left:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        self.left -= 1
        return self.pool.submit(work)


@pytest.mark.parametrize("begins", [1, 2])
def test_what_is_claimed_when_the_process_ends_is_carried_out_all_the_same(calls, begins):
    works = Works(4)

    work(works, Ending(calls, begins))

    assert works.concluded == 4
