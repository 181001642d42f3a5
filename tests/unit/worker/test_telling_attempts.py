"""One attempt, one line, and the counters."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from logging import ERROR, INFO, WARNING
from uuid import UUID

import pytest

from delivery.commands import CreateLead
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain, Usage
from delivery.ports import Claimed, Order, Settlement
from worker.metrics import PrometheusRecorder, SilentRecorder, render_metrics
from worker.telling import AttemptTeller

ID = UUID("0193509d-7c1e-7000-8000-551199999000")
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", telefone="+5511999990001", interesse="produto_a")
GATE = Deferred("rate_limited", timedelta(seconds=2), "limiter", burned=False)


class _Log:
    def __init__(self):
        self.records = []

    def log(self, level, event, **fields):
        self.records.append((level, event, fields))


class _Broken:
    def log(self, *_, **__):
        raise OSError(28, "No space left on device")


def _settlement(outcome, *, attempt=1, http_status=None):
    order = Order(ID, "crm:default", LEAD, attempt, datetime(2026, 11, 22, tzinfo=UTC))
    claimed = Claimed(order=order, producer="agent-001", fence=3, tries={}, parks=0)
    return Settlement(claimed, outcome, http_status, None, timedelta(milliseconds=245))


def _tell(outcome, log, recorder=None, **facts):
    AttemptTeller(recorder or SilentRecorder(), log).tell(
        _settlement(outcome, **facts), method="POST", endpoint="/api/v1/leads"
    )


def test_the_line_has_the_fields_of_the_specification_and_ours():
    log = _Log()

    _tell(Succeeded(Receipt("LEAD-2024-001")), log, http_status=201)

    level, event, fields = log.records[0]
    assert (level, event) == (INFO, "attempt")
    assert fields == {
        "service": "crm_integration",
        "action": "create_lead",
        "request_id": str(ID),
        "method": "POST",
        "endpoint": "/api/v1/leads",
        "status_code": 201,
        "response_time_ms": 245,
        "retry_count": 0,
        "user_id": "agent-001",
        "outcome": "succeeded",
        "code": "ok",
        "provider_code": None,
        "reason": None,
        "wait_s": None,
        "attempt": 1,
        "fence": 3,
        "account": "crm:default",
    }


def test_the_line_holds_no_person():
    log = _Log()

    _tell(Uncertain("answer_lost", "no complete answer"), log)

    assert ("Ana" in str(log.records), "exemplo" in str(log.records), "99999-" in str(log.records)) == (False,) * 3


@pytest.mark.parametrize(
    ("outcome", "level", "event", "wait_s"),
    [
        (Succeeded(Receipt("1")), INFO, "attempt", None),
        (Deferred("unavailable", timedelta(seconds=1.5), "503"), WARNING, "attempt", 1.5),
        (GATE, INFO, "gate_closed", 2.0),
        (Uncertain("answer_lost", "cut"), WARNING, "attempt", None),
        (Rejected("invalid", "422"), WARNING, "attempt", None),
        (Rejected("unauthorized", "401", held=True), ERROR, "attempt", None),
    ],
)
def test_the_level_says_how_urgent_an_outcome_is(outcome, level, event, wait_s):
    log = _Log()

    _tell(outcome, log)

    assert (log.records[0][0], log.records[0][1], log.records[0][2]["wait_s"]) == (level, event, wait_s)


def test_attempts_and_retries_are_counted():
    recorder = PrometheusRecorder()

    _tell(Succeeded(Receipt("1")), _Log(), recorder, attempt=2)

    text = render_metrics(recorder=recorder).decode()
    labels = 'code="ok",operation="create_lead",outcome="succeeded",service="crm"'
    assert f"entrega_requests_total{{{labels}}} 1.0" in text
    assert 'entrega_retries_total{operation="create_lead",service="crm"} 1.0' in text


def test_a_closed_gate_is_no_request():
    recorder = PrometheusRecorder()

    _tell(GATE, _Log(), recorder)

    text = render_metrics(recorder=recorder).decode()
    assert 'entrega_gates_closed_total{code="rate_limited",operation="create_lead",service="crm"} 1.0' in text
    assert "entrega_requests_total{" not in text


def test_a_log_that_fails_changes_nothing_and_the_counters_go_on():
    recorder = PrometheusRecorder()

    _tell(Succeeded(Receipt("1")), _Broken(), recorder)

    assert "entrega_requests_total{" in render_metrics(recorder=recorder).decode()


def test_counters_that_fail_change_nothing():
    log = _Log()

    _tell(Succeeded(Receipt("1")), log, recorder=object())

    assert len(log.records) == 1


def test_a_usage_header_that_makes_no_sense_is_counted():
    recorder = PrometheusRecorder()
    settlement = replace(_settlement(Succeeded(Receipt("LEAD-2024-001"))), usage=Usage(unreadable=True))

    AttemptTeller(recorder, _Log()).tell(settlement, method="POST", endpoint="/api/v1/leads")

    assert 'entrega_usage_unreadable_total{service="crm"} 1.0' in render_metrics(recorder=recorder).decode()


def test_work_of_upkeep_that_fails_is_counted():
    recorder = PrometheusRecorder()

    recorder.upkeep_failed(work="inbound_events")

    assert 'entrega_upkeep_failures_total{work="inbound_events"} 1.0' in render_metrics(recorder=recorder).decode()
