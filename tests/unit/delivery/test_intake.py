from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.errors import InvalidCommand, KeyReused, LedgerUnavailable, Permanent
from delivery.ids import new_id
from delivery.intake import Intake
from delivery.ports import Opened

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}


class Book:
    """A ledger that answers as told and keeps what it was asked to open."""

    def __init__(self, **answer):
        self.opened = []
        self.answer = answer

    def open(self, new):
        self.opened += new
        answer = {"id": new[0].id, "fresh": True, "same_body": True, "state": "ready", "next_at": NOW} | self.answer
        return [Opened(**answer)]


class Away:
    def open(self, new):
        raise LedgerUnavailable("Postgres does not answer")


class Voice:
    def __init__(self):
        self.sent = []

    def send(self, hints):
        self.sent += hints
        return len(self.sent)


def intake(book, voice=None):
    return Intake(book, voice or Voice(), load_specs(), ("crm:default", "crm:filial", "email:default"), now=lambda: NOW)


def submit(book, body=LEAD, voice=None, **options):
    return intake(book, voice).submit("create_lead", body, producer="loja", **options)


def test_the_receipt_is_an_honest_sentence_and_a_next_step():
    book = Book()

    answer = submit(book)

    assert (answer.id, answer.state, answer.kind, answer.account) == (
        str(book.opened[0].id), "ready", "create_lead", "crm:default",
    )  # fmt: skip
    assert answer.message == "Seus dados foram registrados e serão processados em breve"
    assert (answer.next_step, answer.expected_at, answer.duplicate_of) == ("wait", NOW.isoformat(), None)


def test_the_receipt_speaks_english_when_asked():
    assert submit(Book(), language="en").message == "Your data has been registered and will be processed soon"


def test_a_new_delivery_is_hinted_once():
    voice = Voice()

    answer = submit(Book(), voice=voice)

    sent = [(str(each.id), each.kind, each.priority, each.account) for each in voice.sent]
    assert sent == [(answer.id, "create_lead", "normal", "crm:default")]


@pytest.mark.parametrize("answer", [{"fresh": False}, {"state": "waiting", "next_at": NOW + timedelta(hours=1)}])
def test_what_is_not_due_now_is_not_hinted(answer):
    voice = Voice()

    submit(Book(**answer), voice=voice)

    assert voice.sent == []


def test_a_repeat_without_a_key_names_the_earlier_delivery():
    earlier = new_id()

    answer = submit(Book(id=earlier, fresh=False, state="succeeded"))

    assert (answer.id, answer.duplicate_of, answer.next_step) == (str(earlier), str(earlier), "none")


def test_a_repeat_with_its_key_gets_the_first_receipt_again():
    earlier = new_id()

    answer = submit(Book(id=earlier, fresh=False), LEAD | {"options": {"key": "k1"}})

    assert (answer.id, answer.duplicate_of) == (str(earlier), None)


def test_a_key_with_another_body_is_refused():
    with pytest.raises(KeyReused):
        submit(Book(fresh=False, same_body=False), LEAD | {"options": {"key": "k1"}})


def test_nothing_is_written_for_a_wrong_command():
    book = Book()

    with pytest.raises(InvalidCommand):
        submit(book, LEAD | {"email": "x"})

    assert book.opened == []


def test_a_body_that_is_too_large_is_refused_before_it_is_looked_at():
    book = Book()

    with pytest.raises(InvalidCommand) as caught:
        submit(book, {"x": "y" * 16_000_001})

    assert [each.field for each in caught.value.issues] == ["body"]
    assert book.opened == []


def test_postgres_away_means_no_receipt():
    with pytest.raises(LedgerUnavailable):
        submit(Away())


@pytest.mark.parametrize(("asked", "account"), [("filial", "crm:filial"), ("crm:filial", "crm:filial")])
def test_an_account_may_be_named_short_or_in_full(asked, account):
    assert submit(Book(), LEAD | {"options": {"account": asked}}).account == account


@pytest.mark.parametrize("asked", ["norte", "email:default"])
def test_an_account_of_another_service_or_of_nobody_is_refused(asked):
    with pytest.raises(InvalidCommand) as caught:
        submit(Book(), LEAD | {"options": {"account": asked}})

    assert [each.field for each in caught.value.issues] == ["options.account"]


def test_the_ledger_gets_a_masked_recipient_and_the_policy_of_the_spec():
    book = Book()

    submit(book)

    assert book.opened[0].recipient == "a***@exemplo.com.br"
    assert book.opened[0].expires_in == timedelta(hours=24)
    assert not book.opened[0].hold_uncertain


def test_the_producer_may_want_the_uncertain_held():
    book = Book()

    submit(book, LEAD | {"options": {"on_uncertain": "hold"}})

    assert book.opened[0].hold_uncertain


@pytest.mark.parametrize(
    ("state", "next_step"),
    [
        ("attempting", "wait"),
        ("uncertain", "do_not_resend"),
        ("held", "ask_operator"),
        ("dead", "ask_operator"),
        ("expired", "ask_operator"),
        ("canceled", "none"),
    ],
)
def test_every_state_has_a_next_step(state, next_step):
    answer = submit(Book(state=state, fresh=False))

    assert (answer.next_step, bool(answer.message)) == (next_step, True)


RETURN = "https://loja.exemplo.com.br/retorno"


def test_a_callback_url_is_kept_with_its_command():
    book = Book()

    submit(book, LEAD | {"options": {"callback_url": RETURN}})

    assert book.opened[0].command.options.callback_url == RETURN


@pytest.mark.parametrize("url", ["http://loja.exemplo.com.br/", "https://127.1/", "https://a:b@exemplo.com.br/", ""])
def test_a_callback_url_that_may_not_be_called_is_refused_at_the_door(url):
    book = Book()

    with pytest.raises(InvalidCommand) as caught:
        submit(book, LEAD | {"options": {"callback_url": url}})

    assert [each.field for each in caught.value.issues] == ["options.callback_url"]
    assert url not in str(caught.value) or not url
    assert book.opened == []


def test_the_callback_url_of_a_fallback_is_checked_as_well():
    fallback = LETTER | {"options": {"callback_url": "https://localhost/"}}

    with pytest.raises(InvalidCommand) as caught:
        submit(Book(), LEAD | {"options": {"fallback": fallback}})

    assert [each.field for each in caught.value.issues] == ["options.fallback.options.callback_url"]


def test_no_door_accepts_a_callback_as_a_command():
    with pytest.raises(InvalidCommand, match="kind"):
        intake(Book(), None).submit("callback", {"endpoint": "x"}, producer="loja")


LETTER = {"kind": "send_email", "to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}


def test_a_fallback_is_kept_with_its_command():
    book = Book()

    submit(book, LEAD | {"options": {"fallback": LETTER | {"options": {"priority": "high"}}}})

    assert book.opened[0].command.options.fallback == LETTER | {"options": {"priority": "high"}}


@pytest.mark.parametrize(
    ("fallback", "field"),
    [
        ({}, "options.fallback.kind"),
        (LETTER | {"kind": "send_fax"}, "options.fallback.kind"),
        (LETTER | {"to": "x"}, "options.fallback.to.0"),
        (LETTER | {"options": {"account": "norte"}}, "options.fallback.options.account"),
        (LETTER | {"options": {"priority": "urgent"}}, "options.fallback.options.priority"),
        (LETTER | {"options": {"fallback": LETTER}}, "options.fallback.options.fallback"),
        ({"kind": "create_lead"} | LEAD | {"interesse": "produto_z"}, "options.fallback.interesse"),
    ],
)
def test_a_wrong_fallback_is_refused_at_the_door(fallback, field):
    book = Book()

    with pytest.raises(InvalidCommand) as caught:
        submit(book, LEAD | {"options": {"fallback": fallback}})

    assert [each.field for each in caught.value.issues] == [field]
    assert book.opened == []


def test_what_the_writer_refuses_is_refused_at_the_door_and_so_is_such_a_fallback():
    book = Book()

    def refuse(order):
        if order.command.kind == "send_email":
            raise Permanent("a header is malformed")

    door = replace(intake(book), writable=refuse)
    mail = {"kind": "send_email", "to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}

    with pytest.raises(InvalidCommand) as caught:
        door.submit("create_lead", LEAD | {"options": {"fallback": mail}}, producer="loja")

    assert [(each.field, each.issue) for each in caught.value.issues] == [
        ("options.fallback.body", "o provedor não aceita este conteúdo")
    ]
    assert door.submit("create_lead", LEAD, producer="loja").state == "ready"
    assert len(book.opened) == 1
