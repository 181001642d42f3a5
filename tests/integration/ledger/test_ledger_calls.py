"""What was called lately, as the ledger tells it to a limiter that lost its memory."""

from datetime import timedelta

import pytest

from delivery.outcomes import Deferred, Receipt, Succeeded
from delivery.ports import Settlement
from ledger.calls import calls_lately
from tests.integration.conftest import claim, lead, letter, new

DAY = timedelta(days=1)
SENT = Succeeded(Receipt("LEAD-1"))
SHUT = Deferred("limited", timedelta(seconds=1), "the limit is used up", burned=False)
REFUSED = Deferred("rate_limited", timedelta(seconds=1), "too many calls")


def claimed(ledger, *commands):
    ids = [each.id for each in ledger.open([new(command) for command in commands])]
    return claim(ledger, *ids)


def names(calls):
    return {each.delivery for each in calls}


@pytest.mark.parametrize(("outcome", "counted"), [(SENT, 1), (REFUSED, 1), (SHUT, 0)])
def test_what_ended_counts_unless_a_closed_gate_stopped_it(ledger, database, outcome, counted):
    ledger.settle([Settlement(each, outcome) for each in claimed(ledger, lead())])

    found = calls_lately(database, "crm:default", span=DAY, most=10)

    assert [each.ended_us is None for each in found] == [False] * counted


def test_what_is_under_way_is_told_with_its_lease_and_is_never_cut_off(ledger, database):
    ledger.settle([Settlement(each, SENT) for each in claimed(ledger, *(lead(n) for n in range(5)))])
    flying = claimed(ledger, lead(7), lead(8), lead(9))

    found = calls_lately(database, "crm:default", span=DAY, most=2)

    assert names(found[:3]) == {str(each.order.delivery_id) for each in flying}
    assert all(29_000_000 < each.left_us <= 30_000_000 for each in found[:3])
    assert found[3].ended_us is not None


def test_only_this_account_and_only_the_span_are_told_newest_first(ledger, database, sql):
    ledger.settle([Settlement(each, SENT) for each in claimed(ledger, lead(1), lead(2), lead(3), letter())])
    sql("UPDATE attempts SET started_at = now() - interval '9 hours', ended_at = now() - interval '1 minute'")
    sql("""UPDATE attempts SET started_at = now() - interval '2 minutes', ended_at = now() - n.age * interval '1 minute'
           FROM (SELECT id, row_number() OVER (ORDER BY id) AS age FROM deliveries WHERE kind = 'create_lead') n
           WHERE n.id = delivery_id""")

    found = calls_lately(database, "crm:default", span=timedelta(seconds=150), most=10)

    assert [round(each.ended_us / 60_000_000) for each in found] == [1, 2]
