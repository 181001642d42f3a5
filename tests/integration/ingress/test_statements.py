"""Statements of the security check list that are about the doors as a whole; the number is the statement's."""

import json

import pytest
import requests
from sqlalchemy import text

from config.api_key_text import is_whole_api_key
from config.settings import Settings
from delivery.producers import ProducerPolicy
from ledger.producers import Producers
from tests.integration.ingress.test_mcp_door import ACCEPT, CALL
from tests.integration.ingress.test_rest_submit import LEAD

FOREIGN = ("state", "producer", "tenant", "attempts", "fence", "lease_until", "id", "progress", "receipt")


def everything(database):
    """Return the whole database as one text."""
    with database.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [connection.scalars(text(f"SELECT row_to_json(t)::text FROM {each} t")).all() for each in tables]  # noqa: S608 - names of our own
    return "\n".join(row for table in rows for row in table)


def test_statement_34_a_key_is_long_scoped_and_kept_as_a_hash_alone(door):
    shop = door.with_key("loja", "submit:create_lead")
    random = shop.key.removeprefix("entrega_")[:32]

    assert is_whole_api_key(shop.key)
    assert len(set(random)) > 8
    assert len(random) * 5 >= 128  # bits, in base32
    assert random not in everything(door.app.database)
    assert (shop.post("/v1/leads", LEAD).status_code, shop.get("/v1/deliveries").status_code) == (202, 403)


def test_statement_34_a_key_that_expired_or_was_revoked_opens_nothing(door, sql):
    keys = [door.with_key(name, "read") for name in ("vencida", "revogada", "boa")]
    sql("UPDATE api_keys SET expires_at = now() - interval '1 second' WHERE producer = 'vencida'")
    sql("UPDATE api_keys SET revoked_at = now() WHERE producer = 'revogada'")

    assert [each.get("/v1/deliveries").status_code for each in keys] == [401, 401, 200]


@pytest.mark.parametrize("field", FOREIGN)
def test_statement_36_what_is_ours_cannot_be_set_from_outside(door, archive, field):
    body = {**LEAD, field: "succeeded"}
    call = {**CALL, "params": {**CALL["params"], "arguments": body}}

    single = door.post("/v1/leads", body)
    options = door.post("/v1/leads", {**LEAD, "options": {field: "succeeded"}})
    many = door.post("/v1/bulk", {"items": [{"kind": "create_lead", **body}]})
    agent = door.ask("POST", "/mcp", data=json.dumps(call), headers=ACCEPT)

    assert (single.status_code, options.status_code) == (422, 422)
    assert many.json()["accepted"] == 0
    assert agent.json()["result"]["isError"] is True
    assert archive.search() == []


def test_statement_37_a_producer_in_a_loop_is_stopped(door):
    shop = door.with_key("loja", "submit")

    answers = [shop.post("/v1/leads", {**LEAD, "options": {"key": f"k{n}"}}) for n in range(25)]

    assert {each.status_code for each in answers[:20]} == {202}
    assert (answers[-1].status_code, answers[-1].json()["error"]["code"]) == (403, "producer_frozen")


def test_statement_37_a_producer_has_a_cap_for_each_day(door):
    shop = door.with_key("loja", "submit")
    Producers(door.app.database, actor="ana").set("loja", ProducerPolicy(per_day=2), reason="a cap")

    answers = [shop.post("/v1/leads", {**LEAD, "email": f"ana{n}@exemplo.com.br"}) for n in range(3)]

    assert [each.status_code for each in answers] == [202, 202, 429]
    assert "retry-after" in answers[2].headers


REBOUND = {"Host": "rebound.example", "Origin": "http://rebound.example"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Host": "rebound.example"}, 401), ({"Origin": "http://localhost"}, 403), (REBOUND, 403)],
)
def test_statement_43_agents_need_a_key_and_no_browser_may_come(door, headers, status):
    answer = requests.post(f"{door.url}/mcp", data=json.dumps(CALL), headers=ACCEPT | headers, timeout=60)

    assert answer.status_code == status


def test_statement_43_the_doors_open_on_this_machine_alone_unless_told_otherwise():
    assert Settings.model_fields["entrega_host"].default == "127.0.0.1"


def test_statement_51_an_error_that_nobody_foresaw_tells_nothing_but_an_id(door, monkeypatch):
    def broken(*_arguments, **_more):
        raise RuntimeError("SELECT * FROM people WHERE password = 'segredo' -- db.internal:5432")

    monkeypatch.setattr(type(door.app.archive), "search", broken)

    answer = door.get("/v1/deliveries", headers={"Accept-Language": "en"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"]
    assert not any(word in answer.text for word in ("SELECT", "segredo", "internal:", "Traceback", "RuntimeError"))


@pytest.mark.parametrize("path", ["/v1/deliveries", "/health/ready", "/metrics", "/webhooks/whatsapp/x"])
def test_statement_51_an_absent_ledger_is_told_without_its_address(doors, stranger, path):
    def away(app):
        app.__dict__ |= {"database": stranger.engine, "ledger": stranger}

    door = doors(book=stranger, change=away)
    headers = {"Authorization": f"Bearer {door.key}"} if path == "/v1/deliveries" else {}

    answer = requests.get(door.url + path, headers=headers, timeout=60)

    assert not any(word in answer.text for word in ("127.0.0.1", "postgres", "nobody", "psycopg", "Traceback"))
