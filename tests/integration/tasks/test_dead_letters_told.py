"""Each death of a delivery is told to an operator: at once by its own alert, or in the account's notice of the day."""

from types import SimpleNamespace

import pytest

from config.settings import load_settings
from delivery.outcomes import Deferred, Rejected
from delivery.ports import Settlement
from ledger.alerts import Alerts
from tasks import app, health
from tasks.dead_letters import died, tell
from tests.integration.conftest import claim, lead, new
from worker.life import _hear
from worker.metrics import PrometheusRecorder, render_metrics


@pytest.fixture(autouse=True)
def wired(monkeypatch, ledger, database):
    settings = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    for name, part in {"settings": settings, "ledger": ledger, "database": database}.items():
        monkeypatch.setitem(app.__dict__, name, part)


@pytest.fixture
def heard():
    told = []

    def hear(alert, **_):
        told.append((alert.severity, alert.account, alert.code, alert.reason))

    died.connect(hear)
    yield told
    died.disconnect(hear)


def end(ledger, outcome, *numbers):
    ids = [each.id for each in ledger.open([new(lead(n)) for n in numbers])]
    ledger.settle([Settlement(each, outcome) for each in claim(ledger, *ids)])
    return ids


def test_refusals_without_an_alert_of_their_own_make_one_notice_a_day(ledger, heard, sql):
    end(ledger, Rejected("invalid", "422"), 1, 2)
    end(ledger, Rejected("not_found", "404"), 3)

    tell(app)
    end(ledger, Rejected("invalid", "422"), 4)
    tell(app)
    sql("UPDATE alerts SET last_at = last_at - interval '25 hours'")
    tell(app)

    assert heard[0] == ("P2", "crm:default", "dead_letters", "deliveries became dead letters: invalid 2, not_found 1")
    assert len(heard) == 2


@pytest.mark.parametrize("code", ["undeliverable", "conflict", "window_closed", "capped", "expired", "unconfirmed"])
def test_no_way_to_die_is_silent(ledger, heard, code, monkeypatch):
    monkeypatch.setitem(app.__dict__, "engine", SimpleNamespace(providers={}))
    end(ledger, Rejected(code, "it died"), 1)

    health.run()

    assert [each[:3] for each in heard] == [("P2", "crm:default", "dead_letters")]


def test_what_has_an_alert_of_its_own_is_not_told_twice(ledger, heard):
    end(ledger, Rejected("forbidden", "403"), 1)

    tell(app)

    assert heard == []


def test_a_delivery_whose_worker_died_in_every_attempt_is_a_p1(ledger, heard, sql):
    (id_,) = end(ledger, Deferred("not_sent", app.specs["crm"].breaker.window, "no route"), 1)
    sql("UPDATE deliveries SET state = 'ready', next_at = now() WHERE id = :id", id=id_)
    claim(ledger, id_)
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second', tries = '{\"lease_lost\": 3}'")

    ledger.sweep(idempotent=["create_lead"], lease_retries=3)
    tell(app)

    assert [each[:3] for each in heard] == [("P1", "crm:default", "lease_lost")]


def test_old_deaths_and_callbacks_are_not_told(ledger, heard, sql):
    end(ledger, Rejected("invalid", "422"), 1, 2)
    sql("UPDATE deliveries SET settled_at = now() - interval '6 minutes'")

    tell(app)

    assert heard == []


def test_a_worker_counts_and_logs_what_is_told(ledger, database):
    recorder = PrometheusRecorder()
    receivers = list(died.receivers)
    _hear(lambda: recorder)
    end(ledger, Rejected("invalid", "422"), 1)

    tell(app)
    died.receivers = receivers

    assert (
        'entrega_alerts_total{code="dead_letters",service="crm",severity="P2"} 1.0'
        in render_metrics(recorder=recorder).decode()
    )
    assert [each.code for each in Alerts(database).open()] == ["dead_letters"]
