"""No route passes over a query parameter that it does not know, or takes one value twice."""

import http.client
import json
import re
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from fastapi.routing import iter_route_contexts

from tests.integration.ingress.test_rest_submit import LEAD

# A probe or a scraper may add what it likes, and a provider to the address it was given.
FREE = {"/health/live", "/health/ready", "/metrics", "/openapi.json", "/webhooks/{service}/{account}"}


def routes(door):
    return [
        (method, re.sub(r"\{\w+\}", str(uuid4()), each.path))
        for each in iter_route_contexts(door.web.routes)
        for method in each.methods
        if each.path not in FREE
    ]


def wrong(answer):
    return answer.status_code, [(each["field"], each["issue"]) for each in answer.json()["error"]["details"]]


def test_every_route_refuses_a_parameter_that_it_does_not_know(door, archive):
    answers = {(method, path): wrong(door.ask(method, f"{path}?dry_runn=true")) for method, path in routes(door)}

    assert len(answers) > 15
    assert {*map(str, answers.values())} == {str((422, [("dry_runn", "parâmetro desconhecido")]))}
    assert archive.search() == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/leads?dry_run=true", "dry_run"),
        ("/v1/deliveries?to=ana.teste@exemplo.com.br", "to"),
        ("/v1/deliveries?State=dead", "State"),
        ("/v1/dead-letters?state=dead", "state"),
    ],
)
def test_a_parameter_that_would_change_the_meaning_is_refused_by_name(door, archive, path, field):
    answer = door.post(path, LEAD) if "leads" in path else door.get(path, headers={"Accept-Language": "en"})

    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == field
    assert archive.search() == []


def test_a_name_from_outside_is_not_echoed_as_it_is(door):
    answer = door.get("/v1/deliveries?%0A%1B%5B31m=1")

    assert answer.json()["error"]["details"][0]["field"] == "???31m"


def test_a_parameter_that_takes_one_value_is_not_taken_twice(door):
    assert wrong(door.get("/v1/deliveries?limit=1&limit=200")) == (422, [("limit", "só pode ser informado uma vez")])
    assert door.get("/v1/deliveries?state=dead&state=held").status_code == 200


@pytest.mark.parametrize("header", ["Idempotency-Key", "Authorization", "Content-Type"])
@pytest.mark.parametrize("path", ["/v1/leads", "/v1/simulate"])
def test_a_header_with_one_value_is_not_taken_twice(door, archive, path, header):
    parts = urlsplit(door.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    body = json.dumps(LEAD | ({"kind": "create_lead"} if "simulate" in path else {})).encode()
    connection.putrequest("POST", path)
    headers = [("Authorization", f"Bearer {door.key}"), ("Content-Type", "application/json"), ("Idempotency-Key", "k1")]
    for name, value in [*headers, *(each for each in headers if each[0] == header)]:
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()

    details = json.loads(answer.read())["error"]["details"]
    connection.close()
    assert (answer.status, [each["field"] for each in details]) == (422, [header.lower()])
    assert archive.search() == []
