"""What Meta's webhooks say, read by us; the shapes are those of Meta's documentation."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from config.policy import load_specs
from delivery.inbound import Event
from providers.whatsapp_cloud.webhooks import Reader

FORM = load_specs()["whatsapp"].webhook
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
AT = str(int(NOW.timestamp()) - 60)
ME = "100000000000001"
DELIVERY = "0193e0a0-0000-7000-8000-000000000001"
SENDER = {"from": "5511999990001", "from_user_id": "BR.1502576394655843", "id": "wamid.IN1", "timestamp": AT}
CONTACT = {"profile": {"name": "Ana Teste"}, "wa_id": "5511999990001", "user_id": "BR.1502576394655843"}


def read(*changes):
    return Reader(FORM, ME, NOW).read(
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": list(changes)}]}
    )


def change(field="messages", number=ME, **value):
    return {"field": field, "value": {"metadata": {"phone_number_id": number}, **value}}


def status(word="sent", **fields):
    return {
        "id": "wamid.1", "status": word, "timestamp": AT, "recipient_id": "5511999990001",
        "biz_opaque_callback_data": DELIVERY, **fields,
    }  # fmt: skip


def one(*changes) -> Event:
    (event,) = read(*changes).events
    return event


def wrote(sort, body, **fields):
    event = one(change(messages=[{**SENDER, "type": sort, sort: body, **fields}], contacts=[CONTACT]))
    return event.content["written_by_contact"]


@pytest.mark.parametrize(
    ("word", "step"),
    [("sent", "sent"), ("delivered", "delivered"), ("read", "read"), ("played", "read"), ("held_up", None)],
)
def test_a_status_is_a_step_of_ours_and_an_unknown_one_only_a_sign_of_life(word, step):
    event = one(change(statuses=[status(word)]))

    assert (event.kind, event.status, event.receipt) == ("status", step, "wamid.1")
    assert event.delivery_id == UUID(DELIVERY)
    assert event.person == "+5511999990001"
    assert event.at == NOW - timedelta(seconds=60)


@pytest.mark.parametrize(
    ("code", "ours"), [(131026, "undeliverable"), (131049, "capped"), (131047, "window_closed"), (999999, "unknown")]
)
def test_a_failure_keeps_our_word_and_metas_code(code, ours):
    event = one(change(statuses=[status("failed", errors=[{"code": code, "title": "x"}])]))

    assert (event.status, event.code, event.provider_code) == ("failed", ours, str(code))


def test_every_entry_change_and_update_of_one_body_is_read():
    body = {
        "entry": [
            {"id": "1", "changes": [change(statuses=[status(), status("read")]), change(statuses=[status("read")])]},
            {"id": "2", "changes": [change(messages=[{**SENDER, "type": "text", "text": {"body": "Oi"}}])]},
        ]
    }  # fmt: skip

    events = Reader(FORM, ME, NOW).read(body).events

    assert [each.status or each.kind for each in events] == ["sent", "read", "read", "message"]
    assert len({each.key for each in events}) == 3


@pytest.mark.parametrize(
    "reference", [None, "order-17", 17, "0193e0a0", {"id": DELIVERY}, DELIVERY + "'; drop table deliveries"]
)
def test_a_reference_that_is_not_ours_settles_nothing(reference):
    assert one(change(statuses=[status(biz_opaque_callback_data=reference)])).delivery_id is None


@pytest.mark.parametrize(
    ("sort", "body", "text", "choice"),
    [
        ("text", {"body": "Oi, tudo bem?"}, "Oi, tudo bem?", None),
        ("button", {"payload": "yes-1", "text": "Sim"}, "Sim", "yes-1"),
        ("interactive", {"type": "button_reply", "button_reply": {"id": "b1", "title": "Sim"}}, "Sim", "b1"),
        ("interactive", {"type": "list_reply", "list_reply": {"id": "r1", "title": "Um"}}, "Um", "r1"),
        ("image", {"id": "m1", "mime_type": "image/jpeg", "caption": "Veja"}, "Veja", None),
        ("location", {"latitude": -23.5, "longitude": -46.6}, None, None),
        ("unheard_of", {"x": 1}, None, None),
    ],
)
def test_whatever_a_person_writes_has_one_shape(sort, body, text, choice):
    found = wrote(sort, body)

    assert (found["name"], found["text"], found["choice"]) == ("Ana Teste", text, choice)
    assert found["object"] == body


def test_the_answers_of_a_flow_are_opened():
    reply = {"type": "nfm_reply", "nfm_reply": {"name": "flow", "response_json": '{"nome": "Ana", "flow_token": "t"}'}}

    assert wrote("interactive", reply)["fields"] == {"nome": "Ana", "flow_token": "t"}


@pytest.mark.parametrize("text", ["{", "[" * 70_000, '{"a": ' * 900 + "1" + "}" * 900])
def test_answers_that_cannot_be_read_harm_nothing(text):
    found = wrote("interactive", {"type": "nfm_reply", "nfm_reply": {"response_json": text}})

    assert found["fields"] is None or "a" in found["fields"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\x00b\x1b[31mc", "ab[31mc"),
        ("linha 1\nlinha 2", "linha 1\nlinha 2"),
        ("ol\u200bá \u202eodnum", "olá odnum"),
        ("\ud800x", "x"),
        ("x" * 5000, "x" * 4096),
    ],
)
def test_what_a_person_wrote_is_cleaned_and_capped(text, kept):
    assert wrote("text", {"body": text})["text"] == kept


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("SAIR", "stop"), ("sair.", "stop"), (" Parar! ", "stop"), ("STOP", "stop"), ("voltar", "resume"),
        ("não quero sair agora", None), ("", None), ("pare", None),
    ],
)  # fmt: skip
def test_a_message_that_is_only_the_word_is_a_wish(text, wish):
    assert one(change(messages=[{**SENDER, "type": "text", "text": {"body": text}}])).consent == wish


def test_a_button_that_says_sair_is_a_wish_too():
    assert one(change(messages=[{**SENDER, "type": "button", "button": {"text": "Sair"}}])).consent == "stop"


@pytest.mark.parametrize("value", ["stop", "resume"])
def test_a_wish_given_in_the_app_is_a_consent_event(value):
    wish = {"wa_id": "5511999990001", "category": "marketing_messages", "value": value, "timestamp": int(AT)}

    event = one(change("user_preferences", user_preferences=[wish]))

    assert (event.kind, event.consent, event.person) == ("consent", value, "+5511999990001")


@pytest.mark.parametrize(
    ("names", "person", "alias"),
    [
        ({"from": "5511999990001"}, "+5511999990001", None),
        ({"from": "553188880001"}, "+5531988880001", None),
        ({"from": "553133330001"}, "+553133330001", None),
        ({"from": "5511999990001", "from_user_id": "BR.15"}, "+5511999990001", "BR.15"),
        ({"from_user_id": "BR.1502576394655843"}, "BR.1502576394655843", None),
    ],
)
def test_a_person_is_named_as_a_command_names_them(names, person, alias):
    event = one(change(messages=[{"id": "wamid.IN", "timestamp": AT, "type": "text", "text": {"body": "Oi"}, **names}]))

    assert (event.person, event.alias) == (person, alias)


@pytest.mark.parametrize(
    ("seconds", "until"),
    [
        (-60, NOW + timedelta(hours=24, seconds=-60)),
        (9999, NOW + timedelta(hours=24)),
        (None, NOW + timedelta(hours=24)),
    ],
)
def test_a_message_opens_a_window_that_never_counts_from_the_future(seconds, until):
    at = None if seconds is None else str(int(NOW.timestamp()) + seconds)

    event = one(change(messages=[{**SENDER, "timestamp": at, "type": "text", "text": {"body": "Oi"}}]))

    assert event.window_until == until


@pytest.mark.parametrize("sort", ["reaction", "system", "edit", "revoke"])
def test_what_is_no_message_opens_no_window(sort):
    event = one(change(messages=[{**SENDER, "type": sort, sort: {"body": "SAIR"}}]))

    assert (event.kind, event.window_until, event.consent) == ("notice", None, None)


@pytest.mark.parametrize(
    ("field", "value", "facts"),
    [
        ("message_template_status_update", {"event": "PAUSED"}, ("PAUSED", None, None)),
        ("message_template_quality_update", {"new_quality_score": "RED"}, (None, None, "RED")),
        ("template_category_update", {"new_category": "MARKETING"}, (None, "MARKETING", None)),
    ],
)
def test_news_of_templates_are_facts(field, value, facts):
    named = {"message_template_name": "boas_vindas", "message_template_language": "pt_BR", **value}

    content = one({"field": field, "value": named}).content

    assert (content["status"], content["category"], content["quality"]) == facts


def test_news_of_the_account_are_words_of_metas_lists():
    news = {"field": "account_update", "value": {"event": "VIOLATION", "violation_info": {"violation_type": "SPAM"}}}

    assert one(news).content == {"note": "account_update VIOLATION SPAM"}


def test_an_error_beside_the_messages_is_news_of_the_account():
    assert one(change(errors=[{"code": 131064, "title": "x"}])).content == {"note": "errors 131064"}


@pytest.mark.parametrize(
    ("changes", "skipped"),
    [
        ([change(number="7", statuses=[status()])], {"another number": 1}),
        ([{"field": "flows", "value": {}}], {"unknown field": 1}),
        ([change(statuses=[{"status": "sent"}, {"id": "wamid.1"}])], {"without id": 2}),
        ([change(messages=[{"id": "wamid.1", "type": "text"}])], {"without id": 1}),
    ],
)
def test_what_cannot_be_used_is_left_out_and_counted(changes, skipped):
    told = read(*changes)

    assert (told.events, dict(told.skipped)) == ([], skipped)


@pytest.mark.parametrize(
    "body",
    [None, 1, "x", [], {}, {"entry": 1},
     {"entry": [1, None, {"changes": "x"}]}, {"entry": [{"changes": [{"value": 1}]}]},
     {"entry": [{"changes": [{"field": "messages", "value": {"statuses": [1, [], {"id": [], "status": {}}]}}]}]},
     {"entry": [{"changes": [{"field": "messages", "value": {"statuses": [status(timestamp="9" * 39, errors=1)]}}]}]}],
)  # fmt: skip
def test_no_shape_stops_the_reader(body):
    Reader(FORM, ME, NOW).read(body)
