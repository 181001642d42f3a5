"""Order within a key, cancel, times and the quarantine, on the real Postgres."""

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Lock

import pytest

from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Settlement
from ledger.canceling import NotCancelable, cancel
from ledger.order import next_in_order, next_suspect
from tests.integration.conftest import claim, due, lead, letter, new

NOW = timedelta(0)
SENT = Succeeded(Receipt("LEAD-1"))
DONE = [SENT, Rejected("invalid", "no"), Rejected("unauthorized", "no", held=True)]


def opened(ledger, *commands):
    return [ledger.open([new(command)])[0].id for command in commands]


def pair(ledger, key="chat-1"):
    return opened(ledger, lead(1, order_key=key), lead(2, order_key=key))


def settle(ledger, claimed, outcome):
    return ledger.settle([Settlement(claimed, outcome)])


def claimed_ids(ledger, *ids):
    return [each.order.delivery_id for each in claim(ledger, *ids)]


def audit(sql, action):
    return [row.delivery_id for row in sql("SELECT delivery_id FROM audit WHERE action = :a ORDER BY id", a=action)]


def hint(ledger, sql):
    sql("UPDATE deliveries SET hinted_at = now() - interval '1 minute'")
    return due(ledger)


# --- order --------------------------------------------------------------------------------------------------------


def test_one_key_is_delivered_one_after_the_other(ledger):
    first, second = pair(ledger)

    assert claimed_ids(ledger, second) == []
    assert claimed_ids(ledger, first, second) == [first]
    assert claimed_ids(ledger, second) == []


@pytest.mark.parametrize("outcome", DONE[:2])
def test_the_next_of_a_key_goes_once_the_one_before_has_ended(ledger, database, outcome):
    first, second = pair(ledger)
    settle(ledger, claim(ledger, first)[0], outcome)

    called = [each.id for each in next_in_order(database, [first])]

    assert called == [second]
    assert claimed_ids(ledger, second) == [second]


def test_a_held_delivery_blocks_nobody(ledger, sql):
    first, second = pair(ledger)
    sql("UPDATE deliveries SET state = 'held' WHERE id = :id", id=first)

    assert claimed_ids(ledger, second) == [second]


@pytest.mark.parametrize("other", [{"producer": "site"}, {"account": "crm:second"}])
def test_keys_of_two_producers_or_accounts_do_not_meet(ledger, other):
    ledger.open([new(lead(1, order_key="chat-1"))])
    second = ledger.open([new(lead(2, order_key="chat-1"), **other)])[0].id

    assert claimed_ids(ledger, second) == [second]


def test_the_order_key_is_stored_as_a_keyed_hash(ledger, sql):
    opened(ledger, lead(1, order_key="ana.teste@exemplo.com.br"), lead(2))

    stored = [row.order_key for row in sql("SELECT order_key FROM deliveries ORDER BY id")]

    assert len(bytes.fromhex(stored[0])) == 32
    assert stored[1] is None


def test_the_sweep_passes_over_what_is_blocked(ledger, sql):
    first, second = pair(ledger)

    assert hint(ledger, sql) == [first]
    claim(ledger, first)
    assert hint(ledger, sql) == []
    assert claimed_ids(ledger, second) == []


def test_a_long_key_hides_no_other_from_the_sweep(ledger, sql):
    (first,) = opened(ledger, lead(1, order_key="long"))
    sql(
        "INSERT INTO deliveries (id, kind, account, producer, state, priority, next_at, expires_at, hold_uncertain,"
        " person, recipient, order_key) SELECT gen_random_uuid(), kind, account, producer, state, 0, next_at,"
        " expires_at, 0, person, recipient, order_key FROM deliveries, generate_series(1, 2500)"
    )
    sql("UPDATE deliveries SET id = overlay(id::text placing 'ff' from 1 for 2)::uuid WHERE id <> :id", id=first)
    other, free = opened(ledger, lead(2, order_key="short"), lead(3))
    claim(ledger, first)

    found = [each for _ in range(60) for each in hint(ledger, sql)]

    assert set(found) == {other, free}


STUCK = [Uncertain("answer_lost", "no answer"), Deferred("unavailable", NOW, "503", parked=True)]


@pytest.mark.parametrize("outcome", STUCK)
def test_a_stuck_delivery_blocks_its_key_for_ten_minutes_and_is_then_overtaken(ledger, sql, outcome):
    first, second = pair(ledger)
    settle(ledger, claim(ledger, first)[0], outcome)
    sql("UPDATE deliveries SET stuck_since = stuck_since - interval '9 minutes 50 seconds' WHERE id = :id", id=first)
    before = claimed_ids(ledger, second)
    sql("UPDATE deliveries SET stuck_since = stuck_since - interval '11 seconds' WHERE id = :id", id=first)

    after = claimed_ids(ledger, second)

    assert (before, after) == ([], [second])
    assert audit(sql, "overtaken") == [first]


def test_the_fallback_queue_keeps_the_order_too(ledger, sql):
    first, second = pair(ledger)
    settle(ledger, claim(ledger, first)[0], STUCK[1])
    sql("UPDATE deliveries SET parks = 1, state = 'waiting', stuck_since = now() WHERE id = :id", id=second)

    assert due(ledger) == [first]
    assert due(ledger) == []


def test_what_is_attempted_is_never_overtaken_however_long_it_was_stuck(ledger, sql):
    first, second = pair(ledger)
    claim(ledger, first)
    sql("UPDATE deliveries SET stuck_since = now() - interval '1 hour' WHERE id = :id", id=first)

    assert claimed_ids(ledger, second) == []


@pytest.mark.parametrize("seed", range(3))
def test_parallel_claims_keep_the_order_of_every_key_whatever_the_outcomes(ledger, archive, sql, seed):
    """Four workers take any id at any time; a key's deliveries begin one at a time and in the order of acceptance."""
    count = 40
    ids = opened(ledger, *(lead(n, order_key=f"chat-{n % 4}") for n in range(count)))
    chat = {id_: n % 4 for n, id_ in enumerate(ids)}
    settled, ended, lock = defaultdict(list), set(), Lock()

    def work(worker):
        rng = random.Random(seed * 10 + worker)
        for _ in range(4000):
            if len(ended) == count:
                break
            for each in claim(ledger, *rng.sample(ids, 8)):
                id_ = each.order.delivery_id
                outcome = rng.choice([SENT, SENT, Rejected("invalid", "no"), Deferred("unavailable", NOW, "503")])
                with lock:
                    settled[chat[id_]].append((id_, type(outcome)))
                    ended.update([] if isinstance(outcome, Deferred) else [id_])
                settle(ledger, each, outcome)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    assert len(ended) == count
    for lane in settled.values():
        begun = [id_ for id_, _ in lane]
        assert begun == sorted(begun)
        assert [id_ for id_, kind in lane if kind is not Deferred] == sorted(set(begun))
    assert archive.verify().faults == {}


def test_random_work_on_overlapping_keys_never_deadlocks(ledger, database):
    ids = opened(ledger, *(lead(n, order_key=f"chat-{n % 2}") for n in range(20)))

    def work(n):
        taken = claim(ledger, *(ids if n % 2 else reversed(ids)))
        ledger.settle([Settlement(each, SENT) for each in taken])
        return len(taken) + 0 * len(next_in_order(database, ids))

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(work, range(200)))

    assert done == len(ids)


# --- times and priority -------------------------------------------------------------------------------------------


def test_a_command_for_next_year_waits_in_the_ledger_and_is_hinted_when_its_time_has_come(ledger, sql):
    (id_,) = opened(ledger, lead(send_at=datetime.now(UTC) + timedelta(days=360)))
    early = hint(ledger, sql)
    sql("UPDATE deliveries SET next_at = now() - interval '1 second'")

    assert early == []
    assert hint(ledger, sql) == [id_]
    assert claimed_ids(ledger, id_) == [id_]


def test_what_expired_a_moment_ago_is_neither_claimed_nor_hinted(ledger, sql):
    ids = opened(ledger, lead(1), lead(2))
    settle(ledger, claim(ledger, ids[1])[0], STUCK[1])
    sql("UPDATE deliveries SET expires_at = now()")

    assert claim(ledger, *ids) == []
    assert hint(ledger, sql) == []


def test_the_most_urgent_come_first_whatever_their_age(ledger, sql):
    low, normal, high = opened(ledger, lead(1, priority="low"), lead(2), lead(3, priority="high"))

    assert hint(ledger, sql) == [high, normal, low]


# --- cancel -------------------------------------------------------------------------------------------------------


def waiting(ledger, id_):
    settle(ledger, claim(ledger, id_)[0], Deferred("unavailable", NOW, "503"))


def held(ledger, id_):
    settle(ledger, claim(ledger, id_)[0], DONE[2])


@pytest.mark.parametrize("prepare", [lambda *_: None, waiting, held])
def test_a_canceled_delivery_is_never_sent(ledger, archive, database, sql, prepare):
    (id_,) = opened(ledger, lead())
    prepare(ledger, id_)

    cancel(database, id_, actor="ana", reason="engano")

    assert archive.find(id_).state == "canceled"
    assert claim(ledger, id_) == []
    assert sql("SELECT actor, reason FROM audit WHERE action = 'canceled'") == [("ana", "engano")]
    assert archive.verify().faults == {}


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (None, "being sent right now"),
        (SENT, "already carried out"),
        (DONE[1], "dead letter"),
        (STUCK[0], "being looked up"),
        (Deferred("server_error", NOW, "500"), "may have been carried out"),
    ],
)
def test_what_may_have_an_effect_is_not_canceled_and_the_answer_says_why(ledger, archive, database, outcome, why):
    (id_,) = opened(ledger, lead())
    (claimed,) = claim(ledger, id_)
    ledger.settle([Settlement(claimed, outcome)] if outcome else [])
    before = archive.find(id_)

    with pytest.raises(NotCancelable, match=why):
        cancel(database, id_, actor="ana", reason="engano")

    assert archive.find(id_) == before


def test_an_unknown_delivery_cannot_be_canceled(database):
    with pytest.raises(NotCancelable, match="there is no delivery"):
        cancel(database, new().id, actor="ana", reason="engano")


def test_cancel_against_claim_has_one_winner_in_200_rounds(ledger, archive, database):
    ids = opened(ledger, *(lead(n) for n in range(200)))
    gate = Barrier(2)

    def send():
        taken = []
        for id_ in ids:
            gate.wait(120)
            taken += claimed_ids(ledger, id_)
        return set(taken)

    def withdraw():
        canceled = set()
        for id_ in ids:
            gate.wait(120)
            try:
                cancel(database, id_, actor="ana", reason="engano")
                canceled.add(id_)
            except NotCancelable:
                pass
        return canceled

    with ThreadPoolExecutor(2) as pool:
        claims, cancels = pool.submit(send), pool.submit(withdraw)
        sent, canceled = claims.result(), cancels.result()

    assert not sent & canceled
    assert sent | canceled == set(ids)
    assert {archive.find(each).state for each in canceled} == ({"canceled"} if canceled else set())


def test_a_cancel_lets_the_next_of_its_key_go(ledger, database):
    first, second = pair(ledger)

    cancel(database, first, actor="ana", reason="engano")

    assert [each.id for each in next_in_order(database, [first])] == [second]


# --- quarantine ---------------------------------------------------------------------------------------------------


def lose(ledger, sql, *ids, times=3):
    for _ in range(times):
        for id_ in ids:
            claim(ledger, id_)
        sql("UPDATE deliveries SET lease_until = now() - interval '1 second' WHERE state = 'attempting'")
        sql("UPDATE quarantine SET until = now() - interval '1 second'")
        ledger.sweep(idempotent=["create_lead"], lease_retries=3)


def test_suspects_are_attempted_one_at_a_time_in_the_whole_cluster(ledger, database, sql):
    ids = opened(ledger, *(lead(n) for n in range(6)))
    innocent, *suspects = ids
    lose(ledger, sql, *suspects)

    with ThreadPoolExecutor(4) as pool:
        taken = [each for batch in pool.map(lambda _: claim(ledger, *ids), range(4)) for each in batch]

    names = [each.order.delivery_id for each in taken]
    assert innocent in names
    assert len(names) == 2
    assert claim(ledger, *ids) == []


def test_a_settled_suspect_makes_room_for_the_next(ledger, database, sql):
    ids = opened(ledger, lead(1), lead(2))
    lose(ledger, sql, *ids)
    (first,) = claim(ledger, *ids)
    settle(ledger, first, SENT)

    (called,) = next_suspect(database)

    assert claimed_ids(ledger, called.id) == [called.id]


def test_a_delivery_that_kills_its_worker_in_quarantine_is_dead_as_poison(ledger, archive, sql):
    (id_,) = opened(ledger, lead())
    lose(ledger, sql, id_, times=3)
    before = archive.find(id_).state

    lose(ledger, sql, id_, times=1)

    found = archive.find(id_)
    assert (before, found.state, found.code, found.attempts) == ("waiting", "dead", "poison", 4)
    assert claim(ledger, id_) == []


def test_a_letter_is_uncertain_at_its_first_lost_worker(ledger, archive, sql):
    (id_,) = opened(ledger, letter())

    lose(ledger, sql, id_, times=1)

    assert archive.find(id_).state == "uncertain"


def test_a_receipt_that_comes_after_the_death_still_counts(ledger, archive, sql):
    (id_,) = opened(ledger, lead())
    lose(ledger, sql, id_, times=3)
    (claimed,) = claim(ledger, id_)
    sql("UPDATE deliveries SET lease_until = now() - interval '1 second'")
    ledger.sweep(idempotent=["create_lead"], lease_retries=3)

    settle(ledger, claimed, SENT)

    assert archive.find(id_).state == "succeeded"
    assert archive.verify().faults == {}
