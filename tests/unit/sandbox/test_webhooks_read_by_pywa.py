"""Three readers of one wire: what our stand-in sends, pywa and our own parser read alike.

pywa is a client library of others for the same API; where it and we agree, a shape is not only our own idea.
"""

import json
from datetime import UTC, datetime

import pytest
from pywa import WhatsApp
from pywa.types.base_update import RawUpdate

from config.policy import load_specs
from providers.whatsapp_cloud.webhooks import Reader
from sandbox import graph_webhooks as standin

ME, PHONE = "100000000000001", "5511999990001"
DELIVERY = "0193e0a0-0000-7000-8000-000000000001"
SENT = {"to": f"+{PHONE}", "biz_opaque_callback_data": DELIVERY, "phone_number_id": ME}
QUOTED = {"from": "5511400000000", "id": "wamid.0"}
FORM = load_specs()["whatsapp"].webhook


@pytest.fixture(scope="module")
def pywa():
    client = WhatsApp(phone_id=ME, token="invented")
    yield client
    client.api._session.close()


def by_pywa(client, body):
    update = RawUpdate(standin.wire_bytes(body), hmac_header=None, update_hash="x")
    return client._handlers_to_updates[client._get_handler_type(update)].from_update(client, update)


def by_us(body):
    wire = json.loads(standin.wire_bytes(body))
    (event,) = Reader(FORM, ME, datetime.now(UTC)).read(wire).events
    return event


def written(sort, content):
    return standin.envelope([standin.message_change(ME, PHONE, {"type": sort, sort: content, "context": QUOTED})])


@pytest.mark.parametrize("step", ["sent", "delivered", "read", "played"])
def test_a_status_is_read_alike(pywa, step):
    body = standin.envelope([standin.status_change(SENT, "wamid.1", step)])

    theirs, ours = by_pywa(pywa, body), by_us(body)

    assert (theirs.id, theirs.tracker, theirs.timestamp) == (ours.receipt, str(ours.delivery_id), ours.at)
    assert (f"+{theirs.from_user.wa_id}", theirs.from_user.bsuid) == (ours.person, ours.alias)
    assert theirs.status.value == step
    assert ours.status == {"played": "read"}.get(step, step)


@pytest.mark.parametrize("code", [131026, 131047, 131049, 131053])
def test_a_failure_is_read_alike(pywa, code):
    body = standin.envelope([standin.status_change(SENT, "wamid.1", "failed", code=code)])
    ours = by_us(body)
    # Meta leaves the contact of a failure out, says its reference; pywa cannot do without.
    body["entry"][0]["changes"][0]["value"]["contacts"] = [{"wa_id": PHONE, "profile": {"name": "Ana Teste"}}]

    theirs = by_pywa(pywa, body)

    assert (theirs.id, theirs.tracker, theirs.error.code) == (
        ours.receipt, str(ours.delivery_id), int(ours.provider_code),
    )  # fmt: skip
    assert by_us(body) == ours


@pytest.mark.parametrize(
    ("sort", "content", "fact"),
    [
        ("text", {"body": "Olá, João / ok?"}, lambda update: update.text),
        ("image", {"id": "m1", "mime_type": "image/jpeg", "sha256": "x", "caption": "Veja"}, lambda u: u.caption),
        ("document", {"id": "m1", "mime_type": "application/pdf", "sha256": "x", "caption": "Veja"},
         lambda update: update.caption),
        ("button", {"payload": "yes-1", "text": "Sim"}, lambda update: update.title),
        ("interactive", {"type": "button_reply", "button_reply": {"id": "b1", "title": "Sim"}}, lambda u: u.title),
        ("interactive", {"type": "list_reply", "list_reply": {"id": "r1", "title": "Um"}}, lambda u: u.title),
        ("location", {"latitude": -23.5, "longitude": -46.6}, lambda _: None),
        ("audio", {"id": "m1", "mime_type": "audio/ogg", "sha256": "x", "voice": True}, lambda _: None),
        ("video", {"id": "m1", "mime_type": "video/mp4", "sha256": "x"}, lambda _: None),
        ("sticker", {"id": "m1", "mime_type": "image/webp", "sha256": "x", "animated": False}, lambda _: None),
        ("reaction", {"message_id": "wamid.0", "emoji": "👍"}, lambda _: None),
    ],
)  # fmt: skip
def test_a_message_is_read_alike(pywa, sort, content, fact):
    body = written(sort, content)

    theirs, ours = by_pywa(pywa, body), by_us(body)

    assert (theirs.id, theirs.timestamp, theirs.type.value) == (ours.receipt, ours.at, sort)
    assert (f"+{theirs.from_user.wa_id}", theirs.from_user.bsuid) == (ours.person, ours.alias)
    assert (theirs.from_user.name, fact(theirs)) == (
        ours.content["written_by_contact"]["name"], ours.content["written_by_contact"]["text"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "choice"),
    [
        ({"type": "button_reply", "button_reply": {"id": "b1", "title": "Sim"}}, "b1"),
        ({"type": "list_reply", "list_reply": {"id": "r1", "title": "Um", "description": "x"}}, "r1"),
    ],
)
def test_a_choice_is_read_alike(pywa, content, choice):
    body = written("interactive", content)

    assert by_pywa(pywa, body).data == by_us(body).content["written_by_contact"]["choice"] == choice


def test_the_answers_of_a_flow_are_read_alike(pywa):
    reply = {"name": "flow", "body": "Sent", "response_json": '{"nome": "Ana", "flow_token": "t"}'}
    body = written("interactive", {"type": "nfm_reply", "nfm_reply": reply})

    theirs, ours = by_pywa(pywa, body), by_us(body)

    assert theirs.token == "t"
    assert theirs.response | {"flow_token": "t"} == ours.content["written_by_contact"]["fields"]


@pytest.mark.parametrize("value", ["stop", "resume"])
def test_a_wish_about_marketing_is_read_alike(pywa, value):
    body = standin.envelope([standin.preference_change(ME, PHONE, value)])

    theirs, ours = by_pywa(pywa, body), by_us(body)

    assert (theirs.value.value, theirs.timestamp) == (ours.consent, ours.at)
    assert (f"+{theirs.from_user.wa_id}", theirs.from_user.bsuid) == (ours.person, ours.alias)


def test_pywa_accepts_the_signature_of_the_stand_in(pywa):
    from pywa.utils import webhook_updates_validator

    body = written("text", {"body": "Olá João / 😀"})
    wire = standin.wire_bytes(body)

    assert webhook_updates_validator(
        app_secret="invented", request_body=wire, x_hub_signature=standin.proof(wire, "invented")
    )
