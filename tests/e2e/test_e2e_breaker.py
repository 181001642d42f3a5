"""The breaker in the running system with four worker processes: a provider that fails is left alone by all of them."""

import getpass
import time

import psutil

WORKERS = 4
DEADLINE_S = 5
OPEN_S, TRIALS = 4, 3
BREAKER = {"open_s": OPEN_S}
WHERE = ("crm:default", "create_lead")


def test_a_failing_crm_is_left_alone_and_comes_back(running):
    running.control["crm"].plan({"status": 503, "times": None, "match": "create_lead"})
    began = time.monotonic()
    ids = [running.lead(f"disjuntor{n}") for n in range(30)]
    running.wait(lambda: breaker(running).state == "open", "the breaker opens")
    running.wait(lambda: running.states(ids).keys() <= {"ready", "waiting"}, "no call is under way")
    calls, rounds = posts(running), (time.monotonic() - began) / OPEN_S

    running.control["crm"].clear_faults()
    come_back(running, ids)

    assert calls < 60 + TRIALS * rounds, f"{calls} calls to a CRM that was down, for 30 leads"
    assert breaker(running).state == "closed"


def test_an_operators_word_holds_for_all_workers_until_it_is_taken_back(running):
    before = posts(running)
    (opened,) = running.entrega("breaker", "open", *WHERE, "--reason", "the CRM moves")
    ids = []
    for n in range(20):  # one after the other: each has a hint of its own, and is turned back by itself
        ids.append(running.lead(f"forca{n}"))
        running.until_alone(ids[-1], "waiting")
    while_open = posts(running) - before
    burned = {running.find(each).attempts for each in ids}

    running.control["crm"].plan({"status": 503, "times": None, "match": "create_lead"})
    (closed,) = running.entrega("breaker", "close", *WHERE, "--reason", "the failures are known")
    hurry(running, ids)
    running.wait(lambda: posts(running) - before >= 20, "all calls go")
    # A call is counted there when it comes, and here when its worker has read the answer.
    while_failing = running.wait(lambda: (found := breaker(running)).failures >= 10 and found, "ten failures are known")

    running.control["crm"].clear_faults()
    (itself,) = running.entrega("breaker", "auto", *WHERE)
    come_back(running, ids)

    assert (opened["state"], closed["state"], itself["override"]) == ("open", "closed", None)
    assert (while_open, burned) == (0, {0})
    assert while_failing.state == "closed"
    trail = running.sql("SELECT actor, action, account, reason FROM audit WHERE action LIKE 'breaker%' ORDER BY id")
    assert [tuple(each) for each in trail] == [
        (getpass.getuser(), "breaker open", "crm:default", "the CRM moves"),
        (getpass.getuser(), "breaker closed", "crm:default", "the failures are known"),
        (getpass.getuser(), "breaker auto", "crm:default", None),
    ]


def test_trials_whose_workers_were_killed_do_not_block_it_for_ever(running):
    running.control["crm"].plan({"status": 503, "times": None, "match": "create_lead"})
    ids = [running.lead(f"ensaio{n}") for n in range(12)]
    running.wait(lambda: breaker(running).state == "open", "the breaker opens")
    running.control["crm"].clear_faults()  # from now on every trial hangs: one that fails would end the others
    running.control["crm"].plan({"hang_s": 30, "effect": False, "times": None, "match": "create_lead"})

    running.wait(lambda: hurry(running, ids) or breaker(running).trials_out == 3, "three trials are under way")
    names = [f"worker{n}" for n in range(1, WORKERS + 1)]
    for name in names:  # stopped at once: a kill takes a moment, and none may report meanwhile
        psutil.Process(running.system.parts[name].pid).suspend()
    forgotten = breaker(running)
    for name in names:
        running.kill(name)
    running.control["crm"].clear_faults()
    come_back(running, ids)

    assert (forgotten.state, forgotten.trials_out) == ("half-open", 3)
    assert breaker(running).state == "closed"
    effects = running.effects("crm")
    assert {effects[str(id_)] for id_ in ids} == {1}


def breaker(running):
    (found,) = [each for each in running.breakers() if each.operation == "create_lead"]
    return found


def posts(running):
    return sum(running.requests().values())


def hurry(running, ids):
    """Let the waits of waiting deliveries pass, and the time for which a hint counts as under way."""
    hurried = running.sql(
        "UPDATE deliveries SET next_at = now(), hinted_at = NULL, parks = 0 WHERE id = ANY(:ids) AND ("
        "state = 'waiting' AND next_at > now() OR state = 'ready' AND hinted_at IS NOT NULL) RETURNING id", ids=ids,
    )  # fmt: skip
    if hurried:
        running.tick("sweep")


def come_back(running, ids):
    """Wait until all have arrived, without the waits that a burst of failures earned them."""

    def arrived():
        running.system.watch()
        running.end_dead_leases()
        hurry(running, ids)
        return running.states(ids)["succeeded"] == len(ids)

    running.wait(arrived, f"{len(ids)} leads arrived")
