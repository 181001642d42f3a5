"""What every ledger must do. A second ledger would run this same file."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from delivery.ids import new_id
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Backlog, Settlement
from tests.integration.conftest import claim, due, lead, letter, new

SOON = timedelta(seconds=2)


def settle(ledger, claimed, outcome):
    return ledger.settle([Settlement(claimed, outcome, http_status=201, duration=timedelta(milliseconds=12))])


def opened(ledger, *commands):
    return [each.id for each in ledger.open([new(command) for command in commands])]


def test_an_accepted_command_is_ready_and_on_the_record(ledger, archive, sql):
    (id_,) = opened(ledger, lead())

    found = archive.find(id_)

    assert (found.state, found.attempts, found.recipient) == ("ready", 0, "a***@exemplo.com.br")
    assert sql("SELECT actor, action FROM audit WHERE delivery_id = :id", id=id_) == [("tests", "accepted")]


def test_a_command_for_later_waits_and_cannot_be_claimed(ledger):
    later = datetime.now(UTC) + timedelta(hours=1)

    (result,) = ledger.open([new(lead(send_at=later))])

    assert (result.state, result.next_at) == ("waiting", later)
    assert claim(ledger, result.id) == []


def test_the_same_key_and_body_stand_for_one_delivery(ledger):
    first, again = (ledger.open([new(lead(key="k1"))])[0] for _ in range(2))

    assert (first.fresh, again.fresh, again.same_body) == (True, False, True)
    assert again.id == first.id


def test_the_same_key_with_another_body_is_told_apart(ledger):
    first = ledger.open([new(lead(1, key="k1"))])[0]

    other = ledger.open([new(lead(2, key="k1"))])[0]

    assert (other.fresh, other.same_body, other.id) == (False, False, first.id)


def test_keys_of_two_producers_do_not_meet(ledger):
    first, other = (ledger.open([new(lead(key="k1"), producer=name)])[0] for name in ("loja", "site"))

    assert first.fresh
    assert other.fresh


def test_a_repeat_without_a_key_is_the_same_delivery_within_the_window(ledger, sql):
    first, again = (ledger.open([new()])[0] for _ in range(2))
    sql("UPDATE idempotency SET kept_until = now() - interval '1 second'")

    later = ledger.open([new()])[0]

    assert (again.id, again.fresh) == (first.id, False)
    assert later.fresh


def test_a_redelivered_message_opens_nothing_even_after_the_window(ledger, sql):
    first = ledger.open([new(origin="m1")])[0]
    sql("UPDATE idempotency SET kept_until = now() - interval '1 second' WHERE key LIKE 'same:%'")

    again = ledger.open([new(origin="m1")])[0]

    assert (again.id, again.fresh) == (first.id, False)


def test_repeats_within_one_batch_stand_for_one_delivery(ledger, archive):
    results = ledger.open([new(lead(1, key="k")), new(lead(1, key="k")), new(lead(2, key="k")), new(lead(3))])

    assert [each.fresh for each in results] == [True, False, False, True]
    assert [each.same_body for each in results] == [True, True, False, True]
    assert len(archive.search()) == 2


def test_repeats_within_one_set_are_compared_with_what_stands_for_their_key_already(ledger):
    (first,) = ledger.open([new(lead(1, key="pedido-1"))])

    results = ledger.open([new(lead(2, key="pedido-1")), new(lead(1, key="pedido-1")), new(lead(2, key="pedido-1"))])

    assert [(each.id, each.fresh) for each in results] == [(first.id, False)] * 3
    assert [each.same_body for each in results] == [False, True, False]


def test_parallel_submits_with_one_key_open_one_delivery(ledger, archive):
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda _: ledger.open([new(lead(key="k1"))])[0], range(24)))

    assert len({each.id for each in results}) == 1
    assert sum(each.fresh for each in results) == 1
    assert len(archive.search()) == 1


def test_parallel_submits_for_one_new_person_share_one_data_key(ledger, sql):
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: ledger.open([new(lead(key=f"k{n}"))])[0].id, range(16)))

    assert len(claim(ledger, *ids)) == 16
    assert sql("SELECT count(*) FROM people") == [(1,)]


def test_a_claim_hands_over_the_command_and_records_the_attempt_first(ledger, archive):
    command = lead()
    (id_,) = opened(ledger, command)

    (claimed,) = claim(ledger, id_)

    assert claimed.order.command.content() == command.content()
    assert (claimed.order.attempt, claimed.fence, claimed.order.account) == (1, 1, "crm:default")
    found = archive.find(id_)
    assert found.state == "attempting"
    assert [(each.n, each.outcome, each.worker) for each in found.timeline] == [(1, None, "w1")]


def test_a_claim_says_how_much_time_is_left(ledger):
    (id_,) = opened(ledger, lead(expires_at=datetime.now(UTC) + timedelta(minutes=5)))

    (claimed,) = claim(ledger, id_)

    assert timedelta(minutes=4, seconds=50) < claimed.left < timedelta(minutes=5)


def test_a_claimed_delivery_cannot_be_claimed_again(ledger):
    (id_,) = opened(ledger, lead())
    claim(ledger, id_)

    again = claim(ledger, id_)

    assert again == []


def test_parallel_claims_give_each_delivery_to_one_worker(ledger):
    ids = opened(ledger, *(lead(n) for n in range(30)))

    with ThreadPoolExecutor(8) as pool:
        taken = [
            each.order.delivery_id for batch in pool.map(lambda _: claim(ledger, *ids), range(8)) for each in batch
        ]

    assert sorted(taken) == sorted(ids)


def test_unknown_ids_are_left_alone(ledger):
    assert claim(ledger, new_id()) == []


def test_success_keeps_the_receipt_and_ends_the_attempt(ledger, archive):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)

    changed = settle(ledger, claimed, Succeeded(Receipt("LEAD-1")))

    found = archive.find(id_)
    assert changed == {id_}
    assert (found.state, found.receipt, found.progress, found.next_at) == ("succeeded", "LEAD-1", "sent", None)
    assert [(e.outcome, e.code, e.http_status, e.duration_ms) for e in found.timeline] == [("succeeded", "ok", 201, 12)]


def test_deferred_waits_and_counts_the_try_under_its_code(ledger, archive):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)
    settle(ledger, claimed, Deferred("unavailable", timedelta(0), "503"))

    (again,) = claim(ledger, id_)

    assert (again.tries, again.fence, again.order.attempt) == ({"unavailable": 1}, 2, 2)
    assert archive.find(id_).timeline[0].wait_s == 0


def test_a_waiting_delivery_is_not_due_before_its_time(ledger, archive):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)

    settle(ledger, claimed, Deferred("unavailable", timedelta(hours=1), "503"))

    assert archive.find(id_).state == "waiting"
    assert claim(ledger, id_) == []


def test_a_closed_gate_leaves_no_trace_and_burns_no_attempt(ledger, archive):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)

    settle(ledger, claimed, Deferred("breaker_open", SOON, "the breaker is open", burned=False))

    found = archive.find(id_)
    assert (found.state, found.attempts, found.timeline) == ("waiting", 0, ())


def test_rejected_is_a_dead_letter_with_its_reason(ledger, archive):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)

    settle(ledger, claimed, Rejected("invalid", "email: formato inválido"))

    found = archive.find(id_)
    assert (found.state, found.code, found.reason) == ("dead", "invalid", "email: formato inválido")


def test_uncertain_is_not_claimable(ledger, archive):
    (id_,) = opened(ledger, letter())
    (claimed,) = claim(ledger, id_)

    settle(ledger, claimed, Uncertain("answer_lost", "no answer"))

    assert archive.find(id_).state == "uncertain"
    assert claim(ledger, id_) == []


def test_a_fault_of_the_account_holds_it_and_all_that_comes_after(ledger, archive):
    first, second, mail = opened(ledger, lead(1), lead(2), letter())
    (claimed,) = claim(ledger, first)

    settle(ledger, claimed, Rejected("unauthorized", "the token was refused", held=True))

    assert [each.order.delivery_id for each in claim(ledger, second, mail)] == [mail]
    assert [archive.find(each).state for each in (first, second)] == ["held", "held"]
    assert archive.accounts()[0].held_reason == "the token was refused"


def _claim(ledger, id_):
    return claim(ledger, id_)


def _sweep(ledger, id_):
    ledger.sweep(idempotent=[], lease_retries=3)
    return []


@pytest.mark.parametrize("look", [_claim, _sweep])
def test_nothing_is_held_of_an_account_that_is_just_being_opened(ledger, archive, desk, database, sql, look):
    (id_,) = opened(ledger, lead())
    sql("UPDATE deliveries SET hinted_at = NULL")
    desk.pause("crm:default", reason="troca de senha")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            connection.execute(text("UPDATE accounts SET held_reason = NULL, held_code = NULL, held_at = NULL"))
            looking = pool.submit(look, ledger, id_)
            waits = not wait([looking], timeout=0.5).done
        claimed = looking.result(timeout=60)

    assert (waits, claimed, archive.find(id_).state) == (True, [], "ready")


def test_resume_frees_what_is_just_being_held(ledger, desk, database):
    (id_,) = opened(ledger, lead())
    desk.pause("crm:default", reason="troca de senha")

    with ThreadPoolExecutor(1) as pool:
        with database.begin() as connection:
            connection.execute(text("SELECT FROM accounts FOR SHARE"))
            connection.execute(text("UPDATE deliveries SET state = 'held', code = 'account_held'"))
            opening = pool.submit(desk.resume, "crm:default", reason="senha trocada")
            waits = not wait([opening], timeout=0.5).done
        freed = opening.result(timeout=60)

    assert (waits, [each.id for each in freed]) == (True, [id_])


def test_resume_frees_what_an_account_held(ledger, archive, desk):
    (id_,) = opened(ledger, lead())
    desk.pause("crm:default", reason="troca de senha")
    claim(ledger, id_)

    freed = desk.resume("crm:default", reason="senha trocada")

    assert [each.id for each in freed] == [id_]
    assert archive.find(id_).state == "ready"
    assert len(claim(ledger, id_)) == 1


def test_an_older_fence_changes_nothing(ledger, archive, sql):
    (id_,) = opened(ledger, lead())
    (old,) = claim(ledger, id_)
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second'")
    ledger.sweep(idempotent=["create_lead"], lease_retries=3)
    (current,) = claim(ledger, id_)

    late = settle(ledger, old, Rejected("invalid", "too late"))

    assert late == set()
    assert archive.find(id_).state == "attempting"
    assert settle(ledger, current, Succeeded(Receipt("LEAD-1"))) == {id_}


@pytest.mark.parametrize(("idempotent", "state"), [(["create_lead"], "waiting"), ([], "uncertain")])
def test_an_expired_lease_waits_again_or_is_uncertain(ledger, archive, sql, idempotent, state):
    (id_,) = opened(ledger, lead())
    claim(ledger, id_)
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second'")

    ledger.sweep(idempotent=idempotent, lease_retries=3)

    found = archive.find(id_)
    assert (found.state, found.code, found.timeline[0].code) == (state, "lease_lost", "lease_lost")


@pytest.mark.parametrize("idempotent", [["create_lead"], []])
def test_a_receipt_that_comes_after_the_lease_still_counts(ledger, archive, sql, idempotent):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second'")
    ledger.sweep(idempotent=idempotent, lease_retries=3)

    settle(ledger, claimed, Succeeded(Receipt("LEAD-1")))

    assert (archive.find(id_).state, archive.find(id_).receipt) == ("succeeded", "LEAD-1")


def test_a_delivery_that_keeps_losing_its_worker_is_dead(ledger, archive, sql):
    (id_,) = opened(ledger, lead())
    sql("UPDATE deliveries SET tries = '{\"lease_lost\": 3}'")
    claim(ledger, id_)
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second'")

    swept = ledger.sweep(idempotent=["create_lead"], lease_retries=3)

    found = archive.find(id_)
    assert swept.dead == 1
    assert (found.state, found.code) == ("dead", "poison")
    assert found.settled_at is not None


def test_what_never_had_an_attempt_expires(ledger, archive, sql):
    (id_,) = opened(ledger, lead())
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")

    swept = ledger.sweep(idempotent=[], lease_retries=3)

    assert swept.expired == 1
    assert archive.find(id_).state == "expired"
    assert claim(ledger, id_) == []


def test_what_ran_out_of_time_in_the_fallback_queue_is_dead(ledger, archive, sql):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)
    settle(ledger, claimed, Deferred("unavailable", SOON, "503", parked=True))
    sql("UPDATE deliveries SET expires_at = now() - interval '1 second'")

    ledger.sweep(idempotent=[], lease_retries=3)

    found = archive.find(id_)
    assert (found.state, found.code) == ("dead", "unavailable")
    assert found.reason == "its time ran out in the fallback queue; last: 503"


def test_a_lost_hint_is_found_once_it_is_stale(ledger, sql):
    (id_,) = opened(ledger, lead())

    at_once = due(ledger)
    sql("UPDATE deliveries SET hinted_at = now() - interval '11 seconds'")
    later = due(ledger)

    assert at_once == []
    assert later == [id_]
    assert due(ledger) == []


def test_a_short_wait_is_left_to_the_fast_clock_first(ledger, sql):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)
    settle(ledger, claimed, Deferred("unavailable", SOON, "503"))
    sql("UPDATE deliveries SET next_at = next_at - interval '5 seconds', hinted_at = hinted_at - interval '5 seconds'")

    just_due = due(ledger)
    sql("UPDATE deliveries SET hinted_at = hinted_at - interval '8 seconds'")

    assert just_due == []
    assert due(ledger) == [id_]


def test_what_upkeep_wakes_has_no_clock_of_its_own(ledger, sql):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)

    settle(ledger, claimed, Deferred("breaker_open", timedelta(0), "open", burned=False, paced=True))

    assert due(ledger) == [id_]


def parked(ledger, *commands):
    ids = opened(ledger, *commands)
    for claimed in claim(ledger, *ids):
        settle(ledger, claimed, Deferred("unavailable", timedelta(0), "503", parked=True))
    return ids


def test_what_is_due_is_taken_most_urgent_and_oldest_first_the_fallback_queue_included(ledger, sql):
    ids = parked(ledger, lead(1), lead(2), lead(3, priority="high"), lead(4, priority="low"))
    ids += opened(ledger, lead(5))
    sql("UPDATE deliveries SET hinted_at = NULL")
    sql("UPDATE deliveries SET next_at = now() - interval '1 minute' WHERE id = :id", id=ids[1])

    assert due(ledger, most=4) == [ids[2], ids[1], ids[0], ids[4]]


def test_takers_at_once_share_the_work(ledger):
    ids = parked(ledger, *(lead(n) for n in range(20)))

    with ThreadPoolExecutor(4) as pool:
        taken = [each for batch in pool.map(lambda _: due(ledger, most=5), range(4)) for each in batch]

    assert len(taken) == len(set(taken))
    assert sorted([*taken, *due(ledger)]) == sorted(ids)


def test_each_hint_is_for_the_moment_of_its_call_and_live_from_then_on(ledger, sql):
    parked(ledger, *(lead(n) for n in range(3)))
    stale, waits = timedelta(seconds=10), [timedelta(), timedelta(seconds=3)]
    (backlog,) = ledger.backlogs(stale=stale, most=10)

    hints = ledger.due(backlog, stale=stale, waits=waits)

    assert [each.wait for each in hints] == waits
    assert sql("SELECT extract(epoch from max(hinted_at) - min(hinted_at)) FROM deliveries") == [(3,)]
    assert ledger.backlogs(stale=stale, most=10) == [Backlog("crm:default", "create_lead", due=1, live=2)]


def test_a_long_backlog_of_one_account_takes_nothing_from_another(ledger, sql):
    opened(ledger, *(lead(n) for n in range(10)))
    opened(ledger, letter())
    sql("UPDATE deliveries SET hinted_at = NULL")

    found = ledger.backlogs(stale=timedelta(seconds=10), most=5)

    assert found == [
        Backlog("crm:default", "create_lead", due=5, live=0),
        Backlog("email:default", "send_email", due=1, live=0),
    ]


def test_nothing_of_a_held_account_is_taken_and_the_sweep_puts_it_aside(ledger, archive, desk, sql):
    (later,) = opened(ledger, lead(1, send_at=datetime.now(UTC) + timedelta(hours=1)))
    (id_,) = opened(ledger, lead(2))
    sql("UPDATE deliveries SET hinted_at = NULL")
    desk.pause("crm:default", reason="contract ended")

    taken = due(ledger)
    ledger.sweep(idempotent=[], lease_retries=3)

    found = archive.find(id_)
    assert taken == []
    assert (found.state, found.code, found.reason) == ("held", "account_held", "contract ended")
    assert archive.find(later).state == "waiting"
    assert sql("SELECT action FROM audit WHERE delivery_id = :id AND actor = 'sweep'", id=id_) == [("held",)]


def test_a_replay_starts_with_fresh_budgets_and_keeps_the_timeline(ledger, archive, letters, sql):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)
    settle(ledger, claimed, Rejected("invalid", "no"))

    replayed = letters.replay([id_], reason="corrigido no CRM")

    (again,) = claim(ledger, id_)
    assert replayed.ids == (id_,)
    assert (again.tries, again.parks, again.order.attempt) == ({}, 0, 2)
    assert len(archive.find(id_).timeline) == 2
    assert sql("SELECT actor, reason FROM audit WHERE action = 'replayed'") == [("ana", "corrigido no CRM")]


@pytest.mark.parametrize(
    ("options", "lifetime"),
    [
        ({}, timedelta(hours=24)),
        ({"send_at": timedelta(minutes=-5)}, timedelta(hours=24)),
        ({"expires_at": timedelta(hours=2)}, timedelta(hours=2)),
    ],
)
def test_every_replay_gets_the_whole_time_of_the_command_and_no_more(ledger, archive, letters, sql, options, lifetime):
    (id_,) = opened(ledger, lead(**{name: datetime.now(UTC) + shift for name, shift in options.items()}))
    for _ in range(3):
        sql("UPDATE deliveries SET created_at = created_at - interval '9 hours'")
        settle(ledger, claim(ledger, id_)[0], Rejected("invalid", "no"))
        letters.replay([id_], reason="again")

    found = archive.find(id_)

    assert lifetime - timedelta(minutes=1) < found.expires_at - found.next_at <= lifetime


def test_only_dead_and_held_deliveries_can_be_replayed(ledger, letters):
    (id_,) = opened(ledger, lead())

    assert letters.replay([id_], reason="impatience").ids == ()


def test_the_audit_adds_up(ledger, archive):
    ids = opened(ledger, *(lead(n) for n in range(4)))
    first, second, _ = claim(ledger, *ids[:3])
    settle(ledger, first, Succeeded(Receipt("LEAD-1")))
    settle(ledger, second, Rejected("invalid", "no"))

    verdict = archive.verify()

    assert verdict.accepted == 4
    assert (verdict.states["succeeded"], verdict.states["dead"], verdict.states["attempting"]) == (1, 1, 1)
    assert verdict.faults == {}


def test_the_audit_sees_a_delivery_that_vanished(ledger, archive, sql):
    opened(ledger, lead(1), lead(2))
    sql("DELETE FROM deliveries WHERE id = (SELECT min(id::text)::uuid FROM deliveries)")

    assert archive.verify().faults == {"vanished": 1}
