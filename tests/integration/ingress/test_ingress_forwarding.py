"""What a person writes reaches the producer: from the provider's webhook to one signed callback, over real sockets."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from config.settings import ConfigurationError
from delivery.commands import SendWhatsApp
from delivery.outcomes import Receipt, Succeeded
from delivery.ports import Settlement
from sandbox import graph_webhooks as meta
from tests.integration.conftest import claim, new

ME, PHONE, SECRET = "123456789012345", "5511999990001", "an-invented-secret"
WROTE = meta.message_change(ME, PHONE, {"type": "text", "text": {"body": "Oi"}})
BODY = meta.wire_bytes(meta.envelope([WROTE]))


class Producer(HTTPServer):
    """Keeps the headers and body of every callback."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ProducerHandler)
        self.asked = []


class ProducerHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.asked.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def producer():
    with Producer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        yield server
        server.shutdown()


def forwarding(url):
    def change(app):
        app.settings = app.settings.model_copy(
            update={"whatsapp_app_secret": SecretStr(SECRET), "whatsapp_webhook_url": url}
        )

    return change


@pytest.fixture
def door(doors, producer):
    return doors(change=forwarding(f"http://127.0.0.1:{producer.server_port}/whatsapp"))


def told(door, body=BODY):
    """Let Meta tell, and work on it."""
    proof = {"X-Hub-Signature-256": meta.proof(body, SECRET)}
    answer = door.ask("POST", "/webhooks/whatsapp/default", data=body, headers=proof)
    assert answer.status_code == 200
    return door.app.inbound.absorb(most=10)


def test_what_a_person_writes_is_one_signed_callback_although_its_webhook_comes_twice(door, producer, ledger, archive):
    (hint,) = told(door).hints
    again = told(door)
    (claimed,) = claim(ledger, hint.id)
    door.app.engine.providers[claimed.order.account.partition(":")[0]].send(claimed.order)

    ((headers, body),) = producer.asked
    event = Webhook(ledger.endpoints.show_secret("whatsapp", actor="ana")).verify(body, headers)
    assert (event["type"], event["data"]["from"]) == ("whatsapp.message", f"+{PHONE}")
    assert event["data"]["written_by_contact"]["text"] == "Oi"
    assert (again.worked, [each.id for each in archive.search(kind="callback")]) == (0, [hint.id])
    assert hint.alone


def test_a_producer_finds_the_delivery_that_a_person_answered(door, producer, ledger, archive):
    (sent,) = ledger.open([new(SendWhatsApp(to=f"+{PHONE}", text="Olá"))])
    (claimed,) = claim(ledger, sent.id)
    wamid = meta.message_id(PHONE, outgoing=True)
    ledger.settle([Settlement(claimed, Succeeded(Receipt(wamid)))])
    answer = {"type": "text", "text": {"body": "Sim"}, "context": {"from": "5511400000000", "id": wamid}}
    change = meta.message_change(ME, PHONE, answer)

    (hint,) = told(door, meta.wire_bytes(meta.envelope([change]))).hints
    (claimed,) = claim(ledger, hint.id)
    door.app.engine.providers[claimed.order.account.partition(":")[0]].send(claimed.order)

    data = json.loads(producer.asked[0][1])["data"]
    assert (data["reply_to"], data["reply_to_receipt"]) == (wamid, archive.find(sent.id).receipt)


def test_erasing_a_person_erases_the_callback_of_what_they_wrote(door, ledger, archive, sql):
    (hint,) = told(door).hints

    sql("DELETE FROM people WHERE person = :person", person=ledger.vault.hash(f"+{PHONE}"))

    assert claim(ledger, hint.id) == []
    assert archive.find(hint.id).code == "unreadable"


def test_an_address_where_no_callback_may_go_ends_the_start(doors):
    door = doors(change=forwarding("https://10.0.0.1/whatsapp"))

    with pytest.raises(ConfigurationError, match="WHATSAPP_WEBHOOK_URL"):
        _ = door.app.forwards_to
