"""Many commands in one body: as `{"items": [...]}`, or as NDJSON with one command on each line."""

from collections.abc import Mapping, Sequence
from typing import Any

from delivery.errors import FieldIssue
from delivery.intake import Item
from delivery.wording import issue_text
from ingress.bodies import parsed_object
from ingress.problems import Language, Problem
from ingress.strict_json import UnacceptableJson, check_count

MOST_ITEMS = 10_000
MOST_BULK_BYTES = 32_000_000
_MOST_BULK_VALUES = 50 * MOST_ITEMS


def json_items(raw: bytes, language: Language) -> list[Item | Problem]:
    """Return the items of a JSON body; what is no command at all stands as the problem it is.

    Raises:
        Problem: The body as a whole is not what it must be; nothing of it is taken.
    """
    body = parsed_object(raw, most_values=_MOST_BULK_VALUES)
    found = body.get("items")
    if not isinstance(found, list):
        raise _refused("items", "missing" if found is None else "list_type", language)
    if len(body) > 1:
        raise _refused("body", "extra_forbidden", language)
    _check_count(found, language)
    return [_item(each, language) for each in found]


def ndjson_items(raw: bytes, language: Language) -> list[Item | Problem]:
    """Return the items of an NDJSON body; a line that is no JSON is one refused item. Empty lines are passed over.

    Raises:
        Problem: There are no lines, or too many; nothing is taken.
    """
    _check_values(raw)
    lines = [each for each in raw.split(b"\n") if each.strip()]
    _check_count(lines, language)
    return [_line(each, language) for each in lines]


def _check_values(raw: bytes) -> None:
    try:
        check_count(raw, _MOST_BULK_VALUES)
    except UnacceptableJson as err:
        raise Problem("invalid_json", why=err.why) from None


def _line(raw: bytes, language: Language) -> Item | Problem:
    try:
        return _item(parsed_object(raw), language)
    except Problem as err:
        return err


def _item(value: object, language: Language) -> Item | Problem:
    if not isinstance(value, dict):
        return _refused("body", "dict_type", language)
    return item_of_body(value)


def item_of_body(value: Mapping[str, Any]) -> Item:
    """Part a body that names its kind into kind and command."""
    kind = value.get("kind")
    body = {name: each for name, each in value.items() if name != "kind"}
    return Item(kind if isinstance(kind, str) else "", body)


def _check_count(found: Sequence[object], language: Language) -> None:
    if not found:
        raise _refused("items", "too_short", language, {"min_length": 1})
    if len(found) > MOST_ITEMS:
        raise _refused("items", "too_long", language, {"max_length": MOST_ITEMS})


def _refused(field: str, code: str, language: Language, context: Mapping[str, Any] | None = None) -> Problem:
    return Problem("invalid_command", details=(FieldIssue(field, issue_text(code, language, context)),))
