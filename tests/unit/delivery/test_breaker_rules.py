from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.breaker import Refusal, Rules, deferral, mark
from delivery.commands import CreateLead, SendWhatsApp
from delivery.ids import new_id
from delivery.judging import lease
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Claimed, Order, Settlement

SPECS = load_specs()
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
MESSAGE = SendWhatsApp(to="+5511999990001", text="Olá")
SOON = timedelta(seconds=1)


def ended(outcome, http_status=None, *, command=LEAD, tries=None):
    order = Order(new_id(), f"{command.service}:default", command, 1, datetime(2026, 11, 22, tzinfo=UTC))
    return Settlement(Claimed(order, "tests", 1, tries or {}, 0), outcome, http_status)


@pytest.mark.parametrize(
    ("outcome", "http_status", "expected"),
    [
        (Succeeded(Receipt("LEAD-1")), 201, "success"),
        (Deferred("unavailable", SOON, "busy"), 503, "failure"),
        (Deferred("server_error", SOON, "broken"), 500, "failure"),
        (Deferred("not_sent", SOON, "refused"), None, "failure"),
        (Deferred("answer_lost", SOON, "cut"), None, "failure"),
        (Uncertain("answer_lost", "cut"), None, "failure"),
        (Deferred("unavailable", SOON, "parked", parked=True), 503, "failure"),
        (Deferred("rate_limited", SOON, "too many"), 429, "neutral"),
        (Deferred("unavailable", SOON, "odd"), 408, "neutral"),
        (Rejected("invalid", "bad field"), 422, "neutral"),
        (Rejected("unauthorized", "bad token", held=True), 401, "neutral"),
        (Rejected("certificate", "wrong name", held=True), None, "neutral"),
        (Uncertain("unknown", "our own fault"), None, "neutral"),
        (Deferred("limited", SOON, "no slot", burned=False), None, "neutral"),
        (Deferred("not_sent", SOON, "a later gate", burned=False), None, "neutral"),
    ],
)
def test_what_an_end_says_about_the_provider(outcome, http_status, expected):
    assert mark(ended(outcome, http_status), SPECS["crm"]) == expected


def test_the_last_retry_of_a_delivery_counts_although_it_ends_rejected():
    crm = SPECS["crm"]
    spent = {"server_error": crm.rule("server_error").retries}

    counted = mark(ended(Rejected("server_error", "broken"), 500, tries=spent), crm)

    assert counted == "failure"


def test_a_permanent_refusal_at_the_first_attempt_does_not_count():
    assert mark(ended(Rejected("server_error", "refused for good"), 500), SPECS["crm"]) == "neutral"


@pytest.mark.parametrize("counts", [("retryable",), ("retryable", "ambiguous")])
def test_an_uncertain_end_counts_only_when_the_spec_says_so(counts):
    whatsapp = SPECS["whatsapp"]
    tuned = whatsapp.model_copy(update={"breaker": whatsapp.breaker.model_copy(update={"counts": counts})})

    counted = mark(ended(Uncertain("answer_lost", "cut"), command=MESSAGE), tuned)

    assert (counted == "failure") is ("ambiguous" in counts)


@pytest.mark.parametrize(
    ("refusal", "wait"),
    [
        (Refusal(timedelta(seconds=18)), timedelta(seconds=18)),
        (Refusal(timedelta(seconds=30), forced=True), timedelta(seconds=30)),
        (Refusal(timedelta()), timedelta(seconds=1)),
    ],
)
def test_a_refused_call_burns_no_attempt_and_is_woken_at_the_breakers_pace(refusal, wait):
    outcome = deferral(refusal, "crm:default, create_lead")

    assert (outcome.code, outcome.burned, outcome.parked, outcome.paced) == ("breaker_open", False, False, True)
    assert outcome.wait == wait
    assert "crm:default, create_lead" in outcome.reason


def test_the_rules_come_from_the_spec_and_the_operations_deadline():
    crm = SPECS["crm"]

    rules = Rules.of(crm.breaker, lease(crm.operations["create_lead"]))

    assert (rules.failure_ratio, rules.window, rules.open_for) == (0.5, timedelta(seconds=60), timedelta(seconds=30))
    assert (rules.trials, rules.needed, rules.minimum_calls) == (3, 3, 10)
    assert rules.lease == timedelta(seconds=crm.operations["create_lead"].timeouts.total_s + 15)


@pytest.mark.parametrize(
    ("trials", "ratio", "needed"), [(3, 0.7, 3), (10, 0.7, 7), (100, 0.07, 7), (5, 0.6, 3), (1, 0.7, 1), (4, 1.0, 4)]
)
def test_the_trials_needed_are_counted_exactly(trials, ratio, needed):
    rules = Rules(0.5, timedelta(seconds=60), 10, timedelta(seconds=30), trials, ratio, timedelta(seconds=45))

    assert rules.needed == needed
