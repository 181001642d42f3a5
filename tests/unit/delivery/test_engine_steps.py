from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.commands import CreateLead
from delivery.engine import Engine
from delivery.errors import LedgerUnavailable, Permanent, Retryable
from delivery.ids import new_id
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Usage
from delivery.ports import Claimed, Order

LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")


class Book:
    """A ledger that hands out one delivery and keeps what was settled."""

    def __init__(self, away=0, left=timedelta.max):
        order = Order(new_id(), "crm:default", LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC))
        self.claimed = Claimed(order, "t", 1, {}, 0, left)
        self.settled = []
        self.away = away
        self.leases = None

    def claim(self, ids, *, worker, leases):
        self.leases = leases
        return [self.claimed] if ids else []

    def settle(self, settlements):
        if self.away:
            self.away -= 1
            raise LedgerUnavailable("away")
        self.settled += settlements
        return {each.claimed.order.delivery_id for each in settlements}


class Crm:
    def __init__(self, end):
        self.end = end
        self.orders = []

    def send(self, order):
        self.orders.append(order)
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


class Ears:
    def __init__(self):
        self.heard = []

    def tell(self, settlement, *, method, endpoint):
        self.heard.append((settlement, method, endpoint))


class Door:
    """A gate that is open, or closed with an outcome, and keeps what it learnt."""

    def __init__(self, shut=None):
        self.shut = shut
        self.learnt = []
        self.asked = 0

    def closed(self, claimed):
        self.asked += 1
        return [self.shut for _ in claimed]

    def ended(self, settlements):
        self.learnt += settlements


SHUT = Deferred("breaker_open", timedelta(seconds=9), "open", burned=False)


@pytest.fixture
def book():
    return Book()


def engine(book, crm, **changes):
    values = {
        "ledger": book,
        "providers": {"crm:default": crm},
        "specs": load_specs(),
        "teller": Ears(),
        "worker": "w",
        "pause": lambda seconds: None,
    }
    return Engine(**(values | changes))


def test_a_delivery_is_claimed_called_settled_and_told(book):
    crm, ears = Crm(Receipt("LEAD-1", http_status=201)), Ears()

    ended = engine(book, crm, teller=ears).deliver([new_id()])

    assert ended == book.settled
    assert ended[0].outcome == Succeeded(Receipt("LEAD-1", http_status=201))
    assert ended[0].http_status == 201
    assert crm.orders == [book.claimed.order]
    assert [each[1:] for each in ears.heard] == [("POST", "/api/v1/leads")]


def test_the_lease_covers_the_whole_call(book):
    engine(book, Crm(Receipt("LEAD-1"))).deliver([new_id()])

    assert book.leases["create_lead"] == timedelta(seconds=45)


def test_nothing_claimed_means_nothing_called(book):
    crm = Crm(Receipt("LEAD-1"))

    assert engine(book, crm).deliver([]) == []
    assert crm.orders == []


def test_a_closed_gate_stops_the_call_and_burns_nothing(book):
    crm = Crm(Receipt("LEAD-1"))

    (ended,) = engine(book, crm, gates=[Door(SHUT)]).deliver([new_id()])

    assert crm.orders == []
    assert ended.outcome is SHUT


@pytest.mark.parametrize(
    ("left_s", "waited_s", "code"), [(5, 5, "expired"), (5, 4.9, None), (3600, 15, "too_late"), (3600, 14.9, None)]
)
def test_what_waited_too_long_between_claim_and_call_is_given_back_unsent(left_s, waited_s, code):
    crm, door = Crm(Receipt("LEAD-1")), Door()
    times = iter([100.0, 100.0 + waited_s, 200.0, 200.0])
    book = Book(left=timedelta(seconds=left_s))

    (ended,) = engine(book, crm, gates=[door], monotonic=times.__next__).deliver([new_id()])

    assert (crm.orders == []) is (code is not None)
    assert (ended.outcome.code, getattr(ended.outcome, "burned", True)) == (code or "ok", code is None)
    assert door.learnt == [ended]


def test_each_gate_learns_how_what_it_let_through_ended(book):
    first, second, third = Door(), Door(SHUT), Door()

    (ended,) = engine(book, Crm(Receipt("LEAD-1")), gates=[first, second, third]).deliver([new_id()])

    assert (first.learnt, second.learnt, third.learnt) == ([ended], [], [])


def test_a_verdict_keeps_the_providers_own_code(book):
    crm = Crm(Retryable("busy", code="unavailable", http_status=503, provider_code="BUSY"))

    (ended,) = engine(book, crm).deliver([new_id()])

    assert (ended.outcome.code, ended.http_status, ended.provider_code) == ("unavailable", 503, "BUSY")


@pytest.mark.parametrize(
    "end", [Receipt("LEAD-1", usage=Usage(room=0.5)), Retryable("busy", code="unavailable", usage=Usage(room=0.5))]
)
def test_what_the_provider_says_of_its_limits_reaches_the_gates(book, end):
    door = Door()

    engine(book, Crm(end), gates=[door]).deliver([new_id()])

    assert door.learnt[0].usage == Usage(room=0.5)


def test_an_account_nobody_set_up_is_held(book):
    (ended,) = engine(book, Crm(None), providers={}).deliver([new_id()])

    assert ended.outcome == Rejected("misconfigured", "no account named crm:default is set up here", held=True)


def test_a_fault_of_our_own_is_settled_and_reported(book):
    fault = ZeroDivisionError("x")

    (ended,) = engine(book, Crm(fault)).deliver([new_id()])

    assert ended.outcome.code == "unknown"
    assert ended.fault is fault
    assert "x" not in ended.outcome.reason.split()


def test_a_receipt_waits_for_a_ledger_that_is_away_for_a_moment():
    book, pauses = Book(away=2), []

    ended = engine(book, Crm(Receipt("LEAD-1")), pause=pauses.append).deliver([new_id()])

    assert len(ended) == 1
    assert pauses == [0.2, 0.5]


def test_a_ledger_that_stays_away_leaves_the_rest_to_the_sweep():
    book = Book(away=100)

    with pytest.raises(LedgerUnavailable):
        engine(book, Crm(Permanent("x"))).deliver([new_id()])


def test_the_pacer_is_asked_last_and_told_of_what_it_let_go_only(book):
    door, pacer, shut = Door(), Door(), Door(Deferred("limited", timedelta(seconds=9), "full", burned=False))
    crm = Crm(Receipt("LEAD-1"))

    (went,) = engine(book, crm, gates=(door,), pacer=pacer).deliver([new_id()])
    (held,) = engine(book, crm, gates=(door,), pacer=shut).deliver([new_id()])

    assert (pacer.learnt, shut.learnt) == ([went], [])
    assert door.learnt == [went, held]
    assert (held.outcome, len(crm.orders)) == (shut.shut, 1)


def test_what_the_pacer_let_go_too_late_frees_its_place(book):
    pacer, crm = Door(), Crm(Receipt("LEAD-1"))
    clock = iter([0.0, 60.0, 60.0, 60.0])

    (ended,) = engine(book, crm, pacer=pacer, monotonic=lambda: next(clock)).deliver([new_id()])

    assert (ended.outcome.code, pacer.learnt, crm.orders) == ("too_late", [ended], [])


@pytest.mark.parametrize(("waited_s", "asked"), [(0.4, 1), (0.6, 2)])
def test_what_was_let_go_with_its_set_asks_again_only_after_a_while(book, waited_s, asked):
    pacer, crm = Door(), Crm(Receipt("LEAD-1"))
    machine = engine(book, crm, pacer=pacer, monotonic=lambda: waited_s)

    going, turned_back = machine.admit([book.claimed], paced=True)
    machine.attempt(going[0], 0.0, paced=True)

    assert (turned_back, pacer.asked, len(crm.orders)) == ([], asked, 1)
