"""The limits of the forms in the running system: the provider never has to say no."""

LIMITS = {"crm": {"other": [{"calls": 50, "every_s": 10}]}}


def test_a_burst_of_leads_stays_within_the_crms_limit_and_arrives(running):
    running.control["crm"].configure({"rate_limit": {"limit": 50, "window_s": 10}})

    ids = [running.lead(f"rajada{n}") for n in range(70)]
    running.until(ids, "succeeded")

    answers = running.control["crm"].counters()["POST /api/v1/leads"]
    assert answers == {"201": 70}
    assert {running.find(id_).attempts for id_ in ids} == {1}
