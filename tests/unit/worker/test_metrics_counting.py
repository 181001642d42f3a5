"""What is counted, what is measured at scrape time, and what a label may hold."""

from datetime import timedelta

import pytest

from config.running import clear_metrics_folder
from worker.metrics import (
    LedgerCollector,
    LedgerFigures,
    PrometheusRecorder,
    SilentRecorder,
    make_recorder,
    render_metrics,
)

SECOND = timedelta(seconds=1)


def _answer(recorder, code="ok", outcome="succeeded"):
    recorder.answered(service="crm", operation="create_lead", outcome=outcome, code=code, took=SECOND)


def test_requests_and_their_time_are_counted():
    recorder = PrometheusRecorder()

    _answer(recorder)
    _answer(recorder)

    text = render_metrics(recorder=recorder).decode()
    assert 'entrega_requests_total{code="ok",operation="create_lead",outcome="succeeded",service="crm"} 2.0' in text
    assert 'entrega_request_duration_seconds_sum{operation="create_lead",service="crm"} 2.0' in text
    assert 'entrega_request_duration_seconds_bucket{le="0.5",operation="create_lead",service="crm"} 0.0' in text


def test_renewals_and_refused_messages_are_counted():
    recorder = PrometheusRecorder()

    recorder.token_renewed(service="crm")
    recorder.message_rejected(reason="unknown_kind")

    text = render_metrics(recorder=recorder).decode()
    assert 'entrega_token_renewals_total{service="crm"} 1.0' in text
    assert 'entrega_messages_rejected_total{reason="unknown_kind"} 1.0' in text


@pytest.mark.parametrize(
    "value", ["ana@exemplo.com.br", "+5511999990001", "0193509d-7c1e-7000", "r12345", "", "x" * 60]
)
def test_a_label_never_holds_an_id_or_a_person(value):
    recorder = PrometheusRecorder()

    recorder.message_rejected(reason=value)

    assert 'reason="other"' in render_metrics(recorder=recorder).decode()


def test_switched_off_metrics_count_nothing():
    recorder = make_recorder(enabled=False)

    _answer(recorder)
    recorder.retried(service="crm", operation="create_lead")
    recorder.turned_back(service="crm", operation="create_lead", code="rate_limited")
    recorder.token_renewed(service="crm")
    recorder.message_rejected(reason="unknown_kind")

    assert isinstance(recorder, SilentRecorder)
    assert render_metrics(recorder=recorder) == b""


def test_the_ledger_is_measured_at_scrape_time():
    rows = {("ready", "create_lead"): 3, ("dead", "send_email"): 2}
    figures = LedgerFigures(rows, oldest_due=timedelta(seconds=90), accounts_held=1)
    ledger = LedgerCollector(lambda: figures, lambda: 7)

    text = render_metrics(ledger=ledger).decode()

    assert 'entrega_deliveries{kind="create_lead",state="ready"} 3.0' in text
    assert 'entrega_dead_letters{kind="send_email"} 2.0' in text
    assert "entrega_oldest_due_seconds 90.0" in text
    assert "entrega_accounts_held 1.0" in text
    assert "entrega_hints_backlog 7.0" in text
    assert "entrega_ledger_up 1.0" in text


def test_an_absent_ledger_leaves_the_counters_readable():
    recorder = PrometheusRecorder()
    _answer(recorder)
    ledger = LedgerCollector(lambda: 1 / 0, lambda: None)

    text = render_metrics(recorder=recorder, ledger=ledger).decode()

    assert "entrega_ledger_up 0.0" in text
    assert "entrega_requests_total{" in text
    assert ("entrega_deliveries" in text, "entrega_hints_backlog" in text) == (False, False)


def test_the_starter_gets_an_empty_folder(tmp_path):
    (tmp_path / "counter_host-1.db").write_bytes(b"old")

    clear_metrics_folder(tmp_path)
    clear_metrics_folder(tmp_path / "new")

    assert [each.name for each in tmp_path.iterdir()] == ["new"]
