"""The limits of the forms in the running system: the provider never has to say no."""

LIMITS = {"crm": {"other": [{"calls": 50, "every_s": 10}]}}


def test_a_burst_of_leads_stays_within_the_crms_limit_and_arrives(running):
    running.works()  # a first call fetches a token as well
    before = running.requests()
    # A second less than ours: its window begins when the first call arrives, and a busy machine takes its time over it.
    running.control["crm"].configure({"rate_limit": {"limit": 50, "window_s": 9}})

    ids = [running.lead(f"rajada{n}") for n in range(70)]
    running.until(ids, "succeeded")

    assert running.requests() - before == {"201": 70}
    assert {running.find(id_).attempts for id_ in ids} == {1}
