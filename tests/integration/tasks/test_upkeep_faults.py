"""Upkeep works for all: one row, account or step that always fails stops no other, and an operator hears of it."""

from types import SimpleNamespace

import pytest

from delivery.intake import Intake
from delivery.outcomes import Rejected
from delivery.ports import Settlement
from ledger.alerts import Alerts
from ledger.rollouts import Rollouts
from ledger.store import PostgresLedger
from tasks import app, confirm, drain, health, sweep
from tasks.faults import alert_raised, upkeep_failed
from tests.integration.conftest import claim, lead, letter, new
from tests.integration.tasks.test_fallbacks import LETTER
from tests.integration.tasks.test_upkeep import Api, Doors, Voice, voice

__all__ = ["voice"]


class Broken:
    """Fails at whatever it is asked for."""

    def __getattr__(self, name):
        raise RuntimeError(f"{name} is broken")


class Unlisted(dict):
    """Specs of which none can be looked for."""

    def get(self, name, default=None):
        raise RuntimeError("unforeseen")


class Narrow(Doors):
    """Gates that cannot tell about leads."""

    def room(self, account, kind, **more):
        if kind == "create_lead":
            raise RuntimeError("no such limit")
        return super().room(account, kind, **more)


@pytest.fixture
def heard():
    found = []

    def counted(work="", **_):
        found.append(work)

    def told(alert, **_):
        found.append((alert.severity, alert.account, alert.code))

    upkeep_failed.connect(counted, weak=False)
    alert_raised.connect(told, weak=False)
    yield found
    upkeep_failed.disconnect(counted)
    alert_raised.disconnect(told)


def waiting(ledger, sql, *commands):
    ids = [each.id for each in ledger.open([new(each) for each in commands])]
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")
    return ids


class Unswept(PostgresLedger):
    """A ledger whose expired leases cannot be freed."""

    def sweep(self, **_):
        raise RuntimeError("unforeseen")


@pytest.mark.parametrize(
    ("work", "part", "broken"),
    [("callbacks", "callbacks", lambda _: Broken()), ("leases", "ledger", lambda it: Unswept(it.engine, it.vault))],
)
def test_a_step_of_the_sweep_that_fails_stops_no_other(
    voice, ledger, sql, monkeypatch, heard, database, work, part, broken
):
    ids = waiting(ledger, sql, lead())
    monkeypatch.setitem(app.__dict__, part, broken(ledger))

    sweep.run()

    assert voice.sent == ids
    assert heard[:2] == [work, ("P1", f"upkeep:{work}", "upkeep_failed")]
    assert [(each.account, each.code) for each in Alerts(database).open()] == [(f"upkeep:{work}", "upkeep_failed")]


def test_an_operator_hears_once_of_a_step_that_fails_at_every_tick(voice, monkeypatch, heard):
    monkeypatch.setitem(app.__dict__, "callbacks", Broken())

    for _ in range(3):
        sweep.run()

    assert heard.count("callbacks") == 3
    assert len(heard) == 4


@pytest.mark.parametrize("task", [sweep, drain])
def test_an_account_whose_gates_fail_holds_back_no_other(voice, ledger, sql, monkeypatch, heard, task):
    _, letter_id = waiting(ledger, sql, lead(), letter())
    monkeypatch.setitem(app.__dict__, "lone_engine", Narrow())

    task.run()

    assert voice.sent == [letter_id]
    assert heard[0] == "backlogs"


def test_a_fallback_that_cannot_be_started_holds_back_no_other(voice, ledger, sql, monkeypatch, heard):
    class Picky(Intake):
        def prepare(self, kind, body, **more):
            if body["subject"] == "veneno":
                raise RuntimeError("unforeseen")
            return super().prepare(kind, body, **more)

    commands = [lead(n, fallback=LETTER | {"subject": each}) for n, each in enumerate(("veneno", "Oi"))]
    claimed = claim(ledger, *(each.id for each in ledger.open([new(each) for each in commands])))
    ledger.settle([Settlement(each, Rejected("invalid", "no")) for each in claimed])
    picky = Picky(ledger, Voice(), app.specs, ("crm:default", "email:default"))
    monkeypatch.setitem(app.__dict__, "intake", picky)

    sweep.run()

    assert sql("SELECT count(*) FROM deliveries WHERE fallback_of IS NOT NULL") == [(1,)]
    assert heard[0] == "fallbacks"


def test_look_ups_go_on_when_events_cannot_be_worked_on(voice, monkeypatch, heard):
    looked = []
    doubts = SimpleNamespace(take=lambda **_: looked.append(1) or [], conclude=lambda _: set())
    engine = SimpleNamespace(providers={}, specs=app.specs)
    for name, part in {"inbound": Broken(), "doubts": doubts, "engine": engine}.items():
        monkeypatch.setitem(app.__dict__, name, part)

    confirm.run()

    assert looked == [1]
    assert heard[0] == "inbound_events"


def test_accounts_are_probed_when_rollouts_cannot_be_judged(voice, monkeypatch, archive, heard, database):
    Rollouts(database, actor="ana").begin("crm:default", reason="a new version")
    monkeypatch.setitem(app.__dict__, "specs", Unlisted(app.specs))
    monkeypatch.setitem(app.__dict__, "engine", SimpleNamespace(providers={"crm:default": Api()}))

    health.run()

    assert [(each.name, each.health) for each in archive.accounts()] == [("crm:default", "ok")]
    assert heard[0] == "rollouts"
