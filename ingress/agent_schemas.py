"""What the tools of the MCP door take: JSON Schemas made from the command models, cut down to what an agent may say.

The tables are lists of what is offered, so a field that a command gains later stays hidden here until somebody writes a
description for it. Left out on purpose: addresses that our servers or the provider would fetch or call (`media.url`,
`callback_url`, `unsubscribe_url`), raw messages and headers (`message`, `headers`), the sender (`from`), files that a
model would have to spell out, and options that weaken a promise (`on_uncertain`) or hide a second command (`fallback`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from delivery.commands import KINDS

Schema = dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """An object that is offered in part.

    Attributes:
        fields: Each field that may be given, with what a model should know of it.
        needs: Fields that must be given although the command's model does not ask for them.
    """

    says: str
    fields: Mapping[str, "str | Offer"]
    needs: tuple[str, ...] = ()


_OPTIONS = Offer(
    "How to deliver. Usually only `key` is worth giving.",
    {
        "key": "Idempotency key: one word that names this very request, e.g. the conversation's id and a counter "
        "('conv-4711-1'). Repeat a call only with the same key and the same arguments: both then stand for one "
        "delivery. Use a new key only for a new wish of the person.",
        "account": "Which account sends; leave it out for the default one.",
        "send_at": "Send no earlier than this instant (RFC 3339 with time zone).",
        "expires_at": "Do not send after this instant (RFC 3339 with time zone).",
        "priority": "Only `high` for something the person is waiting for right now.",
        "order_key": "Requests with the same word are delivered one after the other, in the order of the calls.",
    },
)

OFFERED: Mapping[str, Mapping[str, str | Offer]] = {
    "create_lead": {
        "nome": "The person's full name, as they wrote it.",
        "email": "The person's e-mail address.",
        "telefone": "International form with country code, e.g. +5511999999999. Ask; do not guess the country.",
        "empresa": "The company they work for.",
        "cargo": "Their position there.",
        "interesse": "What they are interested in.",
        "origem": "Where the lead comes from; leave it out unless you were told another word.",
        "observacoes": "What a salesperson should know, in your own words.",
        "tags": "A few short labels, only such as you were told to use.",
        "options": _OPTIONS,
    },
    "send_whatsapp": {
        "to": "International form with country code, e.g. +5511999999999, or a business-scoped user id.",
        "text": "Free text. It reaches only people who wrote to us in the last 24 hours; use a template for others.",
        "template": Offer(
            "An approved template; needed when the person has not written in the last 24 hours.",
            {
                "name": "The template's name, exactly as approved. Never invent one.",
                "language": "The language it was approved in.",
                "variables": "What fills it: a list for {{1}}, {{2}}, or an object for named variables.",
            },
        ),
        "media": Offer(
            "A file that was uploaded to Meta before, by other means than these tools. Links are not taken here.",
            {
                "type": "What kind of file it is.",
                "id": "The id that Meta gave the upload.",
                "caption": "Text below it.",
                "filename": "The name that the person sees, for documents.",
            },
            needs=("id",),
        ),
        "reply_to": "Id (wamid...) of the person's message that this answers.",
        "options": _OPTIONS,
    },
    "send_email": {
        "to": "Who gets it. Each address that the person gave, none that you guessed.",
        "cc": "Visible copies.",
        "bcc": "Hidden copies.",
        "reply_to": "Where answers go, if not to the sender.",
        "subject": "One line.",
        "text": "The message as plain text. Give this, `html`, or both.",
        "html": "The message as HTML.",
        "options": _OPTIONS,
    },
}

ID: Schema = {"type": "string", "format": "uuid", "description": "The `id` of the receipt."}
CHECK: Schema = {
    "type": "object",
    "properties": {
        "id": ID,
        "wait_s": {
            "type": "integer",
            "minimum": 0,
            "maximum": 20,
            "default": 0,
            "description": "Wait up to so many seconds for news before answering; spares you from asking again.",
        },
    },
    "required": ["id"],
    "additionalProperties": False,
}
CANCEL: Schema = {
    "type": "object",
    "properties": {
        "id": ID,
        "reason": {
            "type": "string",
            "minLength": 1,
            "maxLength": 300,
            "pattern": r"^[^\x00-\x1f\x7f]+$",
            "description": "Why, in a few words for the audit trail. No names, numbers or addresses.",
        },
    },
    "required": ["id", "reason"],
    "additionalProperties": False,
}


def command_schema(kind: str, choices: Mapping[str, tuple[str, ...]], accounts: tuple[str, ...]) -> Schema:
    """Return what the tool of this kind takes.

    Args:
        choices: Values that the spec allows for a field, e.g. {"interesse": ("produto_a", "produto_b")}.
        accounts: Every known account; those of this kind's service become the choice of `options.account`.
    """
    model = KINDS[kind]
    made = model.model_json_schema()
    schema = _offered(_plain(made, made.get("$defs", {})), Offer("", OFFERED[kind]))
    mine = [each for each in accounts if each.startswith(f"{model.service}:")]
    schema["properties"]["options"]["properties"]["account"]["enum"] = mine
    for field in choices.keys() & schema["properties"].keys():
        schema["properties"][field]["enum"] = list(choices[field])
    return schema


def simulation_schema(commands: Mapping[str, Schema]) -> Schema:
    """Return what `simulate` takes: a tool's name, and what that tool takes, without the words said there already."""
    return {
        "type": "object",
        "properties": {
            "tool": {"enum": list(commands), "type": "string", "description": "The tool you would call."},
            "arguments": {
                "description": "Exactly what you would give to it.",
                "anyOf": [{**without(schema, "description"), "title": kind} for kind, schema in commands.items()],
            },
        },
        "required": ["tool", "arguments"],
        "additionalProperties": False,
    }


def unknown_fields(arguments: Mapping[str, Any], schema: Schema, before: str = "") -> Iterator[str]:
    """Give the path of every field that a schema of ours does not offer."""
    for name, value in arguments.items():
        offered = schema["properties"].get(name)
        if offered is None:
            # A name from outside may itself be personal data: keep what a field's name can hold.
            yield re.sub(r"[^\w.@-]", "?", before + name)[:80]
        elif isinstance(value, Mapping) and "properties" in offered:
            yield from unknown_fields(value, offered, f"{before}{name}.")


def without(node: Any, *names: str) -> Any:
    """Return a schema without these keywords, at any depth."""
    if isinstance(node, list):
        return [without(each, *names) for each in node]
    if not isinstance(node, dict):
        return node
    return {name: without(value, *names) for name, value in node.items() if name not in names}


def _offered(schema: Schema, offer: Offer) -> Schema:
    """Return the schema of an object with the offered fields alone, each with its description."""
    known = schema["properties"]
    properties = {name: _described(known[name], says) for name, says in offer.fields.items()}
    required = [name for name in offer.fields if name in (*schema.get("required", ()), *offer.needs)]
    made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**made, "required": required} if required else made


def _described(schema: Schema, says: "str | Offer") -> Schema:
    if isinstance(says, Offer):
        return {**_offered(schema, says), "description": says.says}
    return {**schema, "description": says}


def _plain(node: Any, definitions: Schema) -> Any:
    """Return a pydantic schema in the little that every client knows: no references, no nulls, no titles."""
    if isinstance(node, list):
        return [_plain(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(definitions[node["$ref"].rpartition("/")[2]], definitions)
    given = [each for each in node.get("anyOf", ()) if each != {"type": "null"}]
    if len(given) == 1:
        return _plain({**{name: value for name, value in node.items() if name != "anyOf"}, **given[0]}, definitions)
    return {
        name: _plain(value, definitions)
        for name, value in node.items()
        if name not in {"$defs", "title", "description"} and not (name == "default" and not isinstance(value, str))
    }
