"""The breaker in the running system: a provider that fails is left alone, and found again when it recovers."""


def test_a_failing_crm_is_left_alone_and_comes_back(running):
    running.control["crm"].plan({"status": 503, "times": None, "match": "create_lead"})
    ids = [running.lead(f"disjuntor{n}") for n in range(30)]
    running.wait(lambda: state(running) == "open", "the breaker opens")
    calls = posts(running)
    running.some(ids, "waiting", 30)

    running.control["crm"].clear_faults()
    running.until(ids, "succeeded")

    assert calls < 60, f"{calls} calls to a CRM that was down, for 30 leads"
    assert state(running) == "closed"


def state(running):
    (found,) = [each for each in running.breakers() if each.operation == "create_lead"]
    return found.state


def posts(running):
    return sum(running.control["crm"].counters().get("POST /api/v1/leads", {}).values())
