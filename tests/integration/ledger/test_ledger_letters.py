from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from config.policy import load_specs
from delivery.commands import SendWhatsApp
from delivery.errors import InvalidCommand
from delivery.inbound import Event
from delivery.intake import Intake
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Settlement
from ledger.letters import LetterFilter, LetterMoved, Letters, Signed
from ledger.replays import Replays, StopRule
from ledger.sealing import MasterKeys
from ledger.vault import Vault
from tests.integration.conftest import claim, due, lead, letter, new

ANY = LetterFilter()


class Voice:
    def __init__(self):
        self.sent = []

    def send(self, hints):
        self.sent += list(hints)
        return len(self.sent)

    def backlog(self):
        return 0


@pytest.fixture
def replays(database):
    return Replays(database)


@pytest.fixture
def intake(ledger):
    return Intake(ledger, Voice(), load_specs(), ("crm:default", "email:default"))


def settle(ledger, claimed, outcome):
    return ledger.settle([Settlement(each, outcome) for each in claimed])


def dead(ledger, *commands, code="invalid", **changes):
    ids = sorted(each.id for each in ledger.open([new(command, **changes) for command in commands]))
    settle(ledger, claim(ledger, *ids), Rejected(code, "the CRM said no"))
    return ids


def many(ledger, count, code="invalid"):
    return dead(ledger, *(lead(n) for n in range(count)), code=code)


def start(replays, wanted=ANY, *, pace=None, stop=StopRule(), most=1000):  # noqa: B008 - a frozen value
    return replays.start(wanted, Signed("ana", "mended"), pace=pace, stop=stop, most=most)


def audit(sql, id_):
    return [
        tuple(row) for row in sql("SELECT actor, action, reason FROM audit WHERE delivery_id = :id ORDER BY id", id=id_)
    ]


def edit(letters, intake, id_, *, reason="typo", **changes):
    old = letters.view(id_, reason=reason)
    body = {**old.stored["content"], **changes}
    body["options"] = {"key": letters.edit_key(id_, body)}
    closing = replace(intake, ledger=letters.resubmitting(id_, reason=reason))
    return closing.submit(old.kind, body, producer=old.producer)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (LetterFilter(), [0, 1, 2]),
        (LetterFilter(kind="send_email"), [2]),
        (LetterFilter(account="crm:default"), [0, 1]),
        (LetterFilter(code="forbidden"), [1]),
        (LetterFilter(producer="site"), [1]),
        (LetterFilter(older_than=timedelta(hours=1)), [0]),
        (LetterFilter(newer_than=timedelta(hours=1)), [1, 2]),
        (LetterFilter(kind="create_lead", code="forbidden", newer_than=timedelta(hours=1)), [1]),
    ],
)
def test_letters_are_found_by_each_filter(ledger, letters, replays, sql, wanted, found):
    ids = dead(ledger, lead(1)) + dead(ledger, lead(2), code="forbidden", producer="site") + dead(ledger, letter())
    sql("UPDATE deliveries SET settled_at = now() - interval '2 hours' WHERE id = :id", id=ids[0])

    listed = letters.search(wanted)

    assert [each.id for each in listed] == [ids[n] for n in reversed(found)]
    assert replays.count(wanted) == len(found)


def test_the_list_goes_on_behind_its_last_id(ledger, letters):
    ids = many(ledger, 5)

    first = letters.search(ANY, most=2)
    rest = letters.search(ANY, before=first[-1].id, most=10)

    assert [each.id for each in first + rest] == ids[::-1]


def test_held_deliveries_are_letters_and_others_are_not(ledger, letters):
    held, _ = (each.id for each in ledger.open([new(lead(1)), new(lead(2))]))
    settle(ledger, claim(ledger, held), Rejected("unauthorized", "401", held=True))

    assert [each.id for each in letters.search(ANY)] == [held]


def test_the_summary_counts_for_each_account_and_code(ledger, letters):
    many(ledger, 3)
    dead(ledger, letter(), code="undeliverable")

    piles = letters.summary(ANY)

    assert [(each.account, each.code, each.count) for each in piles] == [
        ("crm:default", "invalid", 3),
        ("email:default", "undeliverable", 1),
    ]


def test_a_payload_is_opened_and_the_look_is_on_record(ledger, letters, sql):
    (id_,) = dead(ledger, lead())

    seen = letters.view(id_, reason="what was in it?")

    assert seen.stored["content"]["email"] == "ana.teste1@exemplo.com.br"
    assert audit(sql, id_)[-1] == ("ana", "viewed", "what was in it?")
    assert [each.action for each in letters.history(id_)] == ["accepted", "viewed"]


def test_the_payload_of_an_erased_person_says_so(ledger, letters, sql):
    (id_,) = dead(ledger, lead())
    sql("DELETE FROM people")

    seen = letters.view(id_, reason="curious")

    assert (seen.stored, seen.closed) == (None, "the person was erased, and the payload with them")


def test_a_payload_without_its_master_key_says_so(ledger, sql):
    (id_,) = dead(ledger, lead())
    stranger = replace(ledger, vault=Vault(ledger.engine, MasterKeys([bytes([7]) * 32])))

    seen = Letters(stranger, actor="ana").view(id_, reason="curious")

    assert seen.stored is None
    assert "ENTREGA_MASTER_KEYS" in seen.closed


def test_two_operators_who_replay_the_same_letters_replay_each_once(ledger, letters, sql):
    ids = many(ledger, 20)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda order: letters.replay(order, reason="race").ids, [ids, ids[::-1], ids, ids[::-1]]))

    assert sorted(each for part in done for each in part) == sorted(ids)
    assert sql("SELECT count(*) FROM audit WHERE action = 'replayed'") == [(20,)]


def test_two_bulk_replays_of_one_filter_take_each_letter_once(ledger, replays, sql):
    ids = many(ledger, 20)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: start(replays)[1].ids, range(4)))

    assert sorted(each for part in done for each in part) == sorted(ids)
    assert sql("SELECT count(*) FROM audit WHERE action = 'replayed'") == [(20,)]


def test_doubts_of_a_repeatable_operation_survive_a_replay(ledger, letters):
    (opened,) = ledger.open([new()])
    settle(ledger, claim(ledger, opened.id), Deferred("answer_lost", timedelta(0), "no answer"))
    settle(ledger, claim(ledger, opened.id), Rejected("invalid", "no"))

    letters.replay([opened.id], reason="mended")

    (again,) = claim(ledger, opened.id)
    assert again.tries == {"answer_lost": 0}
    assert again.order.doubtful


def test_what_was_resent_unconfirmed_and_died_is_looked_up_before_a_replay_sends_it(ledger, letters, archive, sql):
    (opened,) = ledger.open([new(letter())])
    settle(ledger, claim(ledger, opened.id), Uncertain("answer_lost", "no answer"))
    sql("UPDATE deliveries SET state = 'dead', resent = 1, settled_at = now()")  # as when its time ran out

    replayed = letters.replay([opened.id], reason="mended")

    assert (replayed.ids, replayed.hints) == ((opened.id,), ())
    assert archive.find(opened.id).state == "uncertain"


def test_what_the_provider_reported_as_failed_is_sent_again(ledger, letters, archive, sql):
    (id_,) = dead(ledger, letter())
    sql("UPDATE deliveries SET uncertain_since = now(), progress = 'failed'")

    letters.replay([id_], reason="mended")

    assert archive.find(id_).state == "ready"


def test_a_replayed_delivery_that_no_lane_takes_gets_a_hint_of_its_own(ledger, letters):
    ids = dead(ledger, lead(1, order_key="conversation-1"), lead(2))

    replayed = letters.replay(ids, reason="mended")

    assert {each.id: each.alone for each in replayed.hints} == dict(zip(ids, (True, False), strict=True))


def test_a_paced_replay_spreads_its_deliveries_over_time(ledger, replays, sql):
    ids = many(ledger, 5)

    _, replayed = start(replays, pace=0.5)

    rows = sql("SELECT id, state, extract(epoch FROM next_at - now())::int AS wait FROM deliveries ORDER BY id")
    assert [row.id for row in rows] == ids
    assert [row.wait for row in rows] == [0, 2, 4, 6, 8]
    assert [row.state for row in rows] == ["ready", "waiting", "waiting", "waiting", "waiting"]
    assert [each.id for each in replayed.hints] == ids[:1]


def test_the_sweep_hints_a_paced_delivery_when_it_is_due(ledger, replays, sql):
    ids = many(ledger, 3)
    start(replays, pace=0.01)
    sql("UPDATE deliveries SET next_at = now() WHERE id = :id", id=ids[1])

    assert due(ledger) == ids[1:2]


def test_a_replay_takes_no_more_than_was_promised_and_the_oldest_first(ledger, replays):
    ids = many(ledger, 5)

    _, replayed = start(replays, most=2)

    assert sorted(replayed.ids) == ids[:2]
    assert replays.count(ANY) == 3


def test_a_replay_of_nothing_leaves_no_trace(replays):
    replay, replayed = start(replays)

    assert (replay, replayed.ids) == (None, ())
    assert replays.recent() == []


def finish(ledger, ids, outcome):
    settle(ledger, claim(ledger, *ids), outcome)


def test_a_replay_stops_when_too_many_die_again_and_the_rest_keeps_its_code(ledger, replays, archive, sql):
    ids = many(ledger, 15)
    replay, _ = start(replays)
    finish(ledger, ids[:7], Succeeded(Receipt("LEAD-1")))
    finish(ledger, ids[7:10], Rejected("forbidden", "still no"))

    (stopped,) = replays.watch()

    assert (stopped.id, stopped.reason) == (replay, "3 of 10 that ended were dead again")
    rest = [archive.find(each) for each in ids[10:]]
    assert {(each.state, each.code, each.reason) for each in rest} == {("dead", "invalid", "the CRM said no")}
    assert claim(ledger, *ids[10:]) == []
    (shown,) = replays.recent()
    assert (shown.succeeded, shown.dead_again, shown.open, shown.put_back) == (7, 3, 0, 5)
    assert [each[:2] for each in audit(sql, ids[14])][-1] == ("sweep", "put_back")
    assert archive.verify().faults == {}


@pytest.mark.parametrize(
    ("succeeded", "failed", "stop", "ends"),
    [
        (8, 2, StopRule(), False),  # 20 % is not more than 20 %
        (7, 3, StopRule(), True),
        (0, 9, StopRule(), False),  # fewer than ten ended
        (0, 2, StopRule(2, "errors"), False),
        (0, 3, StopRule(2, "errors"), True),
        (4, 6, StopRule(0.6), False),
    ],
)
def test_the_threshold_decides_when_a_replay_stops(ledger, replays, succeeded, failed, stop, ends):
    ids = many(ledger, 15)
    start(replays, stop=stop)
    finish(ledger, ids[:succeeded], Succeeded(Receipt("LEAD-1")))
    finish(ledger, ids[succeeded : succeeded + failed], Rejected("forbidden", "still no"))

    assert bool(replays.watch()) is ends


def test_a_delivery_under_way_at_the_stop_is_put_back_when_its_attempt_failed(ledger, replays, archive):
    ids = many(ledger, 12)
    start(replays, stop=StopRule(2, "errors"))
    under_way = claim(ledger, ids[0])
    finish(ledger, ids[1:4], Rejected("forbidden", "still no"))
    replays.watch()

    settle(ledger, under_way, Deferred("unavailable", timedelta(0), "503"))
    again = replays.watch()

    assert again == []
    assert archive.find(ids[0]).state == "dead"
    assert replays.recent()[0].put_back == 9


def test_a_paced_look_up_that_was_not_begun_is_put_back_as_well(ledger, replays, archive, sql):
    ids = dead(ledger, *(letter(n) for n in range(4)), code="unconfirmed")
    start(replays, pace=0.01, stop=StopRule(0, "errors"))
    sql("UPDATE deliveries SET state = 'dead' WHERE id = :id", id=ids[0])

    replays.watch()

    assert {archive.find(each).state for each in ids} == {"dead"}
    assert {archive.find(each).code for each in ids} == {"unconfirmed"}


def test_a_replay_that_is_through_is_done(ledger, replays):
    ids = many(ledger, 2)
    start(replays)
    finish(ledger, ids, Succeeded(Receipt("LEAD-1")))

    assert [each.reason for each in replays.watch()] == ["done"]
    assert replays.watch() == []


def test_two_sweeps_stop_a_replay_once(ledger, replays, sql):
    ids = many(ledger, 20)
    start(replays)
    finish(ledger, ids[:10], Rejected("forbidden", "still no"))

    with ThreadPoolExecutor(4) as pool:
        ended = [each for part in pool.map(lambda _: replays.watch(), range(4)) for each in part]

    assert len(ended) == 1
    assert sql("SELECT count(*) FROM audit WHERE action = 'put_back'") == [(10,)]


def test_a_letter_put_back_can_be_replayed_by_hand_and_stays(ledger, letters, replays, archive):
    ids = many(ledger, 12)
    start(replays, stop=StopRule(0, "errors"))
    finish(ledger, ids[:1], Rejected("forbidden", "still no"))
    replays.watch()

    letters.replay(ids[5:6], reason="just this one")
    replays.watch()

    assert archive.find(ids[5]).state == "ready"


def test_an_edited_letter_is_a_new_delivery_and_the_old_one_is_canceled(ledger, letters, intake, archive, sql):
    (id_,) = dead(ledger, lead())

    answer = edit(letters, intake, id_, nome="Ana Corrigida Teste")

    old, fresh = archive.find(id_), archive.search(states=("ready",))[0]
    assert (old.state, old.code) == ("canceled", "resubmitted")
    assert (str(fresh.id), fresh.replay_of, fresh.producer) == (answer.id, id_, "tests")
    assert audit(sql, id_)[-1] == ("ana", "resubmitted", "typo")
    assert audit(sql, fresh.id) == [("tests", "accepted", None), ("ana", "resubmission", "typo")]
    assert claim(ledger, fresh.id)[0].order.command.nome == "Ana Corrigida Teste"
    assert archive.verify().faults == {}


def test_an_edit_that_breaks_a_rule_writes_nothing(ledger, letters, intake, archive):
    (id_,) = dead(ledger, lead())

    with pytest.raises(InvalidCommand):
        edit(letters, intake, id_, email="errado")

    assert archive.find(id_).state == "dead"
    assert len(archive.search()) == 1


def test_a_letter_is_edited_once(ledger, letters, intake, archive):
    (id_,) = dead(ledger, lead())
    edit(letters, intake, id_, nome="Bia Teste")

    with pytest.raises(LetterMoved):
        edit(letters, intake, id_, nome="Bia Outra Teste")

    assert len(archive.search()) == 2


def test_of_two_operators_who_edit_one_letter_one_wins(ledger, letters, intake, archive):
    (id_,) = dead(ledger, lead())

    def try_to(n):
        try:
            return edit(letters, intake, id_, nome=f"Ana Teste {n}").id
        except LetterMoved:
            return None

    with ThreadPoolExecutor(4) as pool:
        won = [each for each in pool.map(try_to, range(4)) if each]

    assert len(won) == 1
    assert len(archive.search()) == 2


def test_a_discarded_letter_keeps_the_reason_and_cannot_be_replayed(ledger, letters, archive, sql):
    (id_,) = dead(ledger, lead())

    assert letters.discard([id_], reason="a test lead") == {id_}

    found = archive.find(id_)
    assert (found.state, found.code, found.reason) == ("canceled", "discarded", "a test lead")
    assert audit(sql, id_)[-1] == ("ana", "discarded", "a test lead")
    assert letters.replay([id_], reason="regret").ids == ()
    assert letters.discard([id_], reason="again") == set()


def test_only_letters_are_discarded(ledger, letters, archive):
    (opened,) = ledger.open([new(lead(send_at=datetime.now(UTC) + timedelta(hours=1)))])

    assert letters.discard([opened.id], reason="no") == set()
    assert archive.find(opened.id).state == "waiting"


def told_of_failure(inbound, id_, receipt):
    failed = Event(f"{receipt}:failed", "status", delivery_id=id_, status="failed", receipt=receipt)
    inbound.keep("whatsapp:default", [failed])
    inbound.absorb(most=10)


def test_a_second_send_after_a_failure_that_was_reported_later_is_no_fault_of_the_books(
    ledger, letters, inbound, archive
):
    (opened,) = ledger.open([new(SendWhatsApp(to="+5511999990001", text="Olá"))])
    for receipt in ("wamid.1", "wamid.2"):
        ledger.settle([Settlement(each, Succeeded(Receipt(receipt))) for each in claim(ledger, opened.id)])
        told_of_failure(inbound, opened.id, receipt)
        letters.replay([opened.id], reason="the number was wrong in the CRM")
    ledger.settle([Settlement(each, Succeeded(Receipt("wamid.3"))) for each in claim(ledger, opened.id)])

    assert [each.outcome for each in archive.find(opened.id).timeline] == ["succeeded"] * 3
    assert archive.verify().faults == {}


def test_a_second_send_without_such_a_report_is_a_fault(ledger, archive, sql):
    (opened,) = ledger.open([new(SendWhatsApp(to="+5511999990001", text="Olá"))])
    ledger.settle([Settlement(each, Succeeded(Receipt("wamid.1"))) for each in claim(ledger, opened.id)])
    sql(
        "INSERT INTO attempts (delivery_id, n, fence, worker, started_at, ended_at, outcome)"
        " SELECT delivery_id, 2, 2, worker, now(), now(), outcome FROM attempts"
    )

    assert archive.verify().faults == {"succeeded_twice": 1}
