"""Callback URLs are kept in one transaction for a set, and a producer has no more of them than the spec says."""

from dataclasses import replace

import pytest

from config.policy import load_specs
from delivery.errors import ProducerRefused
from delivery.intake import Intake, Item
from ledger.letters import Letters


class Voice:
    def send(self, hints):
        return len(list(hints))


@pytest.fixture
def intake(ledger):
    return Intake(replace(ledger, most_endpoints=3), Voice(), load_specs(), ("crm:default",))


def item(n, url):
    body = {"nome": "Ana Teste", "email": f"ana.teste{n}@exemplo.com.br", "interesse": "produto_a"}
    return Item("create_lead", body | {"options": {"callback_url": f"https://loja.exemplo.com.br/{url}"}})


def test_many_urls_of_a_bulk_cost_a_handful_of_statements(intake, ledger, statements, sql):
    many = replace(intake, ledger=ledger)

    replies = many.submit_many([item(n, n) for n in range(500)], producer="loja")

    assert all(each.answer for each in replies)
    assert len(statements) < 20
    assert sql("SELECT count(*), count(DISTINCT address) FROM endpoints") == [(500, 500)]
    assert sql("SELECT count(*) FROM deliveries d JOIN endpoints e ON e.id = d.endpoint_id") == [(500,)]
    assert sql("SELECT count(*) FROM signing_secrets") == [(1,)]


def test_a_producer_has_so_many_urls_and_no_more(intake, sql):
    replies = intake.submit_many([item(n, n) for n in range(5)], producer="loja")

    refused = [each.refusal.code for each in replies if each.refusal]
    assert refused == ["too_many_endpoints"] * 2
    assert sql("SELECT count(*) FROM deliveries") == [(3,)]
    assert intake.submit_many([item(9, 1)], producer="loja")[0].answer
    assert intake.submit_many([item(9, 9)], producer="outra")[0].answer


def test_a_command_without_a_url_is_taken_all_the_same(intake):
    intake.submit_many([item(n, n) for n in range(3)], producer="loja")
    plain = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}

    with pytest.raises(ProducerRefused, match="too_many_endpoints"):
        intake.submit("create_lead", item(7, 7).body, producer="loja")
    assert intake.submit("create_lead", plain, producer="loja").state == "ready"


def test_a_foreign_message_with_one_url_too_many_is_held(intake):
    intake.submit_many([item(n, n) for n in range(3)], producer="celery")

    answer = intake.submit("create_lead", item(7, 7).body, producer="celery", origin="m1")

    assert answer.state == "held"


def test_the_shipped_spec_bounds_the_urls_of_a_producer():
    assert load_specs()["callback"].limits.most_endpoints == 1000


def test_an_edited_letter_brings_no_url_beyond_those(intake, ledger, sql):
    accepted = intake.submit_many([item(n, n) for n in range(3)], producer="loja")
    sql("UPDATE deliveries SET state = 'dead', code = 'invalid', settled_at = now()")
    letters = Letters(intake.ledger, "ana")
    closing = replace(intake, ledger=letters.resubmitting(accepted[0].answer.id, reason="a wrong URL"))

    with pytest.raises(ProducerRefused, match="too_many_endpoints"):
        closing.submit("create_lead", item(0, 9).body, producer="loja")
