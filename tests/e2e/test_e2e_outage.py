"""An outage during load: the CRM answers 503 for a while, and all of it arrives afterwards without anybody's help.

Twenty seconds by default; `ENTREGA_OUTAGE_S=60` (`make outage`) is the minute that the guarantees speak of.
"""

import os
import time
from bisect import bisect_left

LIMIT = 20
LIMITS = {"crm": {"per_second": LIMIT}}
OUTAGE_S = float(os.environ.get("ENTREGA_OUTAGE_S", "20"))
BEFORE_S, AFTER_S, LOAD = 4, 4, 12


def test_an_outage_during_load_drains_by_itself_within_the_limit(running, record_property):
    crm = running.control["crm"]
    ids = load(running, BEFORE_S, "antes")
    crm.plan({"status": 503, "times": None, "match": "create_lead"})
    began = time.monotonic()
    ids += load(running, OUTAGE_S, "durante")
    assert state(running) == "open"
    crm.clear_faults()
    over = time.monotonic()
    ids += load(running, AFTER_S, "depois")

    running.until(ids, "succeeded", patience_s=240)

    drained_s = time.monotonic() - over
    arrivals = sorted(crm.arrivals()["POST /api/v1/leads"])
    during = sum(began <= each <= over for each in arrivals)
    refused = running.requests()["503"]
    figures = {
        "deliveries": len(ids), "outage_s": round(over - began, 1), "calls_during_outage": during, "refused": refused,
        "calls": len(arrivals), "most_in_a_second": most_in_a_second(arrivals), "drained_s": round(drained_s, 1),
        "claims": claims(running, ids),
    }  # fmt: skip
    record_property("figures", figures)
    print(figures)  # noqa: T201 - shown by `make outage`
    assert running.effects("crm") == {str(each): 1 for each in ids}
    assert figures["most_in_a_second"] <= LIMIT
    assert refused <= 4 * BEFORE_S * LOAD
    assert state(running) == "closed"
    assert running.log("worker1").count("breaker_changed") >= 3


def load(running, seconds, name):
    """Hand leads over evenly for a while."""
    ids, began = [], time.monotonic()
    for n in range(int(seconds * LOAD)):
        ids.append(running.lead(f"{name}{n}"))
        time.sleep(max(0, began + (n + 1) / LOAD - time.monotonic()))
    return ids


def claims(running, ids):
    """Return how often the deliveries were claimed, turned back or not."""
    return running.sql("SELECT sum(fence)::int FROM deliveries WHERE id = ANY(:ids)", ids=ids)[0][0]


def most_in_a_second(times):
    return max(bisect_left(times, first + 1) - n for n, first in enumerate(times))


def state(running):
    (found,) = [each for each in running.breakers() if each.operation == "create_lead"]
    return found.state
