"""An edited dead letter: its new body, and what of a payload may be shown. Used by every door of the operator."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from delivery.errors import FieldIssue, InvalidCommand
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
