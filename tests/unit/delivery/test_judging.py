import random
from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.commands import CreateLead, SendWhatsApp
from delivery.errors import Ambiguous, Permanent, Retryable
from delivery.ids import new_id
from delivery.judging import judge, lease, next_wait
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Claimed, Order

SPECS = load_specs()
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
MESSAGE = SendWhatsApp(to="+5511999990001", text="Olá")


def claimed(command=LEAD, *, tries=None, parks=0):
    order = Order(new_id(), f"{command.service}:default", command, 1, datetime(2026, 11, 22, tzinfo=UTC))
    return Claimed(order, "tests", 1, tries or {}, parks)


def verdict(command, end, **state):
    return judge(claimed(command, **state), end, SPECS[command.service], rng=random.Random(7))


def test_a_receipt_is_success():
    assert verdict(LEAD, Receipt("LEAD-1")) == Succeeded(Receipt("LEAD-1"))


@pytest.mark.parametrize(
    ("code", "tries", "shortest", "longest"),
    [
        ("server_error", 0, 0.5, 1),
        ("server_error", 1, 1, 2),
        ("server_error", 2, 2, 4),
        ("unavailable", 0, 0.5, 1.5),
        ("unavailable", 4, 2.5, 10),
        ("not_sent", 2, 2, 4),
        ("unauthorized", 0, 0, 0),
    ],
)
def test_short_retries_follow_the_table_of_the_spec(code, tries, shortest, longest):
    outcome = verdict(LEAD, Retryable("x", code=code), tries={code: tries})

    assert isinstance(outcome, Deferred)
    assert timedelta(seconds=shortest) <= outcome.wait <= timedelta(seconds=longest)
    assert not outcome.parked


@pytest.mark.parametrize(
    ("code", "retries"),
    [("server_error", 3), ("not_sent", 3), ("unavailable", 5), ("rate_limited", 5), ("gateway_error", 3)],
)
def test_spent_retries_lead_to_the_fallback_queue(code, retries):
    last = verdict(LEAD, Retryable("x", code=code), tries={code: retries - 1})
    spent = verdict(LEAD, Retryable("x", code=code), tries={code: retries})

    assert not last.parked
    assert spent.parked


def test_each_kind_of_error_has_a_budget_of_its_own():
    outcome = verdict(LEAD, Retryable("x", code="unavailable"), tries={"server_error": 3, "rate_limited": 5})

    assert not outcome.parked


def test_a_drained_delivery_gets_one_attempt_and_is_parked_again_for_longer():
    first = verdict(LEAD, Retryable("x", code="unavailable"), parks=1)
    later = verdict(LEAD, Retryable("x", code="unavailable"), parks=3)

    assert first.parked
    assert later.parked
    assert timedelta(minutes=2.5) <= first.wait <= timedelta(minutes=5)
    assert timedelta(minutes=30) <= later.wait <= timedelta(minutes=60)


def test_the_last_wait_of_the_fallback_queue_repeats():
    outcome = verdict(LEAD, Retryable("x", code="unavailable"), parks=99)

    assert timedelta(hours=3) <= outcome.wait <= timedelta(hours=6)


def test_a_second_401_holds_the_account():
    assert verdict(LEAD, Retryable("x", code="unauthorized"), tries={"unauthorized": 1}) == Rejected(
        "unauthorized", "x", held=True
    )


@pytest.mark.parametrize(("code", "held"), [("invalid", False), ("forbidden", False), ("certificate", True)])
def test_a_permanent_verdict_is_rejected(code, held):
    assert verdict(LEAD, Permanent("x", code=code)) == Rejected(code, "x", held=held)


def test_a_lost_answer_of_an_idempotent_operation_is_tried_again():
    assert isinstance(verdict(LEAD, Ambiguous("x")), Deferred)


def test_a_lost_answer_without_idempotency_is_uncertain():
    assert verdict(MESSAGE, Ambiguous("x")) == Uncertain("answer_lost", "x")


def test_an_unknown_code_follows_the_rule_for_the_unknown():
    outcome = verdict(LEAD, Retryable("x", code="never heard of"))

    assert outcome.code == "never heard of"


def test_the_wait_asked_by_the_provider_wins():
    outcome = verdict(LEAD, Retryable("x", code="rate_limited", retry_after=timedelta(seconds=90)))

    assert timedelta(seconds=90) <= outcome.wait <= timedelta(seconds=99)


def test_an_asked_wait_shorter_than_our_own_does_not_shorten_it():
    outcome = verdict(LEAD, Retryable("x", code="server_error", retry_after=timedelta(0)), tries={"server_error": 2})

    assert outcome.wait >= timedelta(seconds=2)


def test_an_absurd_wait_is_not_believed():
    cap = SPECS["crm"].limits.on_excess.retry_after_cap

    outcome = verdict(LEAD, Retryable("x", code="rate_limited", retry_after=timedelta(days=10_000)))

    assert outcome.wait == cap


def test_deliveries_that_failed_together_do_not_come_back_together():
    rule, rng = SPECS["crm"].rule("server_error"), random.Random(1)

    waits = {next_wait(rule.wait, 3, asked=None, cap=timedelta(hours=1), rng=rng) for _ in range(50)}

    assert len(waits) == 50


def test_a_lease_outlives_the_call():
    operation = SPECS["crm"].operations["create_lead"]

    assert lease(operation) == timedelta(seconds=operation.timeouts.total_s + 15)
