"""What producers may do, on a real Postgres: counted exactly, under races too, and free where nothing is counted."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from config.policy import load_specs
from delivery.errors import ProducerRefused
from delivery.intake import Intake, Item
from delivery.producers import DEFAULT, LoopGuard
from ledger.alerts import Alerts
from ledger.approvals import Approvals, Approver
from ledger.letters import LetterFilter, Letters, Signed
from ledger.producers import Producers, StoredPolicies
from tests.integration.conftest import claim, due, lead, new

BOSS = Signed("bia", "seen, fine")


class Voice:
    def __init__(self):
        self.sent = []

    def send(self, hints):
        self.sent += [each.id for each in hints]
        return len(self.sent)


@pytest.fixture
def producers(database):
    return Producers(database, actor="ana")


@pytest.fixture
def policies(database, ledger):
    return StoredPolicies(database, ledger.vault)


@pytest.fixture
def intake(ledger, policies):
    return Intake(ledger, Voice(), load_specs(), ("crm:default", "email:default"), policies=policies)


def body(n=1, key=None, **more):
    options = {"options": {"key": key}} if key else {}
    return {"nome": "Ana Teste", "email": f"ana.teste{n}@exemplo.com.br", "interesse": "produto_a"} | options | more


def ask(intake, n=1, key=None, producer="loja", origin=None, **more):
    return intake.submit("create_lead", body(n, key, **more), producer=producer, origin=origin)


def verdict(intake, n=1, key=None, **more):
    try:
        return ask(intake, n, key, **more).state
    except ProducerRefused as err:
        return err.code


def test_a_producer_without_caps_costs_one_statement(intake, statements):
    ask(intake, 1)
    statements.clear()

    ask(intake, 2)

    assert [each.split()[0] for each in statements] == ["WITH"]


def test_eight_threads_at_once_get_exactly_what_the_day_allows(intake, producers, archive):
    producers.set("loja", replace(DEFAULT, per_day=20), reason="test")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: verdict(intake, n), range(60)))

    assert (found.count("ready"), found.count("daily_cap")) == (20, 40)
    assert len(archive.search(producer="loja", most=100)) == 20


def test_eight_threads_at_once_meet_exactly_as_many_new_people_as_allowed(intake, producers, policies, archive):
    ask(intake, 0)
    producers.set("outra", replace(DEFAULT, new_recipients_per_day=5), reason="test")
    policies.forget()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: verdict(intake, n % 12, f"k{n}", producer="outra"), range(48)))

    people = {each.recipient for each in archive.search(producer="outra", most=100)}
    assert set(found) == {"ready", "new_recipients_cap"}
    assert producers.find("outra").new_in_day == 5
    assert found.count("ready") == len(archive.search(producer="outra", most=100))
    assert len(people) <= 6


def test_a_batch_is_taken_up_to_the_cap_in_its_order(intake, producers):
    producers.set("loja", replace(DEFAULT, per_minute=3), reason="test")

    replies = intake.submit_many([Item("create_lead", body(n)) for n in range(5)], producer="loja")

    assert [each.answer is not None for each in replies] == [True, True, True, False, False]
    assert {each.refusal.code for each in replies[3:]} == {"rate_exceeded"}


def test_a_refusal_says_when_and_then_it_is_accepted(intake, producers, sql):
    producers.set("loja", replace(DEFAULT, per_minute=1), reason="test")
    ask(intake, 1)

    with pytest.raises(ProducerRefused) as refused:
        ask(intake, 2)

    begun = sql("SELECT minute_from FROM producers")[0][0]
    assert refused.value.retry_at == begun + timedelta(minutes=1)
    sql("UPDATE producers SET minute_from = minute_from - interval '60 seconds'")
    assert verdict(intake, 2) == "ready"


def test_a_repeat_gets_its_receipt_and_uses_nothing(intake, producers):
    producers.set("loja", replace(DEFAULT, per_day=1), reason="test")
    first = ask(intake, 1, "k1")

    again = ask(intake, 1, "k1")

    assert (again.id, producers.find("loja").in_day) == (first.id, 1)
    assert verdict(intake, 2, "k2") == "daily_cap"


def test_what_was_refused_leaves_nothing_behind_and_its_key_is_free(intake, producers, sql):
    producers.set("loja", replace(DEFAULT, per_day=1), reason="test")
    ask(intake, 1, "k1")

    assert verdict(intake, 2, "k2") == "daily_cap"

    counts = sql(
        "SELECT (SELECT count(*) FROM deliveries), (SELECT count(*) FROM idempotency), (SELECT count(*) FROM people)"
    )
    assert counts == [(1, 1, 1)]  # fmt: skip
    producers.set("loja", replace(DEFAULT, per_day=2), reason="test")
    assert verdict(intake, 2, "k2") == "ready"


def test_one_producers_cap_is_not_anothers(intake, producers):
    producers.set("loja", replace(DEFAULT, per_day=1), reason="test")

    found = [verdict(intake, n, producer=each) for n, each in enumerate(["loja", "loja", "outra", "outra"])]

    assert found == ["ready", "daily_cap", "ready", "ready"]


def test_a_foreign_message_over_the_cap_is_held_for_a_person_and_not_lost(intake, producers, ledger):
    producers.set("celery", replace(DEFAULT, per_day=1), reason="test")
    ask(intake, 1, producer="celery", origin="m1")

    held = ask(intake, 2, producer="celery", origin="m2")

    assert (held.state, ask(intake, 2, producer="celery", origin="m2").id) == ("held", held.id)
    waiting = Approvals(ledger).list(producer="celery")
    assert [(str(each.id), each.code) for each in waiting] == [(held.id, "daily_cap")]


def test_the_same_content_to_one_person_freezes_that_producer_alone(intake, producers, policies, database):
    producers.set("loja", replace(DEFAULT, loop=LoopGuard(3, timedelta(hours=1))), reason="test")

    found = [verdict(intake, 1, f"k{n}") for n in range(5)]

    assert found == ["ready", "ready", "ready", "producer_frozen", "producer_frozen"]
    assert (verdict(intake, 2), verdict(intake, 1, producer="outra")) == ("producer_frozen", "ready")
    alerts = [(each.account, each.code, each.next_step) for each in Alerts(database).open()]
    assert alerts == [("producer:loja", "producer_frozen", "entrega producers unfreeze loja")]


def test_an_unfrozen_producer_goes_on_and_its_alert_ends(intake, producers, policies, database):
    producers.set("loja", replace(DEFAULT, loop=LoopGuard(1, timedelta(hours=1))), reason="test")
    assert [verdict(intake, 1, f"k{n}") for n in range(2)] == ["ready", "producer_frozen"]

    assert producers.unfreeze("loja", reason="mended")
    policies.forget()

    assert (verdict(intake, 2), Alerts(database).open()) == ("ready", [])
    assert not producers.unfreeze("loja", reason="again")


@pytest.mark.parametrize("changed", [{"interesse": "produto_b"}, {"email": "bia@exemplo.com.br"}])
def test_another_content_or_another_person_is_no_loop(intake, producers, changed):
    producers.set("loja", replace(DEFAULT, loop=LoopGuard(1, timedelta(hours=1))), reason="test")
    ask(intake, 1, "k1")

    assert verdict(intake, 1, "k2", **changed) == "ready"


def test_the_guard_forgets_what_is_older_than_its_window(ledger):
    policy = replace(DEFAULT, loop=LoopGuard(1, timedelta(hours=1)))
    old = UUID(int=((int(datetime.now(UTC).timestamp() * 1000) - 3_601_000) << 80) | (7 << 76) | (2 << 62))
    ledger.open([new(lead(1, key="k1"), id=old, policy=policy)])

    second = ledger.open([new(lead(1, key="k2"), policy=policy)])[0]
    third = ledger.open([new(lead(1, key="k3"), policy=policy)])[0]

    assert (second.fresh, third.fresh, third.refusal.code) == (True, False, "producer_frozen")


def test_the_default_guard_stops_a_batch_of_the_same(intake):
    replies = intake.submit_many([Item("create_lead", body(1, f"k{n}")) for n in range(25)], producer="loja")

    assert [each.answer is not None for each in replies] == [True] * 20 + [False] * 5


def test_repeats_of_one_key_are_no_loop(intake):
    found = {ask(intake, 1, "k1").id for _ in range(40)}

    assert (len(found), verdict(intake, 2)) == (1, "ready")


def test_a_foreign_message_that_loops_is_held(intake, producers):
    producers.set("celery", replace(DEFAULT, loop=LoopGuard(1, timedelta(hours=1))), reason="test")
    ask(intake, 1, "k1", producer="celery", origin="m1")

    held = [ask(intake, 1, f"k{n}", producer="celery", origin=f"m{n}").state for n in (2, 3)]

    assert (held, bool(producers.find("celery").policy.frozen)) == (["held", "held"], True)


@pytest.fixture
def held(intake, producers, archive):
    producers.set("loja", replace(DEFAULT, needs_approval=True), reason="test")
    return archive.find(UUID(ask(intake, 1).id))


def test_what_needs_approval_is_not_attempted_and_does_not_expire(held, ledger, sql, archive):
    sql("UPDATE deliveries SET expires_at = now() - interval '1 day'")

    ledger.sweep(idempotent=["create_lead"], lease_retries=3)

    assert (held.state, held.code) == ("held", "needs_approval")
    assert (due(ledger), claim(ledger, held.id), archive.find(held.id).state) == ([], [], "held")


def test_what_is_approved_goes_with_its_whole_time(held, ledger, sql, archive, letters):
    sql("UPDATE deliveries SET expires_at = now() - interval '1 day'")

    done = Approvals(ledger).approve([held.id], Approver(BOSS))

    found = archive.find(held.id)
    assert ([each.id for each in done.hints], found.state, found.code) == ([held.id], "ready", None)
    assert found.expires_at - found.next_at == timedelta(hours=24)
    assert [each.order.delivery_id for each in claim(ledger, held.id)] == [held.id]
    assert ("bia", "approved", "seen, fine") in [(e.actor, e.action, e.reason) for e in letters.history(held.id)]


def test_what_is_approved_before_its_time_waits_for_it(intake, producers, ledger, archive):
    producers.set("loja", replace(DEFAULT, needs_approval=True), reason="test")
    later = datetime.now(UTC) + timedelta(hours=2)
    held = UUID(ask(intake, 1, options={"send_at": later.isoformat()}).id)

    done = Approvals(ledger).approve([held], Approver(BOSS))

    assert (done.ids, done.hints, archive.find(held).next_at) == ((held,), (), later)
    assert archive.find(held).state == "waiting"


def test_what_is_rejected_is_canceled_for_good(held, ledger, archive):
    waiting = Approvals(ledger)

    assert waiting.reject([held.id], BOSS) == {held.id}

    found = archive.find(held.id)
    assert (found.state, found.code, found.reason) == ("canceled", "not_approved", "seen, fine")
    assert (waiting.approve([held.id], Approver(BOSS)).ids, waiting.reject([held.id], BOSS)) == ((), set())
    assert archive.verify().faults == {}


def test_of_two_people_one_decides(held, ledger):
    waiting = Approvals(ledger)

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda n: len(waiting.approve([held.id], Approver(BOSS)).ids if n % 2 else waiting.reject([held.id], BOSS)),
            range(8),
        )

    assert sum(answers) == 1


def test_nothing_else_frees_what_waits_for_approval(held, desk, ledger, archive):
    letters = Letters(ledger, actor="ana")

    desk.pause("crm:default", reason="test")
    desk.resume("crm:default", reason="test")

    assert letters.search(LetterFilter()) == []
    assert (letters.replay([held.id], reason="test").ids, letters.discard([held.id], reason="test")) == ((), set())
    assert archive.find(held.id).state == "held"


def test_while_everything_is_paused_nothing_is_attempted_and_everything_accepted(ledger, desk):
    before = ledger.open([new(lead(1))])[0]
    desk.pause_all(reason="test")

    after = ledger.open([new(lead(2))])[0]

    assert (after.state, claim(ledger, before.id, after.id)) == ("ready", [])
    assert due(ledger, stale=timedelta()) == []


def test_no_time_runs_out_while_everything_is_paused(ledger, desk, sql, archive):
    id_ = ledger.open([new(lead(1))])[0].id
    desk.pause_all(reason="test")
    sql("UPDATE deliveries SET expires_at = now() - interval '1 minute'")

    ledger.sweep(idempotent=["create_lead"], lease_retries=3)
    assert archive.find(id_).state == "ready"

    assert desk.resume_all(reason="test")
    ledger.sweep(idempotent=["create_lead"], lease_retries=3)
    assert [each.order.delivery_id for each in claim(ledger, id_)] == [id_]
    assert not desk.resume_all(reason="again")


def test_a_policy_is_believed_for_two_seconds_and_no_longer(database, ledger, producers):
    clock = [0.0]
    policies = StoredPolicies(database, ledger.vault, ticks=lambda: clock[0])
    policies.of("loja")
    producers.set("loja", replace(DEFAULT, per_minute=1), reason="test")

    clock[0] = 1.9
    before = policies.of("loja").per_minute
    clock[0] = 2.0

    assert (before, policies.of("loja").per_minute) == (None, 1)


def test_what_is_used_survives_a_change_of_the_policy(intake, producers, sql):
    producers.set("loja", replace(DEFAULT, per_day=5), reason="test")
    ask(intake, 1)

    found = producers.set("loja", replace(DEFAULT, per_day=9, allowed=frozenset({"@exemplo.com.br"})), reason="more")

    assert (found.in_day, found.policy.per_day, found.policy.allowed) == (1, 9, frozenset({"@exemplo.com.br"}))
    assert sql("SELECT action, reason FROM audit WHERE account = 'producer:loja' ORDER BY id") == [
        ("policy", "test"), ("policy", "more"),
    ]  # fmt: skip


def test_what_was_used_of_a_window_that_is_over_is_not_shown(producers, sql):
    producers.set("loja", replace(DEFAULT, per_minute=9, per_day=9), reason="a trial")
    sql("UPDATE producers SET minute_from = now() - interval '2 minutes', in_minute = 5, day_from = now(), in_day = 7")

    found = producers.find("loja")

    assert (found.in_minute, found.in_day) == (0, 7)
