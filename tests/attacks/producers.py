"""What one producer does to the others, and how it tries to get round its policy."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.attacks.target import Target, Verdict, percentile

_HOSTS = 32
_SLOW_S = 14
_P99_MS = 2000
_UNSEEN = "ATAQUE: este texto nunca foi visto"
_REFUSED = 422
_ITS_LEADS = """
    SELECT count(*) FROM deliveries
    WHERE producer = 'attack-slow' AND kind = 'create_lead' AND state IN ('ready', 'attempting', 'waiting')
"""


def slow_callback_hosts(target: Target) -> Verdict:
    """Name 32 callback hosts that answer after 14 s, and see how long the leads of another producer take."""
    greedy, honest = target.make_key("attack-slow", "submit"), target.make_key("attack-honest", "submit", "read")
    probes = 12 if target.short else 25
    with _slow_hosts(_HOSTS) as hosts:
        items = [_bulk_lead(n, f"http://127.0.0.1:{port}/told") for n, port in enumerate(hosts.ports * 4)]
        target.ask("POST", "/v1/bulk", {"items": items}, key=greedy)
        # The leads themselves are honest work; measured is what their callbacks do once those hold their threads.
        target.until(lambda: hosts.most and not target.sql(_ITS_LEADS)[0][0], 20)
        waits = [_until_done(target, honest) for _ in range(probes)]
        most = hosts.most
    target.sql("UPDATE endpoints SET disabled_at = now(), disabled_reason = 'attack' WHERE producer = 'attack-slow'")
    target.sql(
        "UPDATE deliveries SET state = 'canceled', settled_at = now() WHERE producer = 'attack-slow'"
        " AND kind = 'callback' AND state IN ('ready', 'waiting')"
    )
    p99 = percentile(waits)
    return Verdict(
        f"{_HOSTS} callback hosts that answer after {_SLOW_S} s",
        f"p99 of another producer's lead {p99:.0f} ms; callbacks held {most} threads at most",
        f"{_P99_MS} ms",
        passed=p99 <= _P99_MS and most > 0,
    )


class _Hosts:
    """Callback hosts that are slow, and how many calls they held at once."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.open = threading.Event()
        self.most = self.now = 0
        self._lock = threading.Lock()

    def count(self, change: int) -> None:
        with self._lock:
            self.now += change
            self.most = max(self.most, self.now)


@contextmanager
def _slow_hosts(how_many: int) -> Iterator[_Hosts]:
    hosts = _Hosts()

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hosts.count(1)
            hosts.open.wait(_SLOW_S)
            hosts.count(-1)
            with suppress(OSError):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Slow) for _ in range(how_many)]
    hosts.ports = [each.server_port for each in servers]
    for each in servers:
        threading.Thread(target=each.serve_forever, daemon=True).start()
    try:
        yield hosts
    finally:
        hosts.open.set()
        for each in servers:
            each.shutdown()
            each.server_close()


def _bulk_lead(number: int, url: str) -> dict[str, object]:
    person = f"ataque{number}.{time.monotonic_ns()}@exemplo.com.br"
    lead = {"kind": "create_lead", "nome": "Ana Teste", "email": person, "interesse": "produto_a"}
    return lead | {"options": {"callback_url": url}}


def _until_done(target: Target, key: str) -> float:
    """Hand over one lead; return the seconds until the CRM has it."""
    started = time.perf_counter()
    id_ = target.lead(key=key).body["id"]
    target.until(lambda: target.state(id_) == "succeeded", 20)
    return time.perf_counter() - started


def approval_around_the_fallback(target: Target) -> Verdict:
    """Have an innocent lead approved that the CRM refuses, with a message as its fallback that nobody saw."""
    target.entrega("producers", "set", "attack-sly", "--needs-approval")
    sly, boss = target.make_key("attack-sly", "submit", "read", "operate"), target.make_key("attack-boss", "operate")
    fallback = {"kind": "send_whatsapp", "to": "+5511999990001", "text": _UNSEEN}
    id_ = target.lead(key=sly, options={"fallback": fallback}).body["id"]
    shown = target.ask("GET", f"/v1/approvals/{id_}", key=boss).body
    read = target.ask("POST", f"/v1/approvals/{id_}/reveal", {"reason": "attack"}, key=boss).body
    target.ask("POST", f"/v1/deliveries/{id_}/reject", {"reason": "attack"}, key=boss)
    sees, reads = bool(shown.get("fallback")), _UNSEEN in str(read.get("fallback"))
    # The other way: the lead was accepted before its producer needed approvals, and dies now.
    target.entrega("producers", "set", "attack-old", "--per-day", 1000)
    old = target.make_key("attack-old", "submit")
    first = target.lead(key=old, options={"fallback": fallback, "send_at": _soon(8)}).body["id"]
    target.standins["crm"].plan({"status": 422, "match": first})
    target.entrega("producers", "set", "attack-old", "--needs-approval")
    second = target.until(lambda: target.sql("SELECT fallback_id FROM deliveries WHERE id = :id", id=first)[0][0], 25)
    state = target.state(second) if second else "not started"
    if second:
        target.ask("POST", f"/v1/deliveries/{second}/reject", {"reason": "attack"}, key=boss)
    return Verdict(
        "a message behind an innocent lead, as its fallback",
        f"the approver {'sees' if sees else 'does not see'} and {'reads' if reads else 'does not read'} it; "
        f"without an approval it is {state}",
        "seen, read, held",
        passed=sees and reads and state == "held",
    )


def own_approval(target: Target) -> Verdict:
    """Approve one's own request, with the same key and with another one of the same producer."""
    target.entrega("producers", "set", "attack-own", "--needs-approval")
    keys = [target.make_key("attack-own", *scopes) for scopes in (("submit", "operate"), ("operate",), ("admin",))]
    id_ = target.lead(key=keys[0]).body["id"]
    answers = [target.ask("POST", f"/v1/deliveries/{id_}/approve", {"reason": "attack"}, key=key) for key in keys]
    state = target.state(id_)
    target.ask("POST", f"/v1/deliveries/{id_}/reject", {"reason": "attack"})
    codes = [each.status for each in answers]
    return Verdict(
        "approve one's own request, by three keys",
        f"answers {codes}, the delivery is {state}",
        "403, held",
        passed=codes == [403] * len(keys) and state == "held",
    )


def one_mail_to_150(target: Target) -> Verdict:
    """Reach 150 people under a cap of 20 a day: in one mail, and as a fallback."""
    target.entrega("producers", "set", "attack-many", "--per-day", 20, "--new-recipients-per-day", 20)
    many = target.make_key("attack-many", "submit")
    people = [f"muitos{n}.{time.monotonic_ns()}@exemplo.com.br" for n in range(150)]
    mail = {"to": people[:50], "cc": people[50:100], "bcc": people[100:], "subject": "Teste", "text": "Ataque"}
    whole = target.ask("POST", "/v1/emails", mail, key=many)
    hidden = target.lead(key=many, options={"fallback": {"kind": "send_email", **mail}})
    few = target.ask("POST", "/v1/emails", mail | {"to": people[:20], "cc": [], "bcc": []}, key=many)
    after = target.lead(key=many)
    codes = [each.status for each in (whole, hidden, few, after)]
    return Verdict(
        "150 people in one mail, under a cap of 20 a day",
        f"mail {codes[0]}, as a fallback {codes[1]}, 20 people {codes[2]}, then one more {codes[3]}",
        "403, 403, 202, 429",
        passed=codes == [403, 403, 202, 429],
    )


def headers_that_steer_relays(target: Target) -> Verdict:
    """Send headers that add recipients at a relay, and mail from a foreign address."""
    key = target.make_key("attack-mail", "submit")
    mail = {"to": "ana.teste@exemplo.com.br", "subject": "Teste", "text": "Ataque"}
    names = ("X-SMTPAPI", "X-MC-BccAddress", "X-Mailgun-Recipient-Variables", "X-SES-SOURCE-ARN", "X-MSYS-API")
    tries = [{"headers": {name: '{"to": ["vitima@exemplo.com.br"]}'}} for name in names]
    tries += [{"from": "ceo@qualquer.example.com"}, {"from": "ceo@exemplo.com.br.example.com"}]
    answers = [target.ask("POST", "/v1/emails", mail | each, key=key) for each in tries]
    fields = sorted({each["field"] for answer in answers for each in answer.body["error"]["details"]})
    taken = sum(answer.status != _REFUSED for answer in answers)
    return Verdict(
        f"{len(names)} headers that steer relays, 2 foreign senders",
        f"{taken} taken; refused: {', '.join(fields)}",
        "0 taken",
        passed=not taken and len(fields) == len(names) + 1,
    )


def _soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


ATTACKS = (
    slow_callback_hosts,
    approval_around_the_fallback,
    own_approval,
    one_mail_to_150,
    headers_that_steer_relays,
)
