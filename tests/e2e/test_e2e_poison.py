"""Deliveries that kill their workers, and a worker that is told to end: two real worker processes."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import psutil

from ledger.order import QUARANTINE_AFTER

WORKERS = 2
DEADLINE_S = 5
# The call's deadline (5 s), the look-up before it, a settle, and a slow machine; Celery would cut it off at 30 s.
SHUTDOWN_WITHIN_S = 28


def in_hand(running, ids):
    """Return worker and lost leases of those of the deliveries that are being attempted under a lease that runs."""
    return running.sql(
        "SELECT d.id, a.worker, coalesce((d.tries ->> 'lease_lost')::int, 0) AS lost FROM deliveries d"
        " JOIN attempts a ON a.delivery_id = d.id AND a.fence = d.fence"
        " WHERE d.id = ANY(:ids) AND d.state = 'attempting' AND d.lease_until > now()", ids=list(ids),
    )  # fmt: skip


def kill_worker(running, name):
    pid = int(name.rpartition(":")[2])
    for part in (f"worker{n}" for n in range(1, WORKERS + 1)):
        if running.system.parts[part].running and running.system.parts[part].pid == pid:
            running.kill(part)


def strike_until_dead(running, poison):
    """Kill every worker that takes poison, as poison does; return leads handed over meanwhile, and what was seen.

    Returns:
        The leads, how many of them had arrived at each kill, and the suspects in hand together at each look.
    """
    others, arrived, together = [], [], []
    ticked, deadline = 0.0, time.monotonic() + 400
    while running.states(poison)["dead"] < len(poison):
        assert time.monotonic() < deadline, f"{running.states(poison)}{running.tail()}"
        taken = in_hand(running, poison)
        together.append(sum(each.lost >= QUARANTINE_AFTER for each in taken))
        for worker in {each.worker for each in taken}:
            arrived.append(running.states(others)["succeeded"])
            kill_worker(running, worker)
            others += [running.lead(f"inocente{len(others) + n}") for n in range(5)]
        running.system.watch()
        running.end_dead_leases()
        if time.monotonic() - ticked > 1:
            running.tick("sweep")
            ticked = time.monotonic()
        time.sleep(0.05)
    return others, arrived, together


def test_what_kills_its_worker_is_attempted_alone_and_then_dead_while_others_arrive(running):
    later = {"send_at": datetime.now(UTC) + timedelta(days=1)}
    poison = [running.lead(f"veneno{n}", options=later) for n in range(2)]
    for id_ in poison:
        running.control["crm"].plan({"hang_s": 30, "effect": False, "times": None, "match": str(id_)})
    running.sql("UPDATE deliveries SET next_at = now(), hinted_at = NULL WHERE id = ANY(:ids)", ids=poison)

    others, arrived, together = strike_until_dead(running, poison)
    running.control["crm"].clear_faults()
    running.until(others, "succeeded")

    found = [running.find(id_) for id_ in poison]
    assert {(each.state, each.code) for each in found} == {("dead", "poison")}
    assert [Counter(line.code for line in each.timeline)["lease_lost"] for each in found] == [QUARANTINE_AFTER + 1] * 2
    assert max(together) == 1
    assert arrived[-1] > 0, "no other delivery arrived while poison killed the workers"
    effects = running.effects("crm")
    assert [effects[str(id_)] for id_ in poison] == [0, 0]
    assert {effects[str(id_)] for id_ in others} == {1}


def test_a_worker_that_is_told_to_end_finishes_what_it_holds_in_time_and_loses_nothing(running):
    running.control["crm"].configure({"latency_s": 0.7})
    running.control["crm"].plan({"hang_s": 30, "effect": True, "times": 2, "match": "create_lead"})
    process, other = (psutil.Process(running.system.parts[f"worker{n}"].pid) for n in (1, 2))
    process.suspend()
    other.suspend()
    ids = [running.lead(f"fim{n}") for n in range(80)]
    process.resume()
    running.some(ids, "attempting", 8)
    other.resume()
    held = [each.id for each in in_hand(running, ids) if each.worker.endswith(f":{process.pid}")]

    process.terminate()
    began = time.monotonic()
    running.wait(lambda: not running.system.parts["worker1"].running, "the worker ended", SHUTDOWN_WITHIN_S)
    took, code = time.monotonic() - began, running.system.parts["worker1"].exit_code
    first_attempts = [running.find(id_).timeline[0] for id_ in held]
    running.until(ids, "succeeded")

    assert held, "the worker was told to end with nothing in its hands"
    assert (code, took < SHUTDOWN_WITHIN_S) == (0, True)
    assert {each.outcome for each in first_attempts} <= {"succeeded", "deferred"}
    assert [each.code for each in first_attempts if each.code == "lease_lost"] == []
    effects = running.effects("crm")
    assert {effects[str(id_)] for id_ in ids} == {1}
    assert running.app.archive.verify().faults == {}
