"""What agents are offered, and what they are not."""

import json

import pytest

from delivery.commands import KINDS
from ingress.agent_schemas import OFFERED, command_schema, simulation_schema, unknown_fields, without

ACCOUNTS = ("crm:default", "email:default", "whatsapp:default", "whatsapp:vendas")
CHOICES = {"interesse": ("produto_a", "produto_b")}


@pytest.fixture(params=OFFERED)
def schema(request):
    return command_schema(request.param, {}, ACCOUNTS)


def objects(node):
    """Return every object schema in a schema, itself included."""
    below = [each for value in node.values() for each in (value if isinstance(value, list) else [value])]
    found = [each for one in below if isinstance(one, dict) for each in objects(one)]
    return [node, *found] if "properties" in node and "type" in node else found


def test_every_kind_of_command_has_a_tool():
    assert OFFERED.keys() == KINDS.keys()


def test_statement_42_no_object_takes_fields_that_are_not_offered(schema):
    assert [each["additionalProperties"] for each in objects(schema)] == [False] * len(objects(schema))


def test_every_field_is_explained(schema):
    fields = [field for each in objects(schema) for field in each["properties"].values()]

    assert all(len(field["description"]) >= len("One line.") for field in fields)


def test_statement_42_no_field_takes_an_address_to_call_a_header_or_a_raw_message(schema):
    names = {name for each in objects(schema) for name in each["properties"]}

    assert names.isdisjoint({"url", "callback_url", "unsubscribe_url", "headers", "message", "from", "fallback"})
    assert '"uri"' not in json.dumps(schema)


def test_a_schema_refers_to_nothing_outside_itself_and_knows_no_null(schema):
    text = json.dumps(schema)

    assert "$ref" not in text
    assert '"null"' not in text


def test_what_the_form_allows_is_the_choice_that_a_model_sees():
    schema = command_schema("create_lead", CHOICES, ACCOUNTS)

    assert schema["properties"]["interesse"]["enum"] == ["produto_a", "produto_b"]
    assert schema["required"] == ["nome", "email", "interesse"]


def test_only_accounts_of_the_service_can_be_chosen():
    options = command_schema("send_whatsapp", {}, ACCOUNTS)["properties"]["options"]

    assert options["properties"]["account"]["enum"] == ["whatsapp:default", "whatsapp:vendas"]


def test_media_needs_an_upload_because_links_are_not_taken():
    media = command_schema("send_whatsapp", {}, ACCOUNTS)["properties"]["media"]

    assert media["required"] == ["type", "id"]


def test_a_simulation_takes_what_the_tools_take_and_repeats_no_words():
    commands = {kind: command_schema(kind, CHOICES, ACCOUNTS) for kind in OFFERED}

    offered = simulation_schema(commands)["properties"]["arguments"]["anyOf"]

    assert [without(each, "title") for each in offered] == [without(each, "description") for each in commands.values()]


@pytest.mark.parametrize(
    ("kind", "arguments", "unknown"),
    [
        ("create_lead", {"nome": "Ana Teste", "options": {"key": "k1"}}, []),
        ("send_whatsapp", {"media": {"type": "image", "url": "http://x"}}, ["media.url"]),
        ("send_whatsapp", {"message": {"type": "text"}}, ["message"]),
        ("send_email", {"headers": {}, "from": "a@b.c"}, ["headers", "from"]),
        ("send_email", {"options": {"fallback": {}, "callback_url": "http://x"}},
         ["options.fallback", "options.callback_url"]),
        ("create_lead", {"ana teste\n": 1, "options": "none"}, ["ana?teste?"]),
    ],
)  # fmt: skip
def test_a_field_that_is_not_offered_is_named(kind, arguments, unknown):
    found = unknown_fields(arguments, command_schema(kind, {}, ACCOUNTS))

    assert list(found) == unknown
