"""A rollout in the running system with two worker processes: its share goes, the rest waits unburned, failures end it.

Time is shifted in the ledger, by whose clock stages go; nothing here depends on how quick the machine is.
"""

import getpass
import itertools
from collections import Counter

import pytest

from delivery.rollout import place

WORKERS = 2
SHARE, HOLD_S = 0.4, 3000
ROLLBACK = {"error_ratio_above": 0.05, "p95_above_s": 100, "minimum_calls": 5}
ROLLOUT = {"shares": [SHARE, 1.0], "hold_s": HOLD_S, "rollback": ROLLBACK}
CRM = "crm:default"
names = itertools.count()


def test_the_share_goes_the_rest_waits_and_it_completes_by_itself(running):
    known = begin(running)
    ids = known + [running.lead(f"fase{next(names)}") for _ in range(50)]
    inside = [each for each in ids[len(known) :] if is_inside(each)]
    outside = [each for each in ids[len(known) :] if not is_inside(each)]

    running.until(inside, "succeeded")
    wait_held_back(running, outside)
    spent, sent = spent_on(running, outside), running.effects("crm")
    pass_time(running, HOLD_S)
    arrive(running, ids)
    (last,) = running.entrega("rollout", "list")
    pass_time(running, HOLD_S)
    running.tick("health")
    running.wait(lambda: running.entrega("rollout", "list") == [], "the rollout is over")

    assert spent == 0
    assert 0 < len(inside) < 40
    assert not any(sent[str(each)] for each in outside)
    assert (last["state"], last["share"], last["stage"]) == ("under_way", 1.0, 2)
    effects = running.effects("crm")
    assert {effects[str(each)] for each in ids} == {1}
    assert trail(running) == [
        (getpass.getuser(), "rollout_begun", "version 2"),
        ("health", "rollout_completed", "every stage is over"),
    ]


def test_failures_take_it_back_and_an_operators_word_lets_everything_go(running):
    running.sql("DELETE FROM audit WHERE account = :account", account=CRM)

    known = begin(running)
    running.control["crm"].plan({"status": 422, "times": None, "match": "create_lead"})
    failing = [running.lead(f"recusa{next(names)}") for _ in range(60)]
    running.wait(lambda: is_back(running) or running.states(failing)["dead"] >= 5, "enough of them fail")
    running.tick("health")
    running.wait(lambda: is_back(running), "it is taken back")
    held_back(running, "was taken back")
    running.control["crm"].clear_faults()
    before = running.effects("crm")
    late = [running.lead(f"espera{next(names)}") for _ in range(20)]
    wait_held_back(running, late)
    spent, sent = spent_on(running, late), running.effects("crm") - before
    findings = {row.code: row.severity for row in running.sql("SELECT code, severity FROM alerts")}
    told = running.metric("entrega_alerts_total", code="rollback", severity="P1", service="crm")
    finished = running.entrega("rollout", "finish", CRM, "--reason", "mended")
    arrive(running, known + late + failing)

    assert (spent, sent) == (0, Counter())
    assert running.states(late) == {"succeeded": len(late)}
    assert (findings["rollback"], told) == ("P1", 1)
    assert finished == {"account": CRM, "state": "over"}
    assert [row[:2] for row in trail(running)] == [
        (getpass.getuser(), "rollout_begun"),
        ("health", "rolled_back"),
        (getpass.getuser(), "rollout_finished"),
    ]
    assert "calls failed, over 0.05 of them, with 40% of the deliveries" in trail(running)[1][2]


@pytest.fixture(autouse=True)
def _nothing_left_over(running):
    yield
    running.entrega("rollout", "finish", CRM, "--reason", "the test is over")


def begin(running):
    """Begin a rollout and wait until every worker knows of it; return the leads that were handed over meanwhile."""
    (begun,) = running.entrega("rollout", "begin", CRM, "--reason", "version 2")
    assert (begun["state"], begun["share"], begun["stage"]) == ("under_way", SHARE, 1)
    return held_back(running, "lets 40% of its deliveries go")


def held_back(running, reason):
    """Hand over leads until every worker has held one back for this reason after this moment; return them."""
    logs = {name: len(running.log(name)) for name in ("worker1", "worker2")}
    probes = []

    def all_know():
        probes.append(running.lead(f"sonda{next(names)}"))
        return all(reason in running.log(name)[length:] for name, length in logs.items())

    running.wait(all_know, "every worker knows of the rollout")
    return probes


def wait_held_back(running, ids):
    """Wait until each was held back at least once; it is looked at again every minute."""
    statement = "SELECT count(*) FROM deliveries WHERE id = ANY(:ids) AND code = 'rollout'"
    running.wait(lambda: running.sql(statement, ids=ids) == [(len(ids),)], f"{len(ids)} are held back{running.tail()}")


def spent_on(running, ids):
    """Return how many attempts were spent on deliveries, those apart that are being looked at just now."""
    (row,) = running.sql(
        "SELECT sum(attempts - (state = 'attempting')::int) AS n FROM deliveries WHERE id = ANY(:ids)", ids=ids
    )
    return row.n


def is_back(running):
    return bool(running.sql("SELECT name FROM switches WHERE name = :name", name=f"rollback:{CRM}"))


def is_inside(id_):
    return place(id_, "e2e", None) < SHARE


def pass_time(running, seconds):
    """Let time pass for the rollout."""
    running.sql("UPDATE switches SET at = at - :s * interval '1 second' WHERE name LIKE 'rollout:%'", s=seconds)


def arrive(running, ids):
    """Wait until all have ended, without the minute that each of them waits for a look at the rollout."""

    def arrived():
        running.system.watch()
        running.sql(
            "UPDATE deliveries SET next_at = now() WHERE id = ANY(:ids) AND state = 'waiting' AND next_at > now()",
            ids=ids,
        )
        found = running.states(ids)
        return found["succeeded"] + found["dead"] == len(ids)

    running.wait(arrived, f"{len(ids)} leads have ended{running.tail()}")


def trail(running):
    rows = running.sql("SELECT actor, action, reason FROM audit WHERE account = :account ORDER BY id", account=CRM)
    return [tuple(each) for each in rows if each.action.startswith("roll")]
