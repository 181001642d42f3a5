"""Caps count people, not messages; what is never sent is given back; nothing but the approved content is sent."""

from dataclasses import replace
from uuid import UUID

import pytest

from config.policy import load_specs
from delivery.errors import ProducerRefused
from delivery.intake import Intake
from delivery.producers import DEFAULT
from ledger.approvals import Approvals, Approver
from ledger.canceling import cancel
from ledger.entries import payload_place
from ledger.letters import LetterFilter, Signed
from ledger.producers import Producers, StoredPolicies
from ledger.sealing import seal
from tests.integration.conftest import claim

BOSS = Signed("bia", "seen, fine")
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}


class Voice:
    def send(self, hints):
        return len(list(hints))


@pytest.fixture
def producers(database):
    return Producers(database, actor="ana")


@pytest.fixture
def intake(ledger, database):
    policies = StoredPolicies(database, ledger.vault)
    return Intake(ledger, Voice(), load_specs(), ("crm:default", "email:default"), policies=policies)


@pytest.fixture
def bind(producers, intake):
    def give(**changes):
        producers.set("loja", replace(DEFAULT, **changes), reason="test")
        intake.policies.forget()

    return give


def people(first, last):
    return [f"p{n}@exemplo.com.br" for n in range(first, last)]


def mail(intake, to, cc=(), bcc=(), *, subject="Teste", origin=None):
    body = {"to": to, "cc": list(cc), "bcc": list(bcc), "subject": subject, "text": "Olá"}
    return intake.submit("send_email", body, producer="loja", origin=origin)


def used(producers):
    found = producers.find("loja")
    return found.in_minute, found.in_day, found.new_in_day


def test_one_mail_to_150_people_counts_150(intake, bind, producers):
    bind(per_day=150, new_recipients_per_day=150, per_minute=200)

    mail(intake, people(0, 50), people(50, 100), people(100, 150))

    assert used(producers) == (150, 150, 150)
    with pytest.raises(ProducerRefused, match="daily_cap"):
        mail(intake, people(0, 1), subject="mais um")


def test_a_mail_that_needs_more_than_is_left_is_refused_whole(intake, bind, producers):
    bind(per_day=10)

    mail(intake, people(0, 6))

    with pytest.raises(ProducerRefused, match="daily_cap"):
        mail(intake, people(6, 11))
    assert used(producers)[1] == 6


def test_people_in_copy_are_new_once(intake, bind, producers):
    bind(new_recipients_per_day=5)

    mail(intake, people(0, 1), people(1, 3))
    mail(intake, people(3, 4), people(1, 3), subject="dois")

    assert used(producers)[2] == 4


def test_an_address_that_stands_twice_in_a_mail_is_one_person(intake, bind, producers):
    bind(per_day=5)

    mail(intake, ["a@exemplo.com.br"], ["A@exemplo.com.br"], ["a@exemplo.com.br"])

    assert used(producers)[1] == 1


def test_a_simulation_counts_people_too(intake, bind, ledger):
    from ledger.rehearsal import Rehearsal

    bind(per_day=10)
    mail(intake, people(0, 6))
    body = {"to": people(6, 11), "subject": "Teste", "text": "Olá"}
    new = intake.admit(intake.prepare("send_email", body, producer="loja"))

    (opened,) = Rehearsal(ledger.engine, ledger.vault).open([new])

    assert opened.refusal.code == "daily_cap"


def end_by(how, ledger, database, id_):
    if how == "reject":
        Approvals(ledger).reject([id_], BOSS)
    else:
        cancel(database, id_, actor="ana", reason="a mistake")


@pytest.mark.parametrize("how", ["reject", "cancel"])
def test_what_is_rejected_or_canceled_before_its_approval_is_given_back(intake, bind, producers, ledger, database, how):
    bind(per_minute=10, per_day=10, needs_approval=True)
    kept, ended = (UUID(mail(intake, people(n, n + 5), subject=str(n)).id) for n in (0, 5))

    end_by(how, ledger, database, ended)

    assert used(producers)[:2] == (5, 5)
    assert mail(intake, people(10, 15)).state == "held"
    assert Approvals(ledger).approve([kept], Approver(BOSS)).ids == (kept,)


def test_what_was_counted_yesterday_is_not_given_back_today(intake, bind, producers, ledger, sql):
    bind(per_day=10, needs_approval=True)
    old = UUID(mail(intake, people(0, 5)).id)
    sql("UPDATE deliveries SET created_at = created_at - interval '1 day'")
    sql("UPDATE producers SET day_from = now(), in_day = 3")

    Approvals(ledger).reject([old], BOSS)

    assert used(producers)[1] == 3


def test_what_was_approved_or_sent_is_not_given_back(intake, bind, producers, ledger, database):
    bind(per_day=10, needs_approval=True)
    id_ = UUID(mail(intake, people(0, 5)).id)
    Approvals(ledger).approve([id_], Approver(BOSS))

    cancel(database, id_, actor="ana", reason="a mistake")

    assert used(producers)[1] == 5


def test_a_delivery_whose_content_is_not_the_approved_one_is_never_sent(intake, bind, ledger, archive, sql):
    bind(needs_approval=True)
    id_ = UUID(intake.submit("create_lead", LEAD, producer="loja").id)
    Approvals(ledger).approve([id_], Approver(BOSS))
    ((person,),) = sql("SELECT person FROM deliveries")
    data_key = ledger.vault.data_keys([bytes(person)])[bytes(person)].key
    other = b'{"content": {"nome": "Outra", "email": "x@exemplo.com.br", "interesse": "produto_a"}, "options": {}}'
    sql("UPDATE payloads SET body = :body", body=seal(data_key, other, payload_place(id_)))

    assert claim(ledger, id_) == []
    assert (archive.find(id_).state, archive.find(id_).code) == ("dead", "unreadable")


def test_an_edited_letter_is_under_the_policy_of_its_producer(intake, bind, ledger, producers, letters, sql):
    id_ = UUID(intake.submit("create_lead", LEAD, producer="loja").id)
    sql("UPDATE deliveries SET state = 'dead', code = 'invalid'")
    bind(per_day=1, needs_approval=True)
    edits = replace(intake, ledger=letters.resubmitting(id_, reason="x"))

    answer = edits.submit("create_lead", LEAD | {"options": {"key": "edit-1"}}, producer="loja")

    assert (answer.state, used(producers)[1]) == ("held", 1)


@pytest.mark.parametrize(
    ("changes", "body", "code"),
    [
        ({"allowed": frozenset({"@exemplo.com.br"})}, {"email": "bia@outro.com.br"}, "recipient_not_allowed"),
        ({"per_day": 0}, {}, "daily_cap"),
    ],
)
def test_an_edit_that_its_producer_may_not_ask_for_changes_nothing(
    intake, bind, letters, archive, sql, changes, body, code
):
    id_ = UUID(intake.submit("create_lead", LEAD, producer="loja").id)
    sql("UPDATE deliveries SET state = 'dead', code = 'invalid'")
    bind(**changes)
    edits = replace(intake, ledger=letters.resubmitting(id_, reason="x"))

    with pytest.raises(ProducerRefused, match=code):
        edits.submit("create_lead", LEAD | body | {"options": {"key": "edit-1"}}, producer="loja")

    assert archive.find(id_).state == "dead"


def test_an_edited_letter_keeps_its_callback(intake, letters, sql):
    url = "https://loja.exemplo.com.br/entrega"
    id_ = UUID(intake.submit("create_lead", LEAD | {"options": {"callback_url": url}}, producer="loja").id)
    sql("UPDATE deliveries SET state = 'dead', code = 'invalid'")
    edits = replace(intake, ledger=letters.resubmitting(id_, reason="x"))

    edits.submit("create_lead", LEAD | {"options": {"callback_url": url, "key": "edit-1"}}, producer="loja")

    assert sql("SELECT count(DISTINCT endpoint_id), count(endpoint_id) FROM deliveries") == [(1, 2)]


def test_a_replay_leaves_what_waits_for_approval_alone(intake, bind, letters, archive):
    bind(needs_approval=True)
    id_ = UUID(intake.submit("create_lead", LEAD, producer="loja").id)

    done = letters.replay([id_], reason="x")

    assert (done.ids, letters.search(LetterFilter()), archive.find(id_).state) == ((), [], "held")
