"""Inputs from public bug reports that once stopped the system, or slipped past it."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from redis import Redis

from sandbox.faults import Fault
from sandbox.graph_webhooks import proof
from tests.attacks.target import Target, Verdict

_AGES = ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2100-01-01T00:00:00Z")
_OFFSETS = ("2099-06-01T12:00:00+16:00", "2099-06-01T12:00:00-23:59")
_FAILING_LEADS = 20
_WINDOW_S = 60  # of the CRM's breaker: calls that went well before the attack count as long
_EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
_DONE = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def nasty_instants(target: Target) -> Verdict:
    """Hand over instants that no database or no calendar holds, and list the deliveries afterwards."""
    items = [_lead(n, {name: each}) for name in ("send_at", "expires_at") for n, each in enumerate(_AGES + _OFFSETS)]
    items += [_lead(100, {})]
    bulk = target.ask("POST", "/v1/bulk", {"items": items})
    listed = target.ask("GET", "/v1/deliveries")
    refused = bulk.body["refused"] if bulk.status == 202 else -1
    listing = target.entrega("deliveries")
    return Verdict(
        "instants in year 0 and 10000, offsets of 16 to 24 hours",
        f"bulk {bulk.status}, {refused} of {len(items)} items refused; list {listed.status}",
        "only the impossible ones are refused; the list stands",
        # A send_at more than a year ahead is refused as well.
        passed=(bulk.status, listed.status, refused) == (202, 200, 8) and isinstance(listing, list),
    )


def poisonous_webhook(target: Target) -> Verdict:
    """Store an event that nothing can work on and send signed webhooks with impossible times; others must go on."""
    last = target.sql("SELECT coalesce(max(id), 0) FROM inbound_events")[0][0]
    target.sql(
        "INSERT INTO inbound_events (account, key, kind, facts)"
        " VALUES ('whatsapp:default', 'attack-poison', 'template', CAST('[1]' AS jsonb))"
    )
    times = ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "99999999999999", "-1"]
    answers = [_signed(target, f"wamid.attack{n}", each) for n, each in enumerate(times)]
    answers.append(_signed(target, "wamid.honest", str(int(time.time()))))
    others = "SELECT count(*), count(worked_at) FROM inbound_events WHERE id > :last AND key <> 'attack-poison'"
    target.until(lambda: target.sql(others, last=last)[0] == (len(answers),) * 2, 25)
    stored, done = target.sql(others, last=last)[0]
    target.sql("DELETE FROM inbound_events WHERE id > :last", last=last)
    return Verdict(
        "an event that cannot be worked on, and signed webhooks of year 0 and 10000",
        f"answers {answers}; {done} of {stored} others worked on",
        "every other event is worked on",
        passed=stored == done == len(answers) and all(each < 500 for each in answers),
    )


def interim_answers(target: Target) -> Verdict:
    """Answer each callback with 103 Early Hints before the real answer, and count the copies."""
    with _early_hints() as receiver:
        url = f"http://127.0.0.1:{receiver.port}/told"
        id_ = target.lead(options={"callback_url": url}).body["id"]
        target.until(lambda: target.state(id_) == "succeeded", 20)
        target.until(lambda: receiver.calls, 10)
        time.sleep(3)  # a second copy would come within two
        calls = receiver.calls
    open_ones = target.sql("SELECT count(*) FROM deliveries WHERE kind = 'callback' AND state <> 'succeeded'")[0][0]
    return Verdict(
        "a callback receiver that answers 103, then 204",
        f"{calls} call, {open_ones} callbacks not done",
        "1 call, none left",
        passed=(calls, open_ones) == (1, 0),
    )


def emptied_redis_while_open(target: Target) -> Verdict:
    """Let the CRM fail until its breaker opens, empty Redis, and count the calls that meet the failing CRM."""
    crm = target.standins["crm"]
    crm.plan(Fault(status=503, times=10_000, match="create_lead"))
    try:
        opened = target.until(lambda: _fails_until_open(target), 2 * _WINDOW_S)
        Redis.from_url(target.admin_redis_url).flushall()
        before = len(crm.arrivals())
        for _ in range(20):
            target.lead()
        time.sleep(4)
        struck = len(crm.arrivals()) - before
        state = _breaker(target)
    finally:
        crm.clear_faults()
        target.entrega("breaker", "close", "crm:default", "create_lead", "--reason=the attack is over")
        target.entrega("breaker", "auto", "crm:default", "create_lead", "--reason=the attack is over")
    return Verdict(
        "FLUSHALL while the CRM's breaker is open",
        f"breaker {'opened' if opened else 'never opened'}, then {state}; {struck} calls in the next 4 s",
        "stays open, at most 3 trial calls",
        passed=bool(opened) and state != "closed" and struck <= 3,
    )


def unknown_parameters(target: Target) -> Verdict:
    """Ask for a dry run where none is known, and for one person's deliveries where there is no such filter."""
    count = "SELECT count(*) FROM deliveries"
    before = target.sql(count)[0][0]
    body = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
    sent = target.ask("POST", "/v1/leads?dry_run=true", body).status
    listed = target.ask("GET", "/v1/deliveries?to=ana.teste@exemplo.com.br").status
    written = target.sql(count)[0][0] - before
    return Verdict(
        "?dry_run=true on a submit, ?to= on the list",
        f"{sent} and {listed}; {written} deliveries written",
        "422 and 422; none",
        passed=(sent, listed, written) == (422, 422, 0),
    )


ATTACKS = (nasty_instants, poisonous_webhook, interim_answers, unknown_parameters, emptied_redis_while_open)


def _lead(n: int, options: dict[str, str]) -> dict[str, object]:
    email = f"instante{n}.{time.monotonic_ns()}@exemplo.com.br"
    lead = {"kind": "create_lead", "nome": "Ana Teste", "email": email, "interesse": "produto_a"}
    return {**lead, "options": options}


def _signed(target: Target, wamid: str, when: str) -> int:
    status = {"id": wamid, "status": "sent", "timestamp": when, "recipient_id": "5511999990001"}
    change = {"field": "messages", "value": {"messaging_product": "whatsapp", "statuses": [status]}}
    body = json.dumps({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [change]}]}).encode()
    headers = {"X-Hub-Signature-256": proof(body, target.system.variables["WHATSAPP_APP_SECRET"])}
    return target.ask("POST", "/webhooks/whatsapp/default", body, key="", headers=headers).status


def _fails_until_open(target: Target) -> bool:
    for _ in range(_FAILING_LEADS):
        target.lead()
    return bool(target.until(lambda: _breaker(target) == "open", 5))


def _breaker(target: Target) -> str:
    found = target.entrega("breaker", "list")
    return next(each["state"] for each in found if each["account"] == "crm:default")


class _Receiver:
    """Takes connections on loopback and answers each request with 103, then 204."""

    def __init__(self) -> None:
        self.calls = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    if connection.recv(65_536):
                        self.calls += 1
                        connection.sendall(_EARLY + _DONE)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def _early_hints() -> Iterator[_Receiver]:
    receiver = _Receiver()
    try:
        yield receiver
    finally:
        receiver.close()
