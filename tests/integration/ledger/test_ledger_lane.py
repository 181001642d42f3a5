"""What a lane takes: ready deliveries of one account and kind, most urgent and oldest first, and nothing beside."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from ledger.backlogs import first_ready
from tests.integration.conftest import lead, letter, new

LEASES = {"create_lead": timedelta(seconds=45), "send_email": timedelta(seconds=45)}


def opened(ledger, *commands):
    return [each.id for each in ledger.open([new(command) for command in commands])]


def take(ledger, most=10, account="crm:default", kind="create_lead", first=()):
    claimed = ledger.claim_next((account, kind), most=most, first=first, worker="w", leases=LEASES)
    return [each.order.delivery_id for each in claimed]


def test_the_most_urgent_and_oldest_come_first(ledger, sql):
    late, early, urgent = opened(ledger, lead(1), lead(2), lead(3, priority="high"))
    sql("UPDATE deliveries SET next_at = now() - interval '1 minute' WHERE id = :id", id=early)

    assert set(take(ledger, most=2)) == {early, urgent}
    assert take(ledger) == [late]


def test_what_is_handed_over_comes_along_once_whatever_waits_before_it(ledger):
    oldest, *_, handed = opened(ledger, *(lead(n) for n in range(5)))

    assert set(take(ledger, most=1, first=[handed])) == {oldest, handed}
    assert take(ledger, most=0, first=[handed, oldest]) == []


def test_what_is_handed_over_and_first_in_line_is_taken_once(ledger):
    handed, other = opened(ledger, lead(1), lead(2))

    assert sorted(take(ledger, most=2, first=[handed])) == sorted([handed, other])


def test_what_was_taken_has_its_attempt_on_the_record(ledger, archive):
    (id_,) = opened(ledger, lead())

    take(ledger)

    found = archive.find(id_)
    assert (found.state, found.attempts, found.timeline[0].worker) == ("attempting", 1, "w")


def test_other_kinds_and_accounts_are_left_alone(ledger):
    opened(ledger, letter())

    assert take(ledger) == []
    assert take(ledger, account="email:default") == []


def test_what_has_an_order_key_waits_for_its_own_hint(ledger):
    opened(ledger, lead(1, order_key="ana"), lead(2, order_key="ana"))

    assert take(ledger) == []
    assert first_ready(ledger.engine, "crm:default", "create_lead") == []


def test_what_may_be_what_kills_workers_waits_for_its_own_hint(ledger, sql):
    opened(ledger, lead())
    sql("""UPDATE deliveries SET tries = '{"lease_lost": 3}'""")

    assert take(ledger) == []


def test_what_waits_for_its_time_is_not_taken(ledger, sql):
    opened(ledger, lead(1), lead(2))
    sql("UPDATE deliveries SET next_at = now() + interval '1 minute'")

    assert take(ledger) == []


def test_while_everything_is_paused_a_lane_takes_nothing_and_none_begins(ledger, desk):
    (id_,) = opened(ledger, lead())

    desk.pause_all(reason="test")
    paused = take(ledger), first_ready(ledger.engine, "crm:default", "create_lead")
    desk.resume_all(reason="test")

    assert paused == ([], [])
    assert take(ledger) == [id_]


def test_a_held_account_holds_what_the_lane_would_take(ledger, sql, archive):
    (id_,) = opened(ledger, lead())
    sql("INSERT INTO accounts (name, held_reason, held_at) VALUES ('crm:default', 'paused', now())")

    assert take(ledger) == []
    assert archive.find(id_).state == "held"


def test_two_lanes_never_take_the_same(ledger):
    ids = opened(ledger, *(lead(n) for n in range(60)))

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(lambda _: take(ledger, most=10), range(6)))

    flat = [id_ for each in taken for id_ in each]
    assert len(flat) == len(set(flat))
    assert set(flat) | set(take(ledger, most=60)) == set(ids)


def test_the_next_turn_begins_with_what_is_first(ledger):
    first, _ = opened(ledger, lead(1), lead(2))

    (hint,) = first_ready(ledger.engine, "crm:default", "create_lead")

    assert (hint.id, hint.priority) == (first, "high")
