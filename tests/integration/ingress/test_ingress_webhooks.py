"""The door for providers over a real socket and a real ledger: what is not proved leaves no trace."""

import http.client
import json
import threading
import time
from contextlib import suppress
from ipaddress import ip_network

import pytest
import uvicorn
import yaml
from pydantic import SecretStr

from config.policy import Signature, load_specs, read_spec
from config.settings import load_settings
from delivery.commands import SendWhatsApp
from delivery.outcomes import Receipt, Succeeded
from delivery.ports import Settlement
from ingress.web import create_web, serving
from ingress.webhooks import is_signed, signature
from ledger.database import connect
from ledger.inbound import Inbound
from ledger.store import PostgresLedger
from sandbox import graph_webhooks as meta
from sandbox.graph import GraphCredentials
from sandbox.standins import Standins
from tasks.app import Entrega
from tests.integration.conftest import claim, lead, new

NEW, SECRETS, CRM_SECRET = "new-secret", "new-secret,old-secret", "crm-secret"
PATH = "/webhooks/whatsapp/default"
ME, PHONE = GraphCredentials().phone_number_id, "5511999990001"
PROOF = "X-Hub-Signature-256"
CRM_SHAPE = {
    "signature": {
        "header": "X-CRM-Signature", "algorithm": "sha512", "format": "{base64}", "secret": "CRM_HOOK_SECRET",
    },
    "max_bytes": 1000,
    "networks": ["127.0.0.0/8"],
    "shape": {
        "events": "data.eventos", "id": "id", "delivery": "lead.external_id", "status": "tipo", "at": "em",
        "statuses": {"lead.recebido": "delivered", "lead.recusado": "failed"}, "code": "motivo", "receipt": "lead.id",
    },
}  # fmt: skip


class Bell:
    """Hints that count how often a worker was woken."""

    def __init__(self):
        self.rung = threading.Semaphore(0)

    def wake(self, task, *, queue):
        self.rung.release()
        return True

    def send(self, hints):
        return len(list(hints))


@pytest.fixture
def crm_form(tmp_path):
    file = tmp_path / "crm.yaml"
    shipped = yaml.safe_load((load_specs.__globals__["_INTEGRATIONS"] / "crm.yaml").read_text())
    file.write_text(yaml.safe_dump(shipped | {"webhook": CRM_SHAPE}))
    return read_spec(file)


@pytest.fixture
def app(ledger, archive, database, monkeypatch, crm_form):
    monkeypatch.setenv("CRM_HOOK_SECRET", "crm-secret")
    app = Entrega("tests")
    app.settings = load_settings({
        "database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0",
        "whatsapp_app_secret": SECRETS, "whatsapp_verify_token": "verify-me", "whatsapp_phone_number_id": ME,
    })  # fmt: skip
    parts = {"ledger": ledger, "archive": archive, "database": database, "hints": Bell()}
    app.__dict__.update(parts | {"specs": load_specs() | {"crm": crm_form}})
    return app


@pytest.fixture
def web(app):
    config = serving(create_web(app, metrics_folder=None), app.settings)
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield port
    server.should_exit = True
    thread.join()


def call(port, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path)
    for name, value in headers:
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def post(port, body, secret=NEW, path=PATH):
    return call(port, "POST", path, body, [(PROOF, meta.proof(body, secret))])[0]


def told(*steps, wamid="wamid.1", id_=None):
    message = {"to": f"+{PHONE}", "phone_number_id": ME, "biz_opaque_callback_data": str(id_) if id_ else None}
    return meta.wire_bytes(meta.envelope([meta.status_change(message, wamid, each) for each in steps]))


def stored(sql):
    return sql("SELECT count(*) FROM inbound_events")[0][0]


@pytest.mark.parametrize("secret", ["new-secret", "old-secret"])
def test_what_is_signed_with_either_secret_is_stored_and_a_worker_woken(web, app, sql, secret):
    assert post(web, told("sent", "read"), secret) == 200
    assert stored(sql) == 2
    assert app.hints.rung.acquire(timeout=60)


def test_statement_06_an_old_secret_is_accepted_while_it_is_changed_and_refused_after(web, app):
    during = [post(web, GOOD, secret) for secret in ("new-secret", "old-secret")]
    app.settings = app.settings.model_copy(update={"whatsapp_app_secret": SecretStr("new-secret")})
    del app.accounts  # made from the settings of before; a restart in life

    assert (during, [post(web, GOOD, secret) for secret in ("new-secret", "old-secret")]) == ([200, 200], [200, 401])


def test_a_further_account_has_a_door_with_a_secret_and_a_number_of_its_own(web, app, sql):
    values = {
        "WHATSAPP_ACCESS_TOKEN": "invented", "WHATSAPP_PHONE_NUMBER_ID": "98765",
        "WHATSAPP_APP_SECRET": "secret-of-vendas", "WHATSAPP_VERIFY_TOKEN": "verify-vendas",
    }  # fmt: skip
    path = "/webhooks/whatsapp/vendas"
    before = post(web, told("sent"), path=path)
    app.accounts.put("whatsapp:vendas", values, actor="ana", reason="second number")
    message = {"to": f"+{PHONE}", "phone_number_id": "98765", "biz_opaque_callback_data": None}
    body = meta.wire_bytes(meta.envelope([meta.status_change(message, "wamid.2", "sent")]))

    answers = [post(web, body, secret, path) for secret in (NEW, "secret-of-vendas")]
    challenge = "?hub.mode=subscribe&hub.challenge=123&hub.verify_token="
    verified = [call(web, "GET", path + challenge + word)[0] for word in ("verify-me", "verify-vendas")]

    assert (before, answers, verified) == (404, [401, 200], [403, 200])
    assert [row.account for row in sql("SELECT account FROM inbound_events")] == ["whatsapp:vendas"]


def test_an_account_whose_values_cannot_be_opened_lets_the_provider_repeat(web, app, sql):
    sql("INSERT INTO accounts (name, settings) VALUES ('whatsapp:velha', 'rubbish')")

    assert post(web, told("sent"), path="/webhooks/whatsapp/velha") == 503


GOOD = told("sent")
HEX = meta.proof(GOOD, "new-secret").removeprefix("sha256=")
WRONG = {
    "missing": [],
    "empty": [(PROOF, "")],
    "another secret": [(PROOF, meta.proof(GOOD, "other-secret"))],
    "both secrets as one": [(PROOF, meta.proof(GOOD, SECRETS))],
    "empty secret": [(PROOF, meta.proof(GOOD, ""))],
    "no prefix": [(PROOF, HEX)],
    "wrong prefix": [(PROOF, f"sha512={HEX}")],
    "old algorithm": [("X-Hub-Signature", f"sha1={HEX[:40]}")],
    "sha1 in the new header": [(PROOF, f"sha1={HEX[:40]}")],
    "upper case": [(PROOF, f"sha256={HEX.upper()}")],
    "upper case prefix": [(PROOF, f"SHA256={HEX}")],
    "truncated": [(PROOF, f"sha256={HEX[:-1]}")],
    "longer": [(PROOF, f"sha256={HEX}0")],
    "prefix alone": [(PROOF, "sha256=")],
    "full-width digits": [(PROOF, f"sha256={HEX}".replace("a", "\uff41").encode())],
    "latin letters": [(PROOF, b"sha256=" + b"\xe9" * 64)],
    "twice": [(PROOF, f"sha256={HEX}"), (PROOF, f"sha256={HEX}")],
    "two in one": [(PROOF, f"sha256={HEX},sha256={HEX}")],
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_statement_01_a_wrong_signature_changes_nothing(web, app, sql, headers):
    assert call(web, "POST", PATH, GOOD, headers)[0] == 401
    assert stored(sql) == 0
    assert not app.hints.rung.acquire(blocking=False)


@pytest.mark.parametrize("place", [0, len(GOOD) // 2, len(GOOD) - 1])
def test_one_changed_byte_is_enough(web, sql, place):
    changed = GOOD[:place] + bytes([GOOD[place] ^ 1]) + GOOD[place + 1 :]

    assert call(web, "POST", PATH, changed, [(PROOF, f"sha256={HEX}")])[0] == 401
    assert stored(sql) == 0


@pytest.mark.parametrize("rewritten", [GOOD.replace(b"\\/", b"/") + b" ", b"\xef\xbb\xbf" + GOOD])
def test_json_that_means_the_same_is_not_the_same(web, rewritten):
    assert call(web, "POST", PATH, rewritten, [(PROOF, f"sha256={HEX}")])[0] == 401


@pytest.mark.parametrize(
    "raw",
    ['{"text":"Olá 😀"}'.encode(), b'{"text":"Ol\\u00e1 \\ud83d\\ude00"}', b'{"url":"https:\\/\\/exemplo.com.br"}',
     b'\xef\xbb\xbf{"a": 1}', b'{ "b":1,\r\n"a" :1.0 }', b'{"a":"\xff"}', b""],
)  # fmt: skip
def test_statement_02_the_signature_is_over_the_raw_bytes(raw):
    form = load_specs()["whatsapp"].webhook.signature
    proof = signature(raw, form, NEW)
    with suppress(ValueError):
        rewritten = json.dumps(json.loads(raw)).encode()
        assert rewritten == raw or not is_signed(rewritten, proof, form, [NEW])

    assert is_signed(raw, proof, form, [NEW])


def test_the_documented_test_vector_holds():
    body = (
        rb'{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":'
        rb'{"messaging_product":"whatsapp","text":"ol\u00e1 Jo\u00e3o"}}]}]}'
    )
    form = load_specs()["whatsapp"].webhook.signature

    assert signature(body, form, "test_app_secret_123") == (
        b"sha256=f229cb2de1035a11de173324e76a41f3be39831f55d736c62fb728e5c179b2be"
    )
    assert form == Signature(
        header="X-Hub-Signature-256", algorithm="sha256", format="sha256={hex}", secret="WHATSAPP_APP_SECRET"
    )


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}", b"null", b'"x"']
)
def test_a_signed_body_of_any_other_shape_is_answered_and_harms_nobody(web, sql, body):
    assert post(web, body) in (200, 400)
    assert stored(sql) == 0


@pytest.mark.parametrize(
    "body",
    [
        b'{"entry": [], "entry": [{}]}', b'{"a": NaN}', b'{"a": 1e999}', b'{"a": ' + b"9" * 65 + b"}",
        b'{"a":' * 33 + b"1" + b"}" * 33, b"{} {}", b'{"a": "\xff"}',
    ],
)  # fmt: skip
def test_a_signed_body_that_two_parsers_could_read_differently_is_refused(web, sql, body):
    assert post(web, body) == 400
    assert stored(sql) == 0


def test_half_a_character_in_what_a_person_wrote_costs_that_character_only(web, sql):
    said = GOOD.replace(b'"type"', b'"half":"\\ud83d","type"', 1)

    assert (post(web, said), stored(sql)) == (200, 1)


def test_a_body_of_more_than_three_megabytes_is_refused(web, sql):
    assert post(web, b" " * 3_145_729) == 413
    assert stored(sql) == 0


@pytest.mark.parametrize(("days", "kept"), [(7, 1), (9, 0), (400, 0)])
def test_a_signed_webhook_of_long_ago_is_answered_and_not_stored(web, sql, days, kept):
    change = meta.message_change(ME, PHONE, {"type": "text", "text": {"body": "Oi"}})
    change["value"]["messages"][0]["timestamp"] = str(int(time.time()) - days * 86400)

    assert post(web, meta.wire_bytes(meta.envelope([change]))) == 200
    assert stored(sql) == kept
    assert sql("SELECT count(*) FROM people") == [(kept,)]


def test_a_thousand_updates_in_one_body_are_one_transaction(web, sql):
    message = {"to": f"+{PHONE}", "phone_number_id": ME}
    changes = [meta.status_change(message, f"wamid.{n}", "sent") for n in range(1000)]

    assert post(web, meta.wire_bytes(meta.envelope(changes))) == 200
    assert sql("SELECT count(*), count(DISTINCT xmin::text) FROM inbound_events") == [(1000, 1)]


def test_a_repeat_changes_nothing_and_wakes_nobody(web, app, sql):
    assert [post(web, GOOD), post(web, GOOD), post(web, GOOD)] == [200, 200, 200]
    assert stored(sql) == 1
    assert app.hints.rung.acquire(timeout=60)
    assert not app.hints.rung.acquire(timeout=0.5)


def test_while_the_ledger_is_away_the_provider_is_asked_to_repeat(web, app, ledger, sql):
    away = connect("postgresql+psycopg://x@127.0.0.1:1/x")
    app.__dict__["inbound"] = Inbound(PostgresLedger(away, ledger.vault))
    status, _, headers = call(web, "POST", PATH, GOOD, [(PROOF, f"sha256={HEX}")])
    away.dispose()

    assert (status, headers["retry-after"]) == (503, "5")

    app.__dict__["inbound"] = Inbound(ledger)
    assert (post(web, GOOD), stored(sql)) == (200, 1)


def test_statement_54_without_a_secret_no_webhook_is_believed(web, app):
    app.settings = app.settings.model_copy(update={"whatsapp_app_secret": None})
    del app.accounts  # made from the settings of before

    assert post(web, GOOD, "") == 503


@pytest.mark.parametrize("path", ["/webhooks/whatsapp/other", "/webhooks/email/default", "/webhooks/x/default"])
def test_an_account_without_a_webhook_is_not_found(web, path):
    assert post(web, GOOD, path=path) == 404
    assert call(web, "GET", f"{path}?hub.mode=subscribe&hub.verify_token=verify-me&hub.challenge=1")[0] == 404


def ask(port, **changes):
    query = {"hub.mode": "subscribe", "hub.verify_token": "verify-me", "hub.challenge": "1158201444"} | {
        name.replace("_", ".", 1): value for name, value in changes.items()
    }
    return call(port, "GET", f"{PATH}?" + "&".join(f"{name}={value}" for name, value in query.items()))


def test_statement_05_the_challenge_is_echoed_as_plain_text(web):
    status, body, headers = ask(web)

    assert (status, body) == (200, b"1158201444")
    assert headers["content-type"].startswith("text/plain")
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"hub_verify_token": "wrong"}, 403),
        ({"hub_verify_token": ""}, 403),
        ({"hub_verify_token": "verify-m%C3%A9"}, 403),
        ({"hub_verify_token": "%ED%A0%80"}, 403),
        ({"hub_mode": "unsubscribe"}, 403),
        ({"hub_challenge": ""}, 400),
        ({"hub_challenge": "1" * 201}, 400),
        ({"hub_challenge": "%3Cscript%3E"}, 400),
        ({"hub_challenge": "1%0d%0aX-A:1"}, 400),
    ],
)
def test_statement_05_a_wrong_challenge_gets_no_echo(web, changes, status):
    found, body, _ = ask(web, **changes)

    assert found == status
    assert b"script" not in body


def crm_events(id_, *kinds):
    return json.dumps({
        "data": {"eventos": [
            {"id": f"ev-{n}", "tipo": kind, "em": "2026-11-22T12:00:00Z", "motivo": "spam",
             "lead": {"external_id": str(id_), "id": "LEAD-1"}}
            for n, kind in enumerate(kinds)
        ]}
    }).encode()  # fmt: skip


def from_crm(port, crm_form, body, secret=CRM_SECRET):
    proof = signature(body, crm_form.webhook.signature, secret)
    return call(port, "POST", "/webhooks/crm/default", body, [("x-crm-signature", proof)])[0]


@pytest.mark.parametrize(
    ("kind", "state", "progress"),
    [("lead.recebido", "succeeded", "delivered"), ("lead.recusado", "dead", "failed"), ("lead.lido", "ready", None)],
)
def test_a_form_describes_the_webhooks_of_a_provider_that_no_code_knows(
    web, app, ledger, archive, crm_form, kind, state, progress
):
    id_ = ledger.open([new(lead())])[0].id

    assert from_crm(web, crm_form, crm_events(id_, kind)) == 200

    app.inbound.absorb(most=10)
    assert (archive.find(id_).state, archive.find(id_).progress) == (state, progress)


def test_a_described_webhook_is_proved_like_any_other(web, crm_form, sql):
    body = crm_events("0193e0a0-0000-7000-8000-000000000001", "lead.recebido")

    assert from_crm(web, crm_form, body, "another") == 401
    assert from_crm(web, crm_form, body + b" " * 1000) == 413
    assert from_crm(web, crm_form, json.dumps({"data": {"eventos": [{"id": 1}, 2]}}).encode()) == 200
    assert stored(sql) == 0


def test_what_comes_from_another_network_is_refused(web, app, crm_form, sql):
    elsewhere = [ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")]
    form = crm_form.webhook.model_copy(update={"networks": tuple(elsewhere)})
    app.__dict__["specs"] = app.specs | {"crm": crm_form.model_copy(update={"webhook": form})}

    assert from_crm(web, crm_form, crm_events("0193e0a0-0000-7000-8000-000000000001", "lead.recebido")) == 403
    assert stored(sql) == 0


@pytest.mark.parametrize("told", ["203.0.113.9", "banana", "203.0.113.9, 203.0.113.9"])
def test_a_network_is_not_got_round_by_a_header(web, app, crm_form, sql, told):
    form = crm_form.webhook.model_copy(update={"networks": (ip_network("203.0.113.0/24"),)})
    app.__dict__["specs"] = app.specs | {"crm": crm_form.model_copy(update={"webhook": form})}
    body = crm_events("0193e0a0-0000-7000-8000-000000000001", "lead.recebido")
    proof = signature(body, crm_form.webhook.signature, CRM_SECRET)
    headers = [("x-crm-signature", proof), ("X-Forwarded-For", told)]

    assert call(web, "POST", "/webhooks/crm/default", body, headers)[0] == 403
    assert stored(sql) == 0


def send(standins, id_):
    text = {"messaging_product": "whatsapp", "to": f"+{PHONE}", "type": "text", "text": {"body": "Olá"}}
    headers = [("Authorization", f"Bearer {GraphCredentials().access_token}")]
    body = json.dumps(text | {"biz_opaque_callback_data": str(id_)}).encode()
    return json.loads(call(standins.graph.port, "POST", f"/v26.0/{ME}/messages", body, headers)[1])["messages"][0]["id"]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_what_the_stand_in_tells_is_heard_although_the_ledger_was_away(web, app, ledger, archive, sql):
    id_ = ledger.open([new(SendWhatsApp(to=f"+{PHONE}", text="Olá"))])[0].id
    (claimed,) = claim(ledger, id_)
    nowhere = connect("postgresql+psycopg://x@127.0.0.1:1/x")
    app.__dict__["inbound"] = Inbound(PostgresLedger(nowhere, ledger.vault))
    url = f"http://127.0.0.1:{web}{PATH}"
    telling = meta.Telling(url=url, app_secret=NEW, step_s=0.05, repeat=3, shuffle=True, most=2)
    with Standins(telling=telling) as standins:
        ledger.settle([Settlement(claimed, Succeeded(Receipt(send(standins, id_))))])
        standins.control("graph").hear({"from": PHONE, "text": "SAIR"})
        time.sleep(0.5)
        app.__dict__["inbound"] = Inbound(ledger)
        wait_for(lambda: stored(sql) == 4)
    nowhere.dispose()

    app.inbound.absorb(most=100)

    assert archive.find(id_).progress == "read"
    assert sql("SELECT stopped FROM opt_outs") == [(True,)]
    assert stored(sql) == 4
