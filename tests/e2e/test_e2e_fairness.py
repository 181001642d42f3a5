"""While a bulk is being worked on, nobody who hands something over after it waits until it is done.

What is asserted is the order at the provider, because a slow machine is slow for all of it: only so many calls of a
bulk of thousands may come between the moment when a later command was accepted and its own call. The figure in seconds,
behind 100,000, is that of `make bench-fairness`.
"""

from uuid import UUID

from delivery.intake import Item
from sandbox.standins import sandbox_environment

BULK, SET = 10_000, 1_000
# Several times what is seen. Their hints overtake those that lead the bulk.
MOST_CALLS_BETWEEN = {"urgent": 400, "another account": 400, "another producer": 400}


def lead(name):
    return {"nome": f"{name.title()} Teste", "email": f"{name}.teste@exemplo.com.br", "interesse": "produto_a"}


def hand_over_bulk(running):
    """Hand over leads of one producer in sets, as `POST /v1/bulk` does."""
    items = [Item("create_lead", lead(f"lia{n}")) for n in range(BULK)]
    sets = [items[first : first + SET] for first in range(0, BULK, SET)]
    return [UUID(each.receipt().id) for some in sets for each in running.app.intake.submit_many(some, producer="bulk")]


def add_account(running, name):
    """Add an account of the same CRM, so that one list shows the order of all calls."""
    values = sandbox_environment(running.system.standins_or_fail)
    crm = {each: value for each, value in values.items() if each.startswith("CRM_")}
    running.app.accounts.put(name, crm, actor="e2e", reason="test")


def hand_over_one(running, name, producer, **options):
    """Hand over one lead; return its id and how many calls had come when it was accepted."""
    id_ = running.app.intake.submit("create_lead", lead(name) | {"options": options}, producer=producer).id
    return id_, len(running.control["crm"].effects())


def calls_between(running, id_, before):
    """Wait for a lead's call and return how many came since it was accepted."""

    def keys():
        return [each["key"] for each in running.control["crm"].effects(skip=before)]

    running.wait(lambda: id_ in keys(), f"{id_} arrived{running.tail()}")
    return keys().index(id_)


def test_behind_a_bulk_an_urgent_lead_another_account_and_another_producer_do_not_wait(running):
    add_account(running, "crm:outra")
    with running.stood_still():
        bulk = hand_over_bulk(running)
    running.some(bulk, "succeeded", at_least=200)

    urgent = hand_over_one(running, "urgente", "bulk", priority="high")
    elsewhere = hand_over_one(running, "outra", "bulk", account="crm:outra")
    somebody = hand_over_one(running, "alguem", "another")
    waited = {
        "urgent": calls_between(running, *urgent),
        "another account": calls_between(running, *elsewhere),
        "another producer": calls_between(running, *somebody),
    }

    assert {who: calls for who, calls in waited.items() if calls > MOST_CALLS_BETWEEN[who]} == {}
