"""An edited dead letter: its new body, and what of a payload may be shown. Used by every door of the operator."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from delivery.errors import FieldIssue, InvalidCommand
from delivery.reach import fallback_of
from delivery.redaction import JsonLike, mask_value
from delivery.wording import issue_text

if TYPE_CHECKING:
    from ledger.letters import Letter

# They belonged to the old promise: a time that is past would refuse the new one.
_OPTIONS_LEFT_BEHIND = ("key", "send_at", "expires_at")


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def edited_body(letter: "Letter", changes: Mapping[str, Any], *, whole: bool, language: str) -> dict[str, Any]:
    """Return the new body: options that still make sense stay, and it goes through the same account.

    Args:
        changes: Fields by name; None takes a field out.
        whole: The changes are the whole new body, options apart.

    Raises:
        InvalidCommand: The options are no object.
    """
    given = changes.get("options")
    new_options = {} if given in (None, "null") else given
    if not isinstance(new_options, Mapping):
        raise InvalidCommand(letter.kind, (FieldIssue("options", issue_text("dict_type", language)),))
    stored = mapping(letter.stored)
    kept = {name: value for name, value in mapping(stored.get("options")).items() if name not in _OPTIONS_LEFT_BEHIND}
    body = {} if whole else dict(mapping(stored.get("content")))
    body |= {name: value for name, value in changes.items() if name != "options"}
    out = {name for name, value in changes.items() if value in (None, "null")}
    options = kept | {"account": letter.account} | dict(new_options)
    named = {name: value for name, value in options.items() if value is not None and name != "key"}
    return {name: value for name, value in body.items() if name not in out} | {"options": named}


def masked_payload(stored: Mapping[str, Any] | None) -> JsonLike:
    """Return a stored command's fields, masked; None when there is none."""
    if stored is None:
        return None
    # The fields themselves, not under their common name: whatever lies below "content" would be hidden altogether.
    return mask_value({name: value for name, value in mapping(stored.get("content")).items() if name != "options"})


def masked_fallback(stored: Mapping[str, Any] | None) -> dict[str, JsonLike] | None:
    """Return the command that would be sent in a stored command's place, masked; None when it has none.

    Shape: {"kind": "send_whatsapp", "account": "whatsapp:default", "payload": {"to": "+55119999****", "text": "***"}}
    """
    found = _fallback(stored)
    return None if found is None else {**found, "payload": mask_value(found["payload"])}


def readable_payload(stored: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a stored command's fields in clear, for a person who must read them; files by their size."""
    return None if stored is None else _without_files(mapping(stored.get("content")))


def readable_fallback(stored: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the command that would be sent in a stored command's place, in clear. Shape: as `masked_fallback`."""
    found = _fallback(stored)
    return None if found is None else {**found, "payload": _without_files(found["payload"])}


def _fallback(stored: Mapping[str, Any] | None) -> dict[str, Any] | None:
    second = mapping(mapping((stored or {}).get("options")).get("fallback"))
    if not second:
        return None
    kind, body = fallback_of(second)
    account = mapping(body.get("options")).get("account") or "default"
    return {
        "kind": kind,
        "account": account,
        "payload": {name: each for name, each in body.items() if name != "options"},
    }


def _without_files(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what no person reads: the base64 text of attachments, of which the size stays."""
    return {
        name: [_file(each) for each in value] if name in {"attachments", "inline"} else value
        for name, value in fields.items()
    }


def _file(attachment: Mapping[str, Any]) -> dict[str, Any]:
    return {**attachment, "content": f"<{len(str(attachment.get('content', ''))) * 3 // 4} bytes>"}
