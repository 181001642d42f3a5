from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from delivery.commands import CreateLead
from delivery.errors import LedgerUnavailable
from delivery.ids import new_id
from delivery.lane import Lanes
from delivery.outcomes import Deferred, Receipt, Succeeded
from delivery.ports import Claimed, Order, Settlement

LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
SHUT = Deferred("limited", timedelta(seconds=1), "full", burned=False)


class Works:
    """An engine with so many deliveries waiting; every attempt takes one second of its clock."""

    def __init__(self, waiting, *, room=99, outcome=None, away_after=None):
        self.waiting, self.free, self.outcome, self.away_after = waiting, room, outcome, away_after
        self.now, self.asked, self.concluded = 0.0, [], 0

    def clock(self):
        return self.now

    def room(self, account, kind, *, within, most):
        return [timedelta()] * min(most, self.free)

    def claim_next(self, account, kind, *, most):
        if self.away_after is not None and len(self.asked) == self.away_after:
            raise LedgerUnavailable("away")
        taken = min(most, self.waiting)
        self.asked.append(most)
        self.waiting -= taken
        orders = [Order(new_id(), account, LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC)) for _ in range(taken)]
        return [Claimed(each, "t", 1, {}, 0, timedelta.max) for each in orders]

    def attempt(self, claimed, since):
        self.now += 1
        return Settlement(claimed, self.outcome or Succeeded(Receipt("1")))

    def admit(self, claimed):
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
    lanes = Lanes(works, calls, **({"at_once": 4, "turn": timedelta(days=1), "monotonic": works.clock} | changes))
    return lanes.work("crm:default", "create_lead", told.extend), told


def test_a_lane_goes_on_until_nothing_waits(calls):
    works = Works(10)

    more, told = work(works, calls)

    assert (more, len(told), works.concluded, works.waiting) == (False, 10, 10, 0)


def test_never_more_than_its_share_is_under_way(calls):
    works = Works(40)

    work(works, calls)

    assert max(works.asked) <= 4


def test_no_more_is_taken_than_the_gates_let_through(calls):
    works = Works(10, room=2)

    work(works, calls)

    assert set(works.asked) == {2}


def test_nothing_is_claimed_where_a_gate_is_closed(calls):
    works = Works(10, room=0)

    more, told = work(works, calls)

    assert (more, told, works.asked) == (False, [], [])


def test_a_lane_ends_when_a_gate_turns_one_back(calls):
    works = Works(100, outcome=SHUT)

    more, told = work(works, calls)

    assert not more
    assert len(told) <= 8


def test_a_lane_goes_on_where_a_gate_turned_back_one_delivery_for_its_own_sake(calls):
    works = Works(100, outcome=replace(SHUT, lone=True))

    _, told = work(works, calls)

    assert len(told) == 100


def test_a_lane_ends_with_its_turn_and_says_that_more_may_wait(calls):
    works = Works(1000)

    more, _ = work(works, calls, turn=timedelta(seconds=20))

    assert more
    assert works.waiting > 900


def test_a_lane_that_was_empty_is_left_alone_for_a_moment(calls):
    works = Works(0)
    lanes = Lanes(works, calls, monotonic=works.clock, pause=timedelta(seconds=1))
    lanes.work("crm:default", "create_lead", print)

    lanes.work("crm:default", "create_lead", print)

    assert len(works.asked) == 1


def test_an_empty_lane_says_nothing_of_another_one(calls):
    works = Works(0)
    lanes = Lanes(works, calls, monotonic=works.clock, pause=timedelta(seconds=1))
    lanes.work("crm:default", "create_lead", print)

    lanes.work("crm:second", "create_lead", print)

    assert len(works.asked) == 2


def test_what_flies_is_written_when_the_ledger_cannot_be_asked_for_more(calls):
    works = Works(12, away_after=1)

    with pytest.raises(LedgerUnavailable):
        work(works, calls)

    assert works.concluded == 4
