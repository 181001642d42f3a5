"""The body of a message on the wire: a command in, plain JSON out. Pure; it sends nothing and asks nobody.

Source: WhatsApp Cloud API, send messages and template components, Sep-2026, read 2026-11-22.
"""

import re
from collections.abc import Mapping
from uuid import UUID

from pydantic import JsonValue

from delivery.commands import Media, SendWhatsApp, Template
from delivery.errors import Permanent

# A phone number starts with "+"; without it the sender's own country code is put before it, and a stranger reads on.
_PHONE = "+"
# A template variable with one of these is refused by Meta for the whole message.
_UNFIT = re.compile(r"[\n\r\t]| {5,}")
_WITHOUT_CAPTION = frozenset({"audio", "sticker"})
_OURS = frozenset({"messaging_product", "recipient_type", "to", "recipient", "biz_opaque_callback_data"})

Json = dict[str, JsonValue]


def message_body(command: SendWhatsApp, delivery_id: UUID) -> Json:
    """Return the body of `POST /{phone_number_id}/messages`.

    Every status webhook echoes `biz_opaque_callback_data`, which is how a message whose answer was lost is found.

    Raises:
        Permanent: "invalid". The content can never be sent as it is.
    """
    to = "to" if command.to.startswith(_PHONE) else "recipient"
    quoted: Json = {"context": {"message_id": command.reply_to}} if command.reply_to else {}
    return {
        **_content(command),
        **quoted,
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        to: command.to,
        "biz_opaque_callback_data": str(delivery_id),
    }


def _content(command: SendWhatsApp) -> Json:
    if command.text is not None:
        return {"type": "text", "text": {"body": command.text}}
    if command.template is not None:
        return {"type": "template", "template": _template(command.template)}
    if command.media is not None:
        return {"type": command.media.type, command.media.type: _media(command.media)}
    return _own_message(command.message or {})


def _template(template: Template) -> Json:
    head: Json = {"name": template.name, "language": {"code": template.language}}
    filled = _named(template.variables) if isinstance(template.variables, dict) else _in_order(template.variables)
    return {**head, "components": [{"type": "body", "parameters": filled}]} if filled else head


def _named(variables: Mapping[str, str]) -> list[JsonValue]:
    return [
        {"type": "text", "parameter_name": name, "text": _fit(text, name)} for name, text in sorted(variables.items())
    ]


def _in_order(variables: list[str]) -> list[JsonValue]:
    return [{"type": "text", "text": _fit(text, str(place))} for place, text in enumerate(variables, start=1)]


def _fit(text: str, name: str) -> str:
    if _UNFIT.search(text):
        raise Permanent(
            f"template variable {name} holds a line break, a tab or five spaces; remove them", code="invalid"
        )
    return text


def _media(media: Media) -> Json:
    source: Json = {"id": media.id} if media.id else {"link": str(media.url)}
    if media.caption and media.type in _WITHOUT_CAPTION:
        raise Permanent(f"{media.type} carries no caption; send the text on its own", code="invalid")
    caption: Json = {"caption": media.caption} if media.caption else {}
    # Only a document shows its file name; Meta refuses the field elsewhere.
    filename: Json = {"filename": media.filename} if media.filename and media.type == "document" else {}
    return {**source, **caption, **filename}


def _own_message(message: Mapping[str, JsonValue]) -> Json:
    if "status" in message:
        raise Permanent("message marks another one as read and sends nothing; leave status out", code="invalid")
    return {name: value for name, value in message.items() if name not in _OURS}
