"""The pages about the system: what strangers learn, what operators learn, and what the asking costs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import ip_network

import pytest
import requests
from sqlalchemy import event

from ledger.operating import Desk

LOCAL = "127.0.0.1"


@pytest.fixture
def asked(door):
    """Return the statements that the web process carries out."""
    found = []

    def note(*arguments):
        found.append(arguments[2])

    event.listen(door.app.database, "before_cursor_execute", note)
    yield found
    event.remove(door.app.database, "before_cursor_execute", note)


def in_environment(name):
    def change(app):
        app.settings = app.settings.model_copy(update={"entrega_env": name})

    return change


def test_strangers_learn_of_readiness_one_word(door):
    answer = requests.get(f"{door.url}/health/ready", timeout=60)

    assert (answer.status_code, answer.json()) == (503, {"status": "waiting"})


def test_operators_learn_what_is_missing(door):
    answer = door.get("/health/ready")

    assert answer.json()["status"] == "waiting"
    assert "swept" in answer.json()["faults"]["work"]


@pytest.mark.parametrize(("scope", "told"), [("operate", True), ("read", False), ("metrics", False)])
def test_the_details_of_readiness_are_for_operators(door, scope, told):
    assert ("faults" in door.with_key("loja", scope).get("/health/ready").json()) is told


def test_a_wrong_key_learns_as_little_as_none(door):
    assert door.get("/health/ready", key="entrega_" + "a" * 39).json() == {"status": "waiting"}


def test_with_the_ledger_away_no_address_is_told_to_strangers(doors, stranger):
    def away(app):
        app.__dict__ |= {"database": stranger.engine, "ledger": stranger}

    door = doors(book=stranger, change=away)

    answer = requests.get(f"{door.url}/health/ready", timeout=60)
    told = door.get("/health/ready").json()

    assert (answer.status_code, answer.json()) == (503, {"status": "waiting"})
    assert "127.0.0.1" in told["faults"]["ledger"]


def test_ready_is_ok_after_a_sweep(door):
    Desk(door.app.database, actor="tests").begin_tick("sweep", every=timedelta(seconds=5))

    assert requests.get(f"{door.url}/health/ready", timeout=60).json() == {"status": "ok"}


def test_a_flood_of_questions_about_readiness_asks_the_ledger_seldom(door, asked):
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: requests.get(f"{door.url}/health/ready", timeout=60), range(100)))

    assert sum("ticks" in each for each in asked) < 20


def test_40_readers_of_the_metrics_count_the_table_once(door, asked):
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: requests.get(f"{door.url}/metrics", timeout=60).status_code, range(40)))

    assert set(answers) == {200}
    assert sum("GROUP BY deliveries.state" in each for each in asked) == 1


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_the_sandbox_shows_its_figures_to_this_machine_but_not_through_a_proxy(doors, header):
    door = doors()

    direct = requests.get(f"{door.url}/metrics", timeout=60)
    passed_on = requests.get(f"{door.url}/metrics", headers={header: "for=198.51.100.7"}, timeout=60)

    assert (direct.status_code, passed_on.status_code) == (200, 401)
    assert b"entrega_ledger_up 1.0" in direct.content


@pytest.mark.parametrize(
    ("scope", "status"), [("metrics", 200), ("operate", 200), ("admin", 200), ("read", 403), ("submit", 403)]
)
def test_beyond_the_sandbox_figures_need_a_key_with_their_scope(doors, scope, status):
    door = doors(change=in_environment("production"))

    assert requests.get(f"{door.url}/metrics", timeout=60).status_code == 401
    assert door.with_key("prometheus", scope).get("/metrics").status_code == status


def test_statement_37_one_key_has_a_limited_number_of_requests_under_way(doors):
    def narrow(app):
        app.settings = app.settings.model_copy(update={"entrega_requests_per_key": 2})

    door = doors(change=narrow)
    shop, other = door.with_key("loja", "submit", "read"), door.with_key("outra", "read")
    id_ = shop.post("/v1/leads", {"nome": "Ana Teste", "email": "ana@exemplo.com.br", "interesse": "produto_a"})
    path = f"/v1/deliveries/{id_.json()['id']}?wait=4"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.get(path), range(8)))
        beside = other.get("/v1/deliveries").status_code

    refused = [each for each in answers if each.status_code == 429]
    assert {each.status_code for each in answers} == {200, 429}
    assert {each.json()["error"]["code"] for each in refused} == {"too_many_at_once"}
    assert {each.headers["retry-after"] for each in refused} == {"1"}
    assert (beside, shop.get(path).status_code) == (200, 200)


def from_elsewhere(door, told):
    return requests.get(f"{door.url}/metrics", headers={"X-Forwarded-For": told}, timeout=60).status_code


def trusting(*networks):
    def change(app):
        proxies = tuple(map(ip_network, networks))
        app.settings = app.settings.model_copy(update={"entrega_trusted_proxies": proxies})

    return change


@pytest.mark.parametrize("told", ["banana", "", ",", "1.2.3.4, banana", "[::1", "127.0.0.1:x", "\u00e9".encode()])
@pytest.mark.parametrize("change", [lambda app: None, trusting("127.0.0.0/8")])
def test_a_nonsense_address_that_was_forwarded_is_no_fault_of_ours(doors, told, change):
    assert from_elsewhere(doors(change=change), told) in {200, 401, 429}


def test_only_a_trusted_proxy_may_say_for_whom_it_speaks(doors):
    plain, behind = doors(), doors(change=trusting("127.0.0.1"))
    for each in (plain, behind):
        from_elsewhere(each, "203.0.113.9")
        from_elsewhere(each, "203.0.113.9")  # what was refused is counted by now, if not yet when it was answered

    assert [list(each.web.state.guard.strangers.refused["other"]._left) for each in (plain, behind)] == [
        [LOCAL],
        ["203.0.113.9"],
    ]
