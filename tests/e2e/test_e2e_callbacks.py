"""Callbacks through the whole system: a receiver of our own on loopback, checked with the receivers' public library."""

import http.server
import threading
from collections import Counter, defaultdict

import psutil
import pytest
from standardwebhooks import Webhook

from ledger.letters import Letters
from sandbox.doors import free_port

WHY = "the shop is back"


class Receiver(http.server.ThreadingHTTPServer):
    """One producer's server: answers each path with its planned statuses, then with 204, and keeps what it accepted.

    Every request must be signed; `told` holds (type, data, webhook-id) by the delivery it is about.
    """

    daemon_threads = True

    def __init__(self, secret: bytes, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.webhook = Webhook(secret)
        self.plans: dict[str, list[int]] = {}
        self.held: dict[str, threading.Event] = {}
        self.told: dict[str, list[tuple[str, dict, str]]] = defaultdict(list)
        self.asked: Counter[str] = Counter()
        self.ids: dict[str, set[str]] = defaultdict(set)
        self.refused: list[str] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def types(self, delivery) -> list[str]:
        return [type_.removeprefix("delivery.") for type_, _, _ in self.told[str(delivery)]]

    def handle_error(self, *_):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        server, path = self.server, self.path.removeprefix("/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            event = server.webhook.verify(body, dict(self.headers))
        except Exception as err:
            server.refused.append(repr(err))
            raise
        server.asked[path] += 1
        server.ids[path].add(self.headers["webhook-id"])
        held, plan = server.held.get(path), server.plans.get(path)
        if held is not None:
            held.wait(240)
        status = plan.pop(0) if plan else 204
        if status == 204:
            server.told[event["data"]["id"]].append((event["type"], event["data"], self.headers["webhook-id"]))
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def secret(module_system):
    endpoints = module_system.app.ledger.endpoints
    endpoints.register("e2e", "http://127.0.0.1:9/first")
    return endpoints.show_secret("e2e", actor="e2e")


@pytest.fixture
def receiver(running, secret):
    server = Receiver(secret)
    yield server
    server.shutdown()
    server.server_close()
    assert server.refused == []


def lead(running, receiver, path):
    return running.lead(path, options={"callback_url": receiver.url(path)})


def report(running, id_, status):
    running.sql(
        "INSERT INTO inbound_events (account, key, delivery_id, status, receipt)"
        " VALUES ('crm:default', :key, :id, :status, 'r')", key=f"{id_}{status}", id=id_, status=status,
    )  # fmt: skip


def first_callback(running, server):
    """Wait until a callback to this server is opened, and return the first one's id."""
    account = f"callback:127.0.0.1:{server.server_port}"
    opened = "SELECT id FROM deliveries WHERE account = :account ORDER BY id LIMIT 1"
    return running.wait(lambda: running.sql(opened, account=account), "a callback opened")[0].id


def test_a_success_and_each_progress_is_told_in_order(running, receiver):
    id_ = lead(running, receiver, "ordem")
    running.wait(lambda: receiver.types(id_) == ["succeeded"], "the success told")
    report(running, id_, "delivered")
    running.wait(lambda: "delivered" in receiver.types(id_), "the delivery told")
    report(running, id_, "read")

    running.wait(lambda: len(receiver.types(id_)) == 3, "the reading told")

    (_, data, _), *_ = receiver.told[str(id_)]
    assert receiver.types(id_) == ["succeeded", "delivered", "read"]
    assert (data["state"], data["progress"], data["recipient"]) == ("succeeded", "sent", "o***@exemplo.com.br")
    assert [each["outcome"] for each in data["timeline"]] == ["succeeded"]
    assert len({id_ for _, _, id_ in receiver.told[str(id_)]}) == 3


def test_what_dies_is_told_with_its_reason(running, receiver):
    running.control["crm"].plan({"status": 422, "times": 1, "match": "create_lead"})
    dead = lead(running, receiver, "recusada")

    running.wait(lambda: receiver.types(dead) == ["dead"], "the death told")

    assert receiver.told[str(dead)][0][1]["code"] == "invalid"


def test_an_endpoint_that_fails_for_a_while_is_told_once_it_is_back(running, receiver):
    receiver.plans["oscila"] = [500, 500]
    id_ = lead(running, receiver, "oscila")

    running.wait(lambda: receiver.types(id_) == ["succeeded"], "the success told")

    assert receiver.asked["oscila"] == 3
    assert len(receiver.ids["oscila"]) == 1


def test_a_slow_endpoint_gets_the_same_id_again_and_holds_nobody_up(running, receiver):
    receiver.held["lenta"] = threading.Event()
    id_ = lead(running, receiver, "lenta")
    running.wait(lambda: receiver.asked["lenta"], "the first attempt")

    running.works()

    assert receiver.types(id_) == []
    running.wait(lambda: receiver.asked["lenta"] > 1, "asked again")
    receiver.held["lenta"].set()
    callback = first_callback(running, receiver)
    running.until(callback, "succeeded")
    assert receiver.ids["lenta"] == {str(callback)}
    assert set(receiver.types(id_)) == {"succeeded"}


def test_an_endpoint_that_is_gone_gets_nothing_more_until_it_is_enabled(running, receiver):
    receiver.plans["fechada"] = [410]
    first = lead(running, receiver, "fechada")
    endpoint = running.app.ledger.endpoints.register("e2e", receiver.url("fechada"))
    running.wait(lambda: running.app.ledger.endpoints.find(endpoint).disabled, "disabled")
    second = running.lead("fechada2", options={"callback_url": receiver.url("fechada")})
    untold = "SELECT reason FROM audit WHERE action = 'not_told' AND delivery_id = :id"
    running.wait(lambda: running.sql(untold, id=second), "the second not told")
    quiet = receiver.asked["fechada"]

    running.app.ledger.endpoints.enable(endpoint, actor="e2e", reason=WHY)
    died = running.until(first_callback(running, receiver), "dead")
    running.app.hints.send(Letters(running.app.ledger, actor="e2e").replay([died.id], reason=WHY).hints)

    running.wait(lambda: receiver.types(first) == ["succeeded"], "the first told after all")
    assert (quiet, died.code, receiver.types(second)) == (1, "undeliverable", [])


def test_an_endpoint_that_is_down_for_days_leaves_a_dead_letter_that_can_be_replayed(running, secret):
    absent = Receiver(secret, free_port())  # one that no outgoing connection takes meanwhile
    absent.shutdown()
    absent.server_close()
    id_ = running.lead("ausente", options={"callback_url": absent.url("ausente")})
    running.until(id_, "succeeded")
    callback = first_callback(running, absent)
    running.wait(lambda: running.find(callback).parks, "in the fallback queue")
    running.sql("UPDATE deliveries SET expires_at = now() WHERE id = :id", id=callback)
    running.until(callback, "dead")

    back = Receiver(secret, absent.server_port)
    try:
        running.app.hints.send(Letters(running.app.ledger, actor="e2e").replay([callback], reason=WHY).hints)
        running.wait(lambda: back.types(id_) == ["succeeded"], "told by the replay")
    finally:
        back.shutdown()
        back.server_close()

    assert back.ids["ausente"] == {str(callback)}


def test_a_worker_that_is_killed_between_settle_and_callback_leaves_the_producer_told(running, receiver):
    opening = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%callback_events t%'"
    worker = psutil.Process(running.system.parts["worker1"].pid)
    worker.suspend()
    id_ = lead(running, receiver, "morte")
    with running.holding_up("endpoints"):
        worker.resume()
        running.until_alone(id_, "succeeded")
        running.wait(lambda: running.sql(opening), "the worker on its way to open the callback")
        running.kill("worker1")
    untold = receiver.types(id_)
    running.revive("worker1")

    running.wait(lambda: receiver.types(id_) == ["succeeded"], "the success told")

    assert untold == []
    assert running.app.archive.verify().faults == {}


def test_kills_and_a_wiped_redis_lose_no_callback_and_give_none_a_second_id(running, receiver):
    receiver.plans["tumulto"] = [500, 503, 500]
    url = receiver.url("tumulto")
    ids = []
    for first in (0, 10, 20):
        ids += [running.lead(f"tumulto{n}", options={"callback_url": url}) for n in range(first, first + 10)]
        running.some(ids, "succeeded", len(ids) - 5)
        running.kill("worker1")
        running.redis.flushall()
        running.revive("worker1")
    running.until(ids, "succeeded")

    running.wait(lambda: all(receiver.types(each) for each in ids), f"all told{running.tail()}")

    assert len({id_ for each in ids for _, _, id_ in receiver.told[str(each)]}) == len(ids)
    assert running.app.archive.verify().faults == {}
