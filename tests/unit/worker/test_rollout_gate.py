"""The gate of rollouts: what it lets go, how seldom it asks, and what it does while the ledger is away."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.commands import CreateLead
from delivery.errors import LedgerUnavailable
from delivery.ids import new_id
from delivery.ports import Claimed, Order
from delivery.rollout import Standing, place
from worker.rollout import RolloutGate

SPECS = load_specs()
NOW = datetime(2026, 11, 22, tzinfo=UTC)
HOLD = SPECS["crm"].rollout.hold


class Book:
    """The ledger's rollouts, a clock, and a count of questions."""

    def __init__(self, *standing):
        self.standing, self.asked, self.away, self.now = list(standing), 0, False, 50.0

    def ask(self):
        self.asked += 1
        if self.away:
            raise LedgerUnavailable("away")
        return self.standing

    def gate(self):
        return RolloutGate(SPECS, self.ask, clock=lambda: self.now)


def rollout(age=timedelta(), *, account="crm:default", is_back=False):
    return Standing(account, is_back, NOW, age, "ana", "version 2")


def claimed(account="crm:default", **options):
    lead = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a", options=options)
    return Claimed(Order(new_id(), account, lead, 1, NOW), "loja", 1, {}, 0)


def went(gate, deliveries):
    return [each for each in deliveries if gate.closed([each])[0] is None]


def test_everything_goes_where_no_rollout_is_under_way():
    book = Book(rollout(account="email:default"), rollout(account="crm:filial", is_back=True))
    gate = book.gate()

    assert len(went(gate, [claimed() for _ in range(50)])) == 50
    assert gate.room("crm:default", "create_lead", within=timedelta(), most=7) == [timedelta()] * 7


def test_the_ledger_is_asked_once_in_two_seconds_whatever_the_number_of_attempts():
    book = Book()
    gate = book.gate()

    went(gate, [claimed() for _ in range(100)])
    book.now += 1.9
    went(gate, [claimed() for _ in range(100)])
    before = book.asked
    book.now += 0.2
    went(gate, [claimed() for _ in range(100)])

    assert (before, book.asked) == (1, 2)


def test_those_in_the_share_go_and_stay_in_when_it_grows():
    deliveries = [claimed() for _ in range(300)]

    small = went(Book(rollout()).gate(), deliveries)
    large = went(Book(rollout(HOLD)).gate(), deliveries)
    all_of_them = went(Book(rollout(2 * HOLD)).gate(), deliveries)
    over = went(Book(rollout(3 * HOLD)).gate(), deliveries)

    assert 0 < len(small) < len(large) < 300
    assert {each.order.delivery_id for each in small} < {each.order.delivery_id for each in large}
    assert len(all_of_them) == len(over) == 300


def test_the_next_stage_begins_by_itself_between_two_questions():
    late = rollout(2 * HOLD - timedelta(seconds=1))
    book = Book(late)
    gate = book.gate()
    deliveries = [claimed() for _ in range(100)]
    before = went(gate, deliveries)

    book.now += 1.5

    assert len(before) < 100
    assert len(went(gate, deliveries)) == 100
    assert book.asked == 1


def outside(share, account="crm:default"):
    """Return a delivery that lies outside the share."""
    found = (claimed(account) for _ in range(1000))
    return next(each for each in found if place(each.order.delivery_id, "loja", None) >= share)


@pytest.mark.parametrize(
    ("standing", "wait_s", "reason"),
    [
        (rollout(), 60, "the rollout of crm:default lets 10% of its deliveries go; this one waits"),
        (rollout(HOLD - timedelta(seconds=9)), 9, "the rollout of crm:default lets 10% of its deliveries go; this one"),
        (rollout(is_back=True), 60, "the rollout of crm:default was taken back; everything waits for an operator"),
    ],
)
def test_what_waits_burns_nothing_and_comes_back_with_the_next_stage_or_soon(standing, wait_s, reason):
    shut = Book(standing).gate().closed([outside(0.1)])[0]

    assert (shut.code, shut.burned, shut.paced, shut.lone) == ("rollout", False, True, True)
    assert shut.wait == timedelta(seconds=wait_s)
    assert shut.reason.startswith(reason)


@pytest.mark.parametrize(
    ("standing", "room"), [(rollout(), 10), (rollout(HOLD), 50), (rollout(is_back=True), 0), (rollout(3 * HOLD), 100)]
)
def test_upkeep_is_told_to_wake_no_more_than_will_go(standing, room):
    gate = Book(standing).gate()

    assert gate.room("crm:default", "create_lead", within=timedelta(seconds=5), most=100) == [timedelta()] * room


def test_an_account_without_a_form_is_left_to_its_attempt():
    assert len(Book().gate().room("fax:default", "send_fax", within=timedelta(), most=2)) == 2


def test_while_the_ledger_is_away_what_was_known_goes_on():
    book = Book(rollout(is_back=True))
    gate = book.gate()
    gate.closed([claimed()])

    book.away = True
    book.now += 60

    assert gate.closed([claimed()])[0] is not None
    assert gate.closed([claimed()])[0] is not None
    assert book.asked == 2


def test_a_ledger_that_was_never_there_holds_nothing_back():
    book = Book(rollout(is_back=True))
    book.away = True

    assert book.gate().closed([claimed()])[0] is None


def test_nobody_goes_before_the_first_answer():
    book, asked, answer = Book(rollout(is_back=True)), threading.Event(), threading.Event()

    def slow():
        asked.set()
        answer.wait(30)
        return book.ask()

    gate = RolloutGate(SPECS, slow, clock=lambda: book.now)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(gate.closed, [claimed()])
        asked.wait(30)
        others = [pool.submit(gate.closed, [claimed()]) for _ in range(3)]
        answer.set()

        assert all(each.result(30) != [None] for each in [first, *others])
    assert book.asked == 1


def test_a_slow_ledger_holds_up_one_thread_and_no_other():
    book, asked, answer = Book(), threading.Event(), threading.Event()
    gate = book.gate()
    gate.closed([claimed()])
    book.now += 3

    def slow():
        asked.set()
        answer.wait(30)
        return []

    gate._standing = slow
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(gate.closed, [claimed()])
        asked.wait(30)
        others = went(gate, [claimed() for _ in range(20)])
        answer.set()

        assert len(others) == 20
        assert stuck.result(30) == [None]


def test_deliveries_of_one_order_key_are_not_torn_apart():
    gate = Book(rollout(HOLD)).gate()
    together = [{gate.closed([claimed(order_key=f"pedido-{n}")])[0] is None for _ in range(5)} for n in range(20)]

    assert all(len(each) == 1 for each in together)
