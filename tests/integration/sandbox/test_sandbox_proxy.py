"""The fault proxy hurts connections in exactly the way it was told, and heals."""

import pytest
import requests

from sandbox.crm import CrmApi
from sandbox.http_standin import HttpStandin
from sandbox.proxy import Hurt, Proxy

LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
FAULTS = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@pytest.fixture
def crm():
    standin = HttpStandin(CrmApi())
    standin.start()
    yield standin
    standin.stop()


@pytest.fixture
def proxy(crm):
    found = Proxy(crm.port).start()
    yield found
    found.stop()


def post(proxy, key):
    return requests.post(
        f"{proxy.url}/api/v1/leads",
        json=LEAD | {"external_id": key}, headers={"X-API-Key": "sandbox-crm-key"}, timeout=2,
    )  # fmt: skip


def test_without_a_hurt_it_forwards_faithfully(proxy, crm):
    assert post(proxy, "d-1").status_code == 201
    assert len(crm.effects()) == 1


@pytest.mark.parametrize(
    ("hurt", "effects"),
    [
        (Hurt("reset"), 0),
        (Hurt("black_hole"), 0),
        (Hurt("half_open"), 0),
        (Hurt("lose_answer"), 1),
        (Hurt("cut", size=200), 1),
        (Hurt("slow_bytes", seconds=5), 1),
        (Hurt("latency", seconds=6), 0),
    ],
)
def test_each_hurt_loses_the_answer_and_healing_ends_it(proxy, crm, hurt, effects):
    proxy.hurt(hurt)

    with pytest.raises(FAULTS):
        post(proxy, "d-1").json()
    made = len(crm.effects())
    proxy.heal()

    assert made == effects
    assert proxy.struck[hurt.kind]
    assert post(proxy, "d-2").status_code == 201


def test_an_unknown_hurt_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'rain'"):
        Hurt("rain")


@pytest.mark.parametrize(("kind", "effects"), [("cut_before", 0), ("cut_after", 1)])
def test_a_connection_is_cut_where_certain_bytes_go_by_and_nowhere_else(proxy, crm, kind, effects):
    proxy.hurt(Hurt(kind, pattern=b'"d-2"'))

    assert post(proxy, "d-1").status_code == 201
    with pytest.raises(FAULTS):
        post(proxy, "d-2")

    assert [each["key"] for each in crm.effects()] == ["d-1", "d-2"][: 1 + effects]


def test_an_impostor_answers_new_connections_until_it_is_gone(proxy, crm):
    impostor = HttpStandin(CrmApi())
    impostor.start()
    proxy.hurt(Hurt("impostor", port=impostor.port))

    post(proxy, "d-1")
    proxy.heal()
    post(proxy, "d-2")

    assert [each["key"] for each in impostor.effects()] == ["d-1"]
    assert [each["key"] for each in crm.effects()] == ["d-2"]
    impostor.stop()
