"""An outage during load: the CRM answers 503 for a while, and all of it arrives afterwards without anybody's help.

Twenty seconds by default; `ENTREGA_OUTAGE_S=60` (`make outage`) is the minute that the guarantees speak of.
"""

import os
import time
from bisect import bisect_left

from delivery.lane import Lanes
from tasks.app import WORKER_THREADS

LIMIT = 20
LIMITS = {"crm": {"per_second": LIMIT}}
OUTAGE_S = float(os.environ.get("ENTREGA_OUTAGE_S", "20"))
BEFORE_S, AFTER_S, LOAD = 4, 4, 12
# Calls that the worker may have let go and that have not arrived: its threads, and those of the lane of leads.
IN_FLIGHT = WORKER_THREADS + Lanes.at_once


def test_an_outage_during_load_drains_by_itself_within_the_limit(running, record_property):
    crm = running.control["crm"]
    ids = load(running, BEFORE_S, "antes")
    crm.plan({"status": 503, "times": None, "match": "create_lead"})
    began = time.time()
    ids += load(running, OUTAGE_S, "durante")
    running.wait(lambda: state(running) != "closed", "the breaker keeps calls away")
    crm.clear_faults()
    over = time.time()
    ids += load(running, AFTER_S, "depois")

    running.until(ids, "succeeded", patience_s=240)

    drained_s = time.time() - over
    arrivals = crm.arrivals()
    during = sum(began <= each <= over for each in arrivals)
    refused = running.requests()["503"]
    figures = {
        "deliveries": len(ids), "outage_s": round(over - began, 1), "calls_during_outage": during, "refused": refused,
        "calls": len(arrivals), "most_in_a_second": most_within(1, arrivals), "most_in_10_s": most_within(10, arrivals),
        "drained_s": round(drained_s, 1), "claims": claims(running, ids),
    }  # fmt: skip
    record_property("figures", figures)
    print(figures)  # noqa: T201 - shown by `make outage`
    assert running.effects("crm") == {str(each): 1 for each in ids}
    # Let go within the limit; how evenly they travel from there is the machine's business.
    assert figures["most_in_a_second"] <= LIMIT + IN_FLIGHT
    assert figures["most_in_10_s"] <= 10 * LIMIT + IN_FLIGHT
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


def most_within(seconds, times):
    return max(bisect_left(times, first + seconds) - n for n, first in enumerate(times))


def state(running):
    (found,) = [each for each in running.breakers() if each.operation == "create_lead"]
    return found.state
