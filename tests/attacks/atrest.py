"""Attacks on what lies still: a stolen dump, another account of the machine, an old webhook, a changed history."""

import base64
import json
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from celery import Celery

from ingress.system import addresses
from sandbox import graph_webhooks as meta
from sandbox.graph import GraphCredentials
from tests.attacks.target import Target, Verdict
from tests.others import readable_by_others

_ME = GraphCredentials().phone_number_id
_PHONE = "5511987650142"
_CANARIES = ("zefirina.ataque", "piu-piu-atacado", "Ataque Canarinho", _PHONE)
# What a foreign client puts on the broker stands there, and in Valkey's own file, until it is taken: its own doing.
_FOREIGN = ("quiteria.ataque", "segredo-atacado")
_FOREIGN_LEAD = {"nome": "Quitéria", "email": "quiteria.ataque@exemplo.com.br", "interesse": "produto_a",
                 "observacoes": "segredo-atacado"}  # fmt: skip
_ADDRESS = "zefirina.ataque@exemplo.com.br"
_LEAD = {"nome": "Zefirina Ataque Canarinho", "email": _ADDRESS, "telefone": f"+{_PHONE}", "interesse": "produto_a",
         "observacoes": "piu-piu-atacado"}  # fmt: skip
_MAIL = {"to": _ADDRESS, "subject": "Ataque Canarinho", "text": "piu-piu-atacado"}


def stolen_files(target: Target) -> Verdict:
    """Hand canaries over at every door, then look for them wherever something is kept or shown."""
    count = "SELECT count(*) FROM deliveries"
    before = target.sql(count)[0][0]
    ids = _spread_canaries(target)
    accepted = target.until(lambda: target.sql(count)[0][0] >= before + len(ids) + 2)
    target.until(lambda: all(target.state(each) in ("succeeded", "canceled") for each in ids))
    target.until(lambda: target.sql("SELECT 1 FROM inbound_events WHERE kind = 'message' AND worked_at IS NOT NULL"))
    places = dict(_places(target, ids))
    files = "".join(each.read_bytes().decode("latin-1") for each in target.folder.glob("valkey/**/*") if each.is_file())
    seen = [
        f"{word} in {where}" for where, text in places.items() for word in _CANARIES + _FOREIGN if _shows(text, word)
    ]
    seen += [f"{word} in Valkey's files" for word in _CANARIES if _shows(files, word)]
    size = sum(map(len, places.values())) / 1e6
    opened = target.sql(count)[0][0] - before
    return Verdict(
        "canaries at every door, then a search of dump, files, logs and pages",
        ", ".join(seen) or f"none in {size:.1f} MB of {len(places) + 1} places; {opened} deliveries opened",
        "none",
        passed=bool(accepted and not seen and all(places.values())),
    )


def _spread_canaries(target: Target) -> list[str]:
    key = {"options": {"key": f"lead-{_ADDRESS}"}}
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    asked = [
        target.ask("POST", "/v1/leads", _LEAD | key),
        target.ask("POST", "/v1/whatsapp", {"to": f"+{_PHONE}", "text": "piu-piu-atacado"}),
        target.ask("POST", "/v1/emails", _MAIL),
        target.ask("POST", "/v1/leads", _LEAD | {"options": {"send_at": tomorrow}}),
    ]
    ids = [str(each.body["id"]) for each in asked]
    why = {"reason": f"{_ADDRESS} desistiu, +{_PHONE}"}
    target.ask("POST", f"/v1/deliveries/{ids[-1]}/cancel", why)
    call = {"name": "create_lead", "arguments": {**_LEAD, "observacoes": "piu-piu-atacado por um agente"}}
    target.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
               headers={"Accept": "application/json, text/event-stream"})  # fmt: skip
    with Celery("stranger", broker=addresses(target.system)["celery_clients"], set_as_current=False) as stranger:
        stranger.send_task("create_lead", kwargs=_FOREIGN_LEAD)
        stranger.send_task("no_such_task", kwargs=_FOREIGN_LEAD)
    target.standins["graph"].hear({"from": _PHONE, "text": "piu-piu-atacado"})
    return ids


def _places(target: Target, ids: list[str]) -> Iterator[tuple[str, str]]:
    tables = [
        row[0] for row in target.sql("SELECT table_name FROM information_schema.tables WHERE table_schema='public'")
    ]
    rows = [row[0] for each in tables for row in target.sql(f'SELECT t::text FROM "{each}" t')]  # noqa: S608 - ours
    yield "Postgres", "\n".join(rows)
    with redis.Redis.from_url(target.redis_url) as client:
        kept = [f"{key!r} {_value(client, key)!r}" for key in client.scan_iter()]
    yield "Valkey", "\n".join(["Valkey", *kept])
    logs = [*target.folder.glob("*.log"), *target.folder.glob("logs/*.log")]
    yield "logs", "\n".join(each.read_text(errors="replace") for each in logs)
    shown = [target.ask("GET", path).body for path in ("/v1/deliveries", *(f"/v1/deliveries/{each}" for each in ids))]
    yield "REST", json.dumps(shown, ensure_ascii=False)
    yield "metrics", str(target.ask("GET", "/metrics").body)
    yield "command line", json.dumps(target.entrega("deliveries"), ensure_ascii=False)
    yield "Flower", _flower(target)


def _value(client: Any, key: bytes) -> object:
    readers = {
        b"string": client.get, b"list": lambda key: client.lrange(key, 0, -1), b"hash": client.hgetall,
        b"set": client.smembers, b"zset": lambda key: client.zrange(key, 0, -1), b"stream": client.xrange,
    }  # fmt: skip
    read = readers.get(client.type(key))
    return read(key) if read else b""


def _flower(target: Target) -> str:
    found = addresses(target.system)
    login = base64.b64encode(_flower_login(target).encode()).decode()
    request = urllib.request.Request(
        f"{found['flower']}/api/tasks?limit=1000", headers={"Authorization": f"Basic {login}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def _flower_login(target: Target) -> str:
    return f"operator:{(target.folder / 'flower.password').read_text().strip()}"


def _shows(text: str, word: str) -> bool:
    """Tell whether a word shows: plain, as hexadecimal bytes, or in any of its three base64 forms."""
    shifted = (base64.b64encode(bytes(n) + word.encode()).decode()[4:-4] for n in range(3))
    folded = text.casefold()
    return any(each.casefold() in folded for each in (word, word.encode().hex())) or any(
        each in text for each in shifted
    )


def another_account(target: Target) -> Verdict:
    """Read the data folder as another account of the machine."""
    found = [each.removeprefix(str(target.folder)) for each in readable_by_others(target.folder)]
    private = [each for each in found if not re.fullmatch(r"/postgres/?", each)]
    return Verdict(
        "another account reads the data folder",
        ", ".join(private[:5]) or f"nothing readable of {sum(1 for _ in target.folder.rglob('*'))} files and folders",
        "nothing",
        passed=not private,
    )


def erased_and_played_again(target: Target) -> Verdict:
    """Send a signed webhook, erase its writer, and send the same bytes again, and those of 400 days ago."""
    person = "5511987650143"
    fresh, old = _said(person, time.time()), _said(person, time.time() - 400 * 86400)
    kept = "SELECT (SELECT count(*) FROM people), (SELECT count(*) FROM inbound_events WHERE kind = 'message')"
    before = target.sql(kept)
    stored = _tell(target, fresh)
    told = target.sql(kept)
    target.entrega("erase", "--yes", typed=f"+{person}\n")
    answers = [_tell(target, fresh), _tell(target, old)]
    after = target.sql(kept)
    return Verdict(
        "an erased person's webhook again, and one of 400 days ago",
        f"stored once: {told != before}; after the erasure {after[0][0] - before[0][0]} people, "
        f"{after[0][1] - before[0][1]} events more than before",
        "0 and 0",
        passed=(stored, answers, told != before, after == before) == (200, [200, 200], True, True),
    )


def _said(person: str, at: float) -> bytes:
    change: Mapping[str, Any] = meta.message_change(_ME, person, {"type": "text", "text": {"body": "Oi"}})
    change["value"]["messages"][0]["timestamp"] = str(int(at))
    return meta.wire_bytes(meta.envelope([dict(change)]))


def _tell(target: Target, body: bytes) -> int:
    proof = meta.proof(body, target.system.variables["WHATSAPP_APP_SECRET"])
    return target.ask("POST", "/webhooks/whatsapp/default", body, headers={"X-Hub-Signature-256": proof}).status


def history_changed(target: Target) -> Verdict:
    """Change the audit trail with the rights of the database's owner, and put it back."""
    target.until(lambda: target.sql("SELECT 1 FROM audit_chain"))
    before = target.entrega("verify")
    found = []
    for change, back in (
        ("UPDATE audit SET actor = actor || '!' WHERE id = (SELECT min(id) FROM audit)",
         "UPDATE audit SET actor = rtrim(actor, '!') WHERE id = (SELECT min(id) FROM audit)"),
        ("UPDATE audit SET at = at + interval '1 s' WHERE id = (SELECT min(id) FROM audit)",
         "UPDATE audit SET at = at - interval '1 s' WHERE id = (SELECT min(id) FROM audit)"),
        ("UPDATE audit SET id = -id WHERE id = (SELECT min(id) FROM audit)",
         "UPDATE audit SET id = -id WHERE id = (SELECT min(id) FROM audit)"),
    ):  # fmt: skip
        target.sql(change)
        found.append(target.entrega("verify") == 1)
        target.sql(back)
    after = target.entrega("verify")
    return Verdict(
        "three changes of the audit trail by the owner of the database",
        f"{sum(found)} of {len(found)} found by verify; well before and after: {before != 1 and after != 1}",
        "all found",
        passed=all(found) and before != 1 and after != 1,
    )


ATTACKS = (stolen_files, another_account, erased_and_played_again, history_changed)
