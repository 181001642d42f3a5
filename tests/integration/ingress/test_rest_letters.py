"""The REST door for operators, and simulations, against a real server and a real ledger."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from delivery.inbound import Event
from delivery.outcomes import Receipt, Rejected, Succeeded
from delivery.ports import Settlement
from delivery.producers import ProducerPolicy
from ledger.operating import Desk
from ledger.producers import Producers
from tests.integration.conftest import claim, lead, letter, new
from tests.integration.ingress.test_rest_submit import EMAIL, LEAD, WHATSAPP

WHY = {"reason": "campo corrigido"}
NOBODYS = "0193e0a0-0000-7000-8000-000000000001"

NOW = datetime.now(UTC)


def dead(ledger, *commands, code="invalid"):
    ids = sorted(each.id for each in ledger.open([new(command) for command in commands]))
    ledger.settle([Settlement(each, Rejected(code, "the CRM said no")) for each in claim(ledger, *ids)])
    return [str(each) for each in ids]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/dead-letters"),
        ("GET", "/v1/dead-letters/summary"),
        ("GET", f"/v1/dead-letters/{NOBODYS}"),
        ("GET", "/v1/replays"),
        ("POST", "/v1/dead-letters/replay"),
        ("POST", f"/v1/dead-letters/{NOBODYS}/edit"),
        ("POST", f"/v1/dead-letters/{NOBODYS}/discard"),
        ("POST", f"/v1/deliveries/{NOBODYS}/replay"),
    ],
)
def test_only_operators_touch_dead_letters(door, method, path):
    assert door.with_key("loja", "submit", "read").ask(method, path, json={}).status_code == 403


def test_dead_letters_are_listed_and_counted(door, ledger):
    (first,) = dead(ledger, lead(1))
    dead(ledger, letter(2), code="forbidden")

    listed = door.get("/v1/dead-letters?code=invalid&newer_than_s=600").json()
    piles = door.get("/v1/dead-letters/summary").json()

    assert [each["id"] for each in listed["items"]] == [first]
    assert {(each["account"], each["code"], each["count"]) for each in piles} == {
        ("crm:default", "invalid", 1),
        ("email:default", "forbidden", 1),
    }


def test_a_payload_is_shown_masked_and_the_look_is_on_record(door, ledger, sql):
    (id_,) = dead(ledger, lead())

    shown = door.with_key("suporte", "operate").get(f"/v1/dead-letters/{id_}?reason=o+cliente+ligou")

    assert shown.json()["payload"]["email"] == "a***@exemplo.com.br"
    assert "Ana Teste" not in shown.text
    last = shown.json()["history"][-1]
    (key,) = sql("SELECT id FROM api_keys")[0]
    assert (last["actor"], last["action"], last["reason"]) == (f"key:suporte#{key}", "viewed", "o cliente ligou")


def test_a_letter_is_replayed_once(door, ledger):
    (id_,) = dead(ledger, lead())

    answers = [door.post(f"/v1/deliveries/{id_}/replay", WHY) for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 409]
    assert answers[0].json() == {"id": id_, "state": "ready"}
    assert door.voice.sent == [UUID(id_)]


def test_a_discarded_letter_is_canceled(door, ledger, archive):
    (id_,) = dead(ledger, lead())

    answers = [door.post(f"/v1/dead-letters/{id_}/discard", WHY) for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 409]
    assert archive.find(UUID(id_)).code == "discarded"


def test_a_bulk_replay_counts_first_and_acts_when_told(door, ledger):
    dead(ledger, lead(1), lead(2), letter(3))
    asked = WHY | {"filter": {"kind": "create_lead"}, "pace": 0.5, "stop_after": {"above": 5, "unit": "errors"}}

    preview = door.post("/v1/dead-letters/replay", asked).json()
    done = door.post("/v1/dead-letters/replay", asked | {"preview": False}).json()

    assert preview == {"matching": 2, "replayed": 0, "replay": None}
    assert (done["matching"], done["replayed"], len(door.voice.sent)) == (2, 2, 1)
    (listed,) = door.get("/v1/replays").json()
    assert (listed["id"], listed["pace"], listed["actor"], listed["total"]) == (done["replay"], 0.5, "key:bootstrap", 2)


def test_an_edit_takes_the_letters_place_once(door, ledger, archive):
    (id_,) = dead(ledger, lead())
    asked = WHY | {"changes": {"nome": "Bia Teste", "empresa": None}}

    first, second = (door.post(f"/v1/dead-letters/{id_}/edit", asked) for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 409)
    assert first.json()["after"]["nome"] == "***"
    fresh, old = archive.search()
    assert (str(fresh.id), fresh.replay_of, old.state) == (first.json()["receipt"]["id"], UUID(id_), "canceled")
    assert claim(ledger, fresh.id)[0].order.command.nome == "Bia Teste"


def test_what_may_have_arrived_is_edited_only_with_anyway(door, ledger):
    (id_,) = dead(ledger, letter(), code="unconfirmed")
    asked = WHY | {"changes": {"subject": "Outro teste"}}

    answers = [door.post(f"/v1/dead-letters/{id_}/edit", asked | more) for more in ({}, {"anyway": True})]

    assert [each.status_code for each in answers] == [409, 202]
    assert answers[0].json()["error"]["code"] == "may_exist"


def test_a_wrong_edit_names_the_field_and_changes_nothing(door, ledger, archive):
    (id_,) = dead(ledger, lead())

    answer = door.post(f"/v1/dead-letters/{id_}/edit", WHY | {"changes": {"email": "errado"}})

    assert (answer.status_code, answer.json()["error"]["details"][0]["field"]) == (422, "email")
    assert archive.find(UUID(id_)).state == "dead"


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "a\nb"}, {"reason": "x", "more": 1}, {"reason": 7}])
def test_an_action_needs_a_reason(door, ledger, body):
    (id_,) = dead(ledger, lead())

    assert door.post(f"/v1/dead-letters/{id_}/discard", body).status_code == 422


@pytest.mark.parametrize(
    ("path", "kind", "body", "hidden", "method"),
    [
        ("/v1/leads", "create_lead", LEAD, "Ana Teste", "POST"),
        ("/v1/whatsapp", "send_whatsapp", WHATSAPP, "5511999990001", "POST"),
        ("/v1/emails", "send_email", EMAIL, "ana.teste", "SMTP"),
    ],
)
def test_a_simulation_shows_the_masked_wire_and_writes_nothing(door, archive, path, kind, body, hidden, method):
    by_option = door.post(path, body | {"options": {"dry_run": True}})
    by_route = door.post("/v1/simulate", {"kind": kind, **body})

    found = by_option.json()
    assert (by_option.status_code, by_route.status_code) == (200, 200)
    assert (found["would"], found["simulated"], found["wire"]["method"]) == ("send", True, method)
    assert (found["breaker"]["state"], found["duplicate_of"]) == ("closed", None)
    assert hidden not in by_option.text + by_route.text
    assert "invented" not in by_option.text
    assert archive.search() == []
    assert door.voice.sent == []


def test_a_simulation_knows_repeats_conflicts_pauses_and_times(door, database):
    first = door.post("/v1/leads", LEAD, headers={"Idempotency-Key": "k1"}).json()["id"]

    def simulated(body, **more):
        return door.post("/v1/simulate", {"kind": "create_lead", **body}, **more).json()

    repeat = simulated(LEAD, headers={"Idempotency-Key": "k1"})
    conflict = simulated(LEAD | {"nome": "Bia Teste"}, headers={"Idempotency-Key": "k1"})
    soon = (datetime.now(UTC) + timedelta(days=9)).strftime("%Y-%m-%dT00:00:00Z")
    later = simulated(LEAD | {"nome": "Caio Teste", "options": {"send_at": soon}})
    Desk(database, actor="ana").pause("crm:default", reason="the CRM moves tonight")
    held = simulated(LEAD | {"nome": "Caio Teste"})

    assert (repeat["would"], repeat["duplicate_of"]) == ("repeat", first)
    assert conflict["would"] == "conflict"
    assert (later["would"], later["go_at"]) == ("wait", soon)
    assert (held["would"], held["why"]) == ("hold", "the CRM moves tonight")


def test_a_simulation_knows_wishes_windows_and_what_is_left_of_the_caps(door, database, inbound):
    template = {"to": WHATSAPP["to"], "template": {"name": "oferta", "language": "pt_BR"}}

    def simulated(body):
        return door.post("/v1/simulate", {"kind": "send_whatsapp", **body}).json()

    Producers(database, "ana").set("bootstrap", ProducerPolicy(per_day=3), reason="a first day")
    unknown = simulated(WHATSAPP)
    person = {"at": NOW, "person": WHATSAPP["to"]}
    inbound.keep("whatsapp:default", [Event("m1", "message", window_until=NOW + timedelta(hours=24), **person)])
    inbound.keep("whatsapp:default", [Event("w1", "consent", consent="stop", **person)])
    inbound.absorb(most=10)
    door.post("/v1/leads", LEAD)
    answered, refused = simulated(WHATSAPP), simulated(template)

    assert (unknown["would"], unknown["person"]["window_needed"], unknown["person"]["window_until"]) == (
        "send",
        True,
        None,
    )
    assert "template" in unknown["why"]
    assert unknown["quota"] == [{"cap": "per_day", "used": 0, "allowed": 3}]
    assert (answered["would"], answered["why"], answered["person"]["opted_out"]) == ("send", None, True)
    assert datetime.fromisoformat(answered["person"]["window_until"]) == NOW + timedelta(hours=24)
    assert answered["quota"] == [{"cap": "per_day", "used": 1, "allowed": 3}]
    assert (refused["would"], refused["person"]["window_needed"]) == ("fail", False)
    assert "marketing" in refused["why"]


def test_a_producer_learns_nothing_of_people_whom_it_never_reached(door, ledger, inbound):
    template = {"kind": "send_whatsapp", "to": WHATSAPP["to"], "template": {"name": "oferta", "language": "pt_BR"}}
    shop, other = door.with_key("loja", "submit"), door.with_key("outra", "submit")
    person = {"at": NOW, "person": WHATSAPP["to"]}
    inbound.keep("whatsapp:default", [Event("m1", "message", window_until=NOW + timedelta(hours=24), **person)])
    inbound.keep("whatsapp:default", [Event("w1", "consent", consent="stop", **person)])
    inbound.absorb(most=10)

    def told(key):
        text = key.post("/v1/simulate", {"kind": "send_whatsapp", **WHATSAPP}).json()
        marketing = key.post("/v1/simulate", template).json()
        return text["person"]["opted_out"], text["person"]["window_until"] is not None, marketing["would"]

    before = told(shop)
    (claimed,) = claim(ledger, UUID(shop.post("/v1/whatsapp", WHATSAPP | {"text": "Oi!"}).json()["id"]))
    under_way = told(shop)
    ledger.settle([Settlement(claimed, Succeeded(Receipt("wamid.1")))])

    assert (before, under_way, told(shop)) == ((False, False, "send"), (False, False, "send"), (True, True, "fail"))
    assert (told(other), told(door)) == ((False, False, "send"), (True, True, "fail"))


def test_a_wrong_account_does_not_tell_which_there_are(door):
    answer = door.post("/v1/simulate", {"kind": "create_lead", **LEAD, "options": {"account": "norte"}})

    assert answer.status_code == 422
    assert "default" not in answer.text


def test_a_simulation_of_what_is_no_command_is_refused(door):
    assert door.post("/v1/simulate", {"kind": "create_lead", "nome": "Ana"}).status_code == 422
    assert door.post("/v1/simulate", {"kind": "nada"}).status_code == 422
