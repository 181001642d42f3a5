"""Beat's tasks against a real ledger; hints and providers stand at their ports."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from config.settings import load_settings
from delivery.errors import Retryable
from delivery.inbound import Event
from delivery.outcomes import Deferred, Rejected
from delivery.ports import Settlement
from ingress.cli import cli
from ingress.doctor import _retention
from ledger.entries import hashed_key
from ledger.letters import LetterFilter, Signed
from ledger.replays import Replays, StopRule
from tasks import absorb, app, chain, drain, health, purge, sweep
from tests.integration.conftest import claim, lead, letter, new


class Voice:
    def __init__(self, waiting=0):
        self.waiting = waiting
        self.sent = []
        self.waits = []

    def backlog(self):
        return self.waiting

    def publish(self, hints):
        self.sent += [each.id for each in hints]
        self.waits += [each.wait for each in hints]
        return len(hints)

    send = publish


class Doors:
    """Gates that let so many calls of a kind go, one in each second; without end where nothing is said."""

    def __init__(self, **rooms):
        self.rooms = rooms
        self.providers = {}

    def room(self, account, kind, *, within, most):
        return [timedelta(seconds=n) for n in range(min(most, self.rooms.get(kind, most)))]


class Api:
    def __init__(self, fault=None):
        self.fault = fault
        self.probes = 0

    def probe(self):
        self.probes += 1
        if self.fault:
            raise self.fault
        return "token accepted"


@pytest.fixture
def voice(monkeypatch, ledger, archive, database):
    voice = Voice()
    values = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    parts = {"settings": values, "ledger": ledger, "archive": archive, "database": database, "hints": voice}
    for name, part in parts.items():
        monkeypatch.setitem(app.__dict__, name, part)
    monkeypatch.setitem(app.__dict__, "lone_engine", Doors())
    return voice


def test_what_providers_told_is_worked_on_until_nothing_waits(voice, inbound, monkeypatch, sql):
    monkeypatch.setitem(app.__dict__, "inbound", inbound)
    inbound.keep("whatsapp:default", [Event(f"status:{n}", "status", status="sent") for n in range(1001)])

    absorb.run()

    assert sql("SELECT count(*) FROM inbound_events WHERE worked_at IS NULL") == [(0,)]


def test_the_purge_forgets_what_is_too_old_and_hashes_what_an_old_process_left(voice, ledger, sql):
    (kept,), (old,) = ledger.open([new(lead(1, key="kept"))]), ledger.open([new(lead(2, key="old"))])
    sql("UPDATE idempotency SET kept_until = now() WHERE delivery_id = :id", id=old.id)
    sql("UPDATE idempotency SET key = 'key:kept' WHERE delivery_id = :id", id=kept.id)

    purge.run()

    assert sql("SELECT delivery_id, key FROM idempotency") == [(kept.id, hashed_key(ledger.vault, "key", "kept"))]


def test_the_audit_trail_is_chained_and_verify_finds_what_was_changed(voice, ledger, sql, capsys):
    ledger.open([new(lead())])
    chain.run()
    whole = CliRunner().invoke(cli, ["verify", "--json"])

    sql("UPDATE audit SET actor = 'somebody else'")
    changed = CliRunner().invoke(cli, ["verify", "--json"])
    cut = CliRunner().invoke(cli, ["verify", "--json", "--end", "7:00ff"])

    assert (whole.exit_code, json.loads(whole.stdout)["well"]) == (0, True)
    assert (changed.exit_code, json.loads(changed.stdout)["faults"]) == (1, {"audit_blocks_changed": 1})
    assert json.loads(cut.stdout)["faults"] == {"audit_blocks_changed": 1, "audit_ends_missing": 1}
    assert CliRunner().invoke(cli, ["verify", "--end", "nonsense"]).exit_code == 2


def test_the_doctor_tells_what_the_purge_should_have_deleted(voice, ledger, sql):
    ledger.open([new(lead(1))])
    sql("UPDATE idempotency SET kept_until = now() - interval '1 day'")

    before = _retention(app)
    purge.run()
    after = _retention(app)

    assert (before.well, "1 keys" in before.note, after.well) == (False, True, True)


def test_the_sweep_frees_a_lead_and_leaves_a_letter_uncertain(voice, ledger, archive, sql):
    ids = [each.id for each in ledger.open([new(lead()), new(letter())])]
    claim(ledger, *ids)
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second'")

    sweep.run()

    assert [archive.find(each).state for each in ids] == ["ready", "uncertain"]
    assert voice.sent == ids[:1]


def test_the_sweep_sends_lost_hints_again(voice, ledger, sql):
    (opened,) = ledger.open([new()])
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")

    sweep.run()

    assert voice.sent == [opened.id]


@pytest.mark.parametrize("waiting", [None, 1000])
def test_the_sweep_sends_no_hints_into_a_full_or_absent_broker(voice, ledger, sql, waiting):
    ledger.open([new()])
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")
    voice.waiting = waiting

    sweep.run()

    assert voice.sent == []


@pytest.mark.parametrize(("waiting", "age_s", "lost"), [(0, 2, False), (0, 5, True), (1, 5, False), (1, 10, True)])
def test_a_hint_counts_as_lost_sooner_where_none_waits_for_a_worker(voice, ledger, sql, waiting, age_s, lost):
    ids = [each.id for each in ledger.open([new(lead())])]
    sql("UPDATE deliveries SET hinted_at = now() - make_interval(secs => :age_s)", age_s=age_s)
    voice.waiting = waiting

    sweep.run()

    assert voice.sent == ids * lost


def test_a_tick_is_carried_out_once_however_often_it_comes(voice, archive, ledger, sql):
    (opened,) = ledger.open([new()])
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")
    sweep()
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")

    sweep()

    assert voice.sent == [opened.id]
    assert archive.last_tick("sweep") is not None


def test_a_worker_without_an_engine_takes_no_tick_so_that_readiness_fails(voice, archive, monkeypatch):
    def broken():
        raise ValueError("no engine can be built")

    for name in ("engine", "lone_engine"):
        monkeypatch.delitem(app.__dict__, name, raising=False)
    monkeypatch.setattr(app, "engine_factory", broken)

    with pytest.raises(ValueError, match="no engine"):
        sweep()

    assert archive.last_tick("sweep") is None


def test_the_next_tick_is_carried_out_again(voice, ledger, sql):
    (opened,) = ledger.open([new()])
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")
    sweep()
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")
    sql("UPDATE ticks SET at = now() - interval '5 seconds'")

    sweep()

    assert voice.sent == [opened.id, opened.id]


def test_parallel_ticks_are_one(voice, desk):
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: desk.begin_tick("sweep", every=timedelta(seconds=5)), range(16)))

    assert sum(taken) == 1


def test_the_sweep_stops_a_replay_that_fails_and_hints_nothing_of_it(voice, ledger, archive, database):
    ids = [each.id for each in ledger.open([new(lead(n)) for n in range(3)])]
    ledger.settle([Settlement(each, Rejected("invalid", "no")) for each in claim(ledger, *ids)])
    stop = StopRule(0, "errors")
    Replays(database).start(LetterFilter(), Signed("ana", "mended"), pace=None, stop=stop, most=10)
    ledger.settle([Settlement(each, Rejected("forbidden", "still no")) for each in claim(ledger, ids[0])])

    sweep.run()

    assert voice.sent == []
    assert {archive.find(each).state for each in ids} == {"dead"}


def park(ledger):
    (opened,) = ledger.open([new()])
    (claimed,) = claim(ledger, opened.id)
    ledger.settle([Settlement(claimed, Deferred("unavailable", timedelta(0), "503", parked=True))])
    return opened.id


def test_the_drain_takes_up_what_is_due_in_the_fallback_queue(voice, ledger, archive):
    id_ = park(ledger)

    drain.run()

    assert voice.sent == [id_]
    assert archive.find(id_).state == "ready"


def test_the_drain_waits_for_the_broker(voice, ledger, archive):
    id_ = park(ledger)
    voice.waiting = None

    drain.run()

    assert archive.find(id_).state == "waiting"


def test_a_shut_gate_holds_back_its_own_account_and_no_other(voice, ledger, sql, monkeypatch):
    ledger.open([new(lead(n)) for n in range(5)])
    letters = [each.id for each in ledger.open([new(letter(n)) for n in range(2)])]
    sql("UPDATE deliveries SET hinted_at = NULL")
    monkeypatch.setitem(app.__dict__, "lone_engine", Doors(create_lead=0))

    drain.run()

    assert sorted(voice.sent) == sorted(letters)


@pytest.mark.parametrize("task", [drain, sweep])
def test_as_many_are_hinted_as_the_gates_let_through_each_for_its_moment(voice, ledger, sql, monkeypatch, task):
    ids = [each.id for each in ledger.open([new(lead(n)) for n in range(5)])]
    sql("UPDATE deliveries SET hinted_at = NULL")
    monkeypatch.setitem(app.__dict__, "lone_engine", Doors(create_lead=3))

    task.run()

    assert voice.sent == ids[:3]
    assert voice.waits == [timedelta(seconds=n) for n in range(3)]


def test_hints_under_way_take_up_room_so_that_any_number_of_beats_does_no_harm(voice, ledger, sql, monkeypatch):
    ids = [each.id for each in ledger.open([new(lead(n)) for n in range(5)])]
    sql("UPDATE deliveries SET hinted_at = NULL")
    monkeypatch.setitem(app.__dict__, "lone_engine", Doors(create_lead=3))

    for task in (drain, sweep, drain):
        task.run()

    assert voice.sent == ids[:3]


def test_health_asks_an_account_no_more_often_than_its_spec_says(voice, monkeypatch, sql):
    crm, email = Api(), Api()
    providers = {"crm:default": crm, "email:default": email}
    monkeypatch.setitem(app.__dict__, "engine", SimpleNamespace(providers=providers))

    health.run()
    sql("UPDATE ticks SET at = at - interval '60 seconds'")
    health.run()
    sql("UPDATE ticks SET at = at - interval '240 seconds'")
    health.run()

    assert (crm.probes, email.probes) == (3, 2)  # every 60 s and every 300 s


def test_health_goes_on_past_an_account_whose_adapter_is_broken(voice, archive, monkeypatch):
    providers = {"crm:default": Api(KeyError("items")), "email:default": Api()}
    monkeypatch.setitem(app.__dict__, "engine", SimpleNamespace(providers=providers))

    health.run()

    found = {each.name: (each.health, each.health_note) for each in archive.accounts()}
    assert found["email:default"] == ("ok", "token accepted")
    assert found["crm:default"] == ("unknown", "the adapter failed with KeyError; see the worker's log")


def test_health_keeps_what_each_probe_found(voice, archive, monkeypatch):
    providers = {"crm:default": Api(), "email:default": Api(Retryable("no route to the mail server", code="not_sent"))}
    monkeypatch.setitem(app.__dict__, "engine", SimpleNamespace(providers=providers))

    health.run()

    found = [(each.name, each.health, each.health_note) for each in archive.accounts()]
    assert found == [
        ("crm:default", "ok", "token accepted"),
        ("email:default", "not_sent", "no route to the mail server"),
    ]
