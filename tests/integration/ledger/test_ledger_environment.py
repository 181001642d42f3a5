"""Deliveries remember the environment that accepted them; every way to a provider asks for it in the claim."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from delivery.outcomes import Rejected, Uncertain
from delivery.ports import Conclusion, Settlement
from ledger.approvals import Approvals, Approver
from ledger.callbacks import Callbacks
from ledger.doubts import PostgresDoubts
from ledger.fallbacks import Fallbacks
from ledger.letters import Signed
from ledger.operating import Desk
from ledger.order import next_in_order
from ledger.rehearsal import Rehearsal
from tests.integration.conftest import LEASES, claim, due, lead, letter, new

LATER = datetime.now(UTC) + timedelta(days=2)
LANE = ("crm:default", "create_lead")


@pytest.fixture
def elsewhere(ledger):
    """The same ledger, used by a system with stand-ins."""
    return replace(ledger, environment="standins")


@pytest.fixture
def state(archive):
    def look(id_):
        found = archive.find(id_)
        return found.state, found.code

    return look


def opened(ledger, command=None, **changes):
    return ledger.open([new(command, **changes)])[0].id


def settled(ledger, id_, outcome):
    (claimed,) = claim(ledger, id_)
    ledger.settle([Settlement(claimed, outcome)])


def test_a_delivery_is_claimed_in_its_own_environment(elsewhere):
    id_ = opened(elsewhere)

    assert [each.order.delivery_id for each in claim(elsewhere, id_)] == [id_]


def test_a_delivery_of_another_environment_is_held_with_both_names_and_no_attempt(ledger, elsewhere, archive):
    id_ = opened(elsewhere)

    claimed = claim(ledger, id_)

    found = archive.find(id_)
    assert claimed == []
    assert (found.state, found.code, found.attempts) == ("held", "other_environment", 0)
    assert found.reason == "accepted in standins, never sent from sandbox"
    assert archive.verify().faults == {}


def test_the_lane_holds_it_too_and_goes_on_with_its_own(ledger, elsewhere, state):
    left, own = opened(elsewhere), opened(ledger, lead(2))

    claimed = [
        each.order.delivery_id for _ in range(2) for each in ledger.claim_next(LANE, most=1, worker="w1", leases=LEASES)
    ]

    assert claimed == [own]
    assert state(left) == ("held", "other_environment")


def test_a_scheduled_one_is_held_when_it_is_due(ledger, elsewhere, state, sql):
    id_ = opened(elsewhere, lead(send_at=LATER))
    sql("UPDATE deliveries SET next_at = now()")

    claim(ledger, *due(ledger))

    assert state(id_) == ("held", "other_environment")


def test_one_whose_account_is_opened_again_is_held_again(ledger, elsewhere, state, database):
    id_ = opened(elsewhere)
    desk = Desk(database, actor="ana")
    desk.pause("crm:default", reason="test")
    claim(elsewhere, id_)

    desk.resume("crm:default", reason="test over")
    claimed = claim(ledger, id_)

    assert claimed == []
    assert state(id_) == ("held", "other_environment")


def test_a_replayed_one_is_held_again(ledger, elsewhere, letters, state):
    id_ = opened(elsewhere)
    settled(elsewhere, id_, Rejected("invalid", "wrong"))

    letters.replay([id_], reason="test")
    claimed = claim(ledger, id_)

    assert claimed == []
    assert state(id_) == ("held", "other_environment")


def test_an_approved_one_is_held(ledger, elsewhere, state):
    id_ = opened(elsewhere, held_code="needs_approval")

    Approvals(ledger).approve([id_], Approver(Signed("ana", "test")))
    claimed = claim(ledger, id_)

    assert claimed == []
    assert state(id_) == ("held", "other_environment")


def test_an_uncertain_one_is_looked_up_in_its_own_environment_alone(ledger, elsewhere):
    id_ = opened(elsewhere, letter())
    settled(elsewhere, id_, Uncertain("answer_lost", "no answer"))
    window = {"send_email": timedelta()}

    here = PostgresDoubts(ledger).take(pause=timedelta(), window=window, most=10)
    there = PostgresDoubts(elsewhere).take(pause=timedelta(), window=window, most=10)
    PostgresDoubts(elsewhere).conclude([Conclusion(there[0], "resend", "test")])

    assert here == []
    assert claim(ledger, id_) == []


def test_its_fallback_and_its_callbacks_belong_to_its_environment(ledger, elsewhere, sql):
    spare = {"kind": "send_email", "to": ["ana.teste@exemplo.com.br"], "subject": "Teste", "text": "Olá"}
    told = "https://loja.example/avisos"
    id_ = opened(elsewhere, lead(fallback=spare, callback_url=told))
    settled(elsewhere, id_, Rejected("invalid", "wrong"))

    second = Fallbacks(ledger).start(id_, new(letter(), producer="tests")).id
    Callbacks(ledger, timedelta(hours=1)).open_noted()

    found = dict(map(tuple, sql("SELECT id, environment FROM deliveries WHERE id <> :id", id=id_)))
    assert second in found
    assert len(found) >= 2
    assert set(found.values()) == {"standins"}
    assert claim(ledger, *found) == []


def test_an_edited_one_stays_in_its_environment(ledger, elsewhere, letters, sql):
    id_ = opened(elsewhere)
    settled(elsewhere, id_, Rejected("invalid", "wrong"))

    edited = letters.resubmitting(id_, reason="test").open([new(lead(2))])[0].id

    assert sql("SELECT environment FROM deliveries WHERE id = :id", id=edited)[0][0] == "standins"


def test_the_same_command_in_another_environment_is_a_delivery_of_its_own(ledger, elsewhere):
    keyed, same = lead(key="k-1"), lead(2)
    first = [opened(elsewhere, each) for each in (keyed, same)]

    foreseen = Rehearsal(ledger.engine, ledger.vault, environment=ledger.environment).open([new(keyed)])[0]
    second = [ledger.open([new(each)])[0] for each in (keyed, same)]
    again = [ledger.open([new(each)])[0] for each in (keyed, same)]

    assert foreseen.fresh
    assert [each.fresh for each in second] == [True, True]
    assert not {each.id for each in second} & set(first)
    assert [each.id for each in again] == [each.id for each in second]
    assert len(claim(ledger, *(each.id for each in second))) == 2


def test_it_does_not_block_the_order_key_of_another_environment(ledger, elsewhere):
    opened(elsewhere, lead(order_key="ana", send_at=LATER))
    own = opened(ledger, lead(2, order_key="ana"))

    assert [each.order.delivery_id for each in claim(ledger, own)] == [own]
    assert next_in_order(ledger.engine, [own]) == []


def test_it_is_counted_can_be_given_up_and_is_found_by_those_who_look(ledger, elsewhere, archive, letters):
    id_, own = opened(elsewhere), opened(ledger, lead(2))
    claim(ledger, id_)

    counted = archive.elsewhere("sandbox")
    given_up = letters.discard([id_], reason="a test lead")

    assert counted == {"standins": 1}
    assert given_up == {id_}
    assert archive.elsewhere("sandbox") == {}
    assert archive.elsewhere("standins") == {"sandbox": 1}
    assert archive.find(own).environment == "sandbox"
