"""Dead letters with the real command line, the real worker and providers that fail: whatever an operator does."""

import getpass
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

WHY = ("--reason", "mended")
ME = getpass.getuser()


def dead(running, count, name, status=403):
    running.control["crm"].plan({"status": status, "times": count, "match": "create_lead"})
    ids = [running.lead(f"{name}{n}") for n in range(count)]
    running.until(ids, "dead")
    return ids


def entrega(running, *commands):
    """Run several commands at once: each starts in a second or two, most of it alone."""
    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(lambda words: running.entrega(*words), commands))


def posts(running):
    return sum(running.requests().values())


def effects(running, ids):
    found = running.effects("crm", "smtp")
    return Counter(found[str(id_)] for id_ in ids)


@pytest.fixture(autouse=True)
def _the_books_add_up_and_no_letter_is_left_for_the_next(running):
    yield
    verdict = running.app.archive.verify()
    left = [each.id for each in running.app.archive.search(states=("dead", "held"), most=1000)]
    running.sql("DELETE FROM deliveries WHERE id = ANY(:ids)", ids=left)
    running.sql("DELETE FROM audit WHERE delivery_id = ANY(:ids)", ids=left)
    assert verdict.accepted == sum(verdict.states.values())
    assert not verdict.faults


def test_letters_are_listed_by_each_filter_and_counted(running):
    (refused,) = dead(running, 1, "filtro", 400)
    (forbidden,) = dead(running, 1, "proibido", 403)
    running.control["smtp"].plan({"phase": "rcpt", "action": "reply", "code": 550, "text": "5.1.1 no such user"})
    letter = running.letter(1)
    running.until(letter, "dead")
    running.sql("UPDATE deliveries SET producer = 'site' WHERE id = :id", id=forbidden)
    running.sql("UPDATE deliveries SET settled_at = now() - interval '2 hours' WHERE id = :id", id=refused)
    everything = ("--kind", "create_lead", "--account", "crm:default", "--code", "forbidden", "--producer", "site")
    asked = [(*everything, "--newer-than", "1h"), ("--kind", "send_email"), ("--older-than", "1h"), ("--summary",)]

    *found, piles = entrega(running, *(("dead-letters", "list", *each) for each in asked))

    assert [[each["id"] for each in one] for one in found] == [[str(forbidden)], [str(letter)], [str(refused)]]
    assert {(each["account"], each["code"], each["count"]) for each in piles} == {
        ("crm:default", "invalid", 1), ("crm:default", "forbidden", 1), ("email:default", "undeliverable", 1),
    }  # fmt: skip


def test_a_letter_is_shown_replayed_edited_and_discarded_and_each_is_on_record(running):
    replayed, edited, discarded = dead(running, 3, "mao", 400)

    shown = running.entrega("dead-letters", "show", replayed, "--reason", "the customer called")
    again, corrected, given_up = entrega(
        running,
        ("dead-letters", "replay", replayed, *WHY),
        ("dead-letters", "edit", edited, "interesse=produto_b", *WHY),
        ("dead-letters", "discard", discarded, *WHY),
    )
    second = corrected["receipt"]["id"]
    running.until(replayed, "succeeded")
    running.wait(lambda: running.find(second).state == "succeeded", "the edited lead arrived")
    refusals = entrega(running, *(("dead-letters", word, discarded, *WHY) for word in ("replay", "discard")))

    assert (shown["state"], shown["payload"]["interesse"]) == ("dead", "produto_a")
    assert "mao0.teste" not in str(shown)
    assert (again["replayed"], given_up["discarded"]) == ([str(replayed)], [str(discarded)])
    assert refusals == [4, 4]
    assert running.find(second).replay_of == edited
    assert [running.find(each).state for each in (edited, discarded)] == ["canceled", "canceled"]
    assert effects(running, [replayed, edited, discarded, second]) == Counter({1: 2, 0: 2})
    trails = [running.audit(each)[1:] for each in (replayed, edited, discarded)]
    assert trails == [
        [(ME, "viewed", "the customer called"), (ME, "replayed", "mended")],
        [(ME, "viewed", "mended"), (ME, "resubmitted", "mended")],
        [(ME, "discarded", "mended")],
    ]
    assert running.audit(second)[1:] == [(ME, "resubmission", "mended")]


def test_a_replay_of_what_may_exist_looks_first_and_makes_no_second(running):
    crm = running.control["crm"]
    crm.plan({"close": "after", "match": "create_lead"})
    crm.plan({"status": 403, "match": "create_lead"})
    crm.plan({"status": 503, "times": 2, "match": "find_lead"})
    id_ = running.lead("talvez")
    running.until(id_, "dead")
    crm.clear_faults()
    before = posts(running)

    shown = running.entrega("dead-letters", "replay", id_, *WHY)
    found = running.until(id_, "succeeded")

    assert shown["replayed"] == [str(id_)]
    assert [each.code for each in found.timeline] == ["answer_lost", "forbidden", "ok"]
    assert posts(running) == before
    assert effects(running, [id_]) == Counter({1: 1})


def test_a_bulk_replay_is_previewed_paced_and_stops_by_itself_while_the_provider_still_fails(running):
    ids = dead(running, 60, "muitas")
    which = ("--account", "crm:default", "--code", "forbidden")
    running.control["crm"].plan({"status": 403, "times": None, "match": "create_lead"})
    before = posts(running)

    preview = running.entrega("dead-letters", "replay", *which, *WHY)
    started = running.entrega("dead-letters", "replay", *which, "--pace", "2/s", "--yes", *WHY)
    due = [each.at for each in running.sql("SELECT next_at AS at FROM deliveries WHERE id = ANY(:ids)", ids=ids)]
    running.wait(lambda: running.sql("SELECT FROM replays WHERE stopped_at IS NOT NULL"), "the replay stops")
    running.until(ids, "dead")
    stopped = running.entrega("dead-letters", "replays")[0]
    calls = posts(running) - before
    (end,) = running.sql("SELECT max(at) AS at FROM audit WHERE action = 'put_back'")

    assert preview == {"matching": 60, "replayed": 0, "replay": None}
    assert started["replayed"] == 60
    assert 29 <= (max(due) - min(due)).total_seconds() <= 29.5
    assert stopped["id"] == started["replay"]
    assert "were dead again" in stopped["stop_reason"]
    assert 10 <= calls <= sum(each <= end.at for each in due)
    assert stopped["put_back"] == 60 - calls > 0
    assert Counter(action for each in ids for _, action, _ in running.audit(each)) == Counter(
        accepted=60, replayed=60, put_back=60 - calls
    )

    running.control["crm"].clear_faults()
    running.entrega("dead-letters", "replay", *which, "--pace", "20/s", "--yes", *WHY)
    running.until(ids, "succeeded")

    assert effects(running, ids) == Counter({1: 60})
