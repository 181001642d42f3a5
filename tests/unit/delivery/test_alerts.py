"""Which end of an attempt an operator hears of, and what is told."""

from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.alerts import alert_for
from delivery.commands import CreateLead
from delivery.ids import new_id
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Claimed, Order, Settlement

CRM = load_specs()["crm"]
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
SOON = timedelta(seconds=1)


def alert(outcome):
    order = Order(new_id(), "crm:default", LEAD, 1, datetime(2026, 11, 22, tzinfo=UTC))
    return alert_for(Settlement(Claimed(order, "tests", 1, {}, 0), outcome), CRM)


@pytest.mark.parametrize(
    ("outcome", "severity", "step"),
    [
        pytest.param(Rejected("unauthorized", "refused", held=True), "P1", "entrega resume crm:default", id="held"),
        pytest.param(
            Rejected("forbidden", "no permission"),
            "P1",
            "entrega dead-letters list --account crm:default --code forbidden",
            id="dead",
        ),
        pytest.param(Deferred("rate_limited", SOON, "429"), "P2", "entrega limits crm:default", id="the first 429"),
        pytest.param(Rejected("a_new_code", "what?"), "P2", "--code a_new_code", id="a code nobody knows"),
    ],
)
def test_what_a_person_must_know_is_told_with_the_next_step(outcome, severity, step):
    found = alert(outcome)

    assert (found.severity, found.account, found.service, found.code) == (severity, "crm:default", "crm", outcome.code)
    assert step in found.next_step


@pytest.mark.parametrize(
    "outcome",
    [
        pytest.param(Succeeded(Receipt("lead-1")), id="a success"),
        pytest.param(Deferred("unauthorized", SOON, "401"), id="a first 401: the token is renewed"),
        pytest.param(Deferred("unavailable", SOON, "503", parked=True), id="a rule without an alert"),
        pytest.param(Deferred("limited", SOON, "its slot has not come", burned=False), id="a closed gate"),
        pytest.param(Rejected("invalid", "fields"), id="the producer's own mistake"),
        pytest.param(Uncertain("answer_lost", "no answer"), id="a doubt"),
    ],
)
def test_nobody_is_woken_for_what_mends_itself(outcome):
    assert alert(outcome) is None
