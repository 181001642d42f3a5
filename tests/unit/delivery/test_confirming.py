from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.commands import CreateLead, SendEmail, SendWhatsApp
from delivery.confirming import Confirmer
from delivery.errors import Ambiguous, Retryable
from delivery.ids import new_id
from delivery.outcomes import Receipt
from delivery.ports import Claimed, Doubt, Order

SPECS = load_specs()
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
MESSAGE = SendWhatsApp(to="+5511999990001", text="Olá")
LETTER = SendEmail(to=["ana.teste@exemplo.com.br"], subject="Oi", text="Olá")
SILENCE = Ambiguous("no way to ask", code="no_look_up")


class Book:
    def __init__(self, doubt):
        self.doubt = doubt
        self.concluded = []
        self.windows = None

    def take(self, *, pause, window, most):
        self.windows = window
        return [self.doubt]

    def conclude(self, conclusions):
        self.concluded += conclusions
        return {each.doubt.claimed.order.delivery_id for each in conclusions if each.verdict != "later"}


class Api:
    def __init__(self, found):
        self.found = found

    def look_up(self, order):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def doubt(command, *, minutes=60, hold=False, resent=False, listening=False):
    order = Order(new_id(), f"{command.service}:default", command, 1, datetime(2026, 11, 22, tzinfo=UTC))
    return Doubt(Claimed(order, "tests", 1, {}, 0), timedelta(minutes=minutes), hold, resent, listening)


def verdict(found, taken):
    book = Book(taken)
    providers = {taken.claimed.order.account: Api(found)}
    Confirmer(book, providers, SPECS).confirm()
    return book.concluded[0].verdict


def test_what_the_provider_has_is_proved():
    assert verdict(Receipt("LEAD-1"), doubt(LEAD)) == "proved"


def test_what_the_provider_does_not_have_is_sent_again():
    assert verdict(None, doubt(LEAD, hold=True)) == "absent"


@pytest.mark.parametrize(
    ("command", "state", "expected"),
    [
        (MESSAGE, {"minutes": 14, "hold": True}, "later"),
        (MESSAGE, {"minutes": 16, "hold": True}, "unconfirmed"),
        (MESSAGE, {"minutes": 16, "hold": True, "listening": True}, "absent"),
        (MESSAGE, {"minutes": 16}, "resend"),
        (MESSAGE, {"minutes": 16, "resent": True}, "unconfirmed"),
        (LETTER, {"minutes": 0}, "resend"),
        (LETTER, {"minutes": 0, "hold": True}, "unconfirmed"),
        (LETTER, {"minutes": 0, "resent": True}, "unconfirmed"),
        (LETTER, {"minutes": 0, "hold": True, "listening": True}, "unconfirmed"),
    ],
)
def test_silence_is_weighed(command, state, expected):
    assert verdict(SILENCE, doubt(command, **state)) == expected


@pytest.mark.parametrize("fault", [Retryable("no route"), KeyError("items")])
def test_a_provider_that_is_away_or_broken_proves_nothing(fault):
    assert verdict(fault, doubt(LEAD, hold=True)) == "unconfirmed"


def test_an_account_that_is_gone_proves_nothing():
    book = Book(doubt(LEAD, hold=True))

    Confirmer(book, {}, SPECS).confirm()

    assert book.concluded[0].verdict == "unconfirmed"


def test_only_what_was_written_is_told():
    assert Confirmer(Book(doubt(MESSAGE, minutes=1)), {"whatsapp:default": Api(SILENCE)}, SPECS).confirm() == []


def test_the_window_of_evidence_comes_from_the_spec():
    book = Book(doubt(LEAD))

    Confirmer(book, {}, SPECS).confirm()

    assert book.windows["send_whatsapp"] == timedelta(minutes=15)


def test_a_fault_of_our_own_adapter_stops_no_other_look_up():
    book = Book(doubt(LEAD))
    others = [doubt(LEAD), doubt(LEAD, hold=True)]
    book.take = lambda **_: [*others, book.doubt]

    class Bug(Api):
        def look_up(self, order):
            if order.delivery_id != book.doubt.claimed.order.delivery_id:
                raise KeyError("items")
            return self.found

    Confirmer(book, {"crm:default": Bug(Receipt("LEAD-1"))}, SPECS).confirm()

    assert [each.verdict for each in book.concluded] == ["resend", "unconfirmed", "proved"]
    assert "KeyError" in book.concluded[1].reason
