"""A broker message that was refused: why, and a copy that shows its shape and no content.

The copy is for an operator who looks for the client that sent it: names of fields and sizes stay, texts and large
numbers do not, because a message of unknown shape may hold a person anywhere.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from delivery.errors import FieldIssue
from delivery.redaction import JsonLike, mask_text

_LONGEST_COPY = 4_000
_MOST_ITEMS = 30
_MOST_ISSUES = 20
_DEEPEST = 8
_LARGEST_NUMBER = 999_999
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,99}")
_PLACE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_-]{1,63}){0,7}")
# Values that say which program sent the message and how, never whom it is about.
_SHOWN = frozenset({"task", "lang", "content-type", "content-encoding", "body_encoding", "compression", "kind"})


@dataclass(frozen=True)
class RefusedMessage:
    """What is kept of a message that no task could take.

    Attributes:
        reason: Stable word for the metric, the log and the list, e.g. "malformed".
        queue: Where it came from.
        task: The task that it names, masked; empty where it names none.
        message_id: Its own id, masked; empty where it has none.
        issues: Which fields are wrong, and how; never a value.
        size: Bytes on the wire, or of the command where only that is known.
        copy: Its shape as JSON, cut after 4,000 characters.
    """

    reason: str
    queue: str
    task: str = ""
    message_id: str = ""
    issues: tuple[FieldIssue, ...] = ()
    size: int = 0
    copy: str = ""


def shown_word(value: object) -> str:
    """Return a stranger's name or id as a log may show it; empty where it is no text."""
    if not isinstance(value, str):
        return ""
    return mask_text(value) if _WORD.fullmatch(value) else "***"


def shown_issues(issues: Iterable[FieldIssue]) -> tuple[FieldIssue, ...]:
    """Return the issues without field names that a stranger made up of something else than a name."""
    return tuple(
        FieldIssue(each.field if _PLACE.fullmatch(each.field) else "***", each.issue)
        for each in islice(issues, _MOST_ISSUES)
    )


def masked_copy(value: object) -> str:
    """Return the shape of a value as JSON text: names, sizes, small numbers.

    Shape: {"headers": {"task": "create_lead"}, "args": [], "kwargs": {"nome": "9 characters", "tags": []}}
    """
    text = json.dumps(_shape(value, _DEEPEST))
    return text if len(text) <= _LONGEST_COPY else f"{text[:_LONGEST_COPY]}..."


def _shape(value: object, depth: int) -> JsonLike:
    if isinstance(value, str):
        return f"{len(value)} characters"
    if isinstance(value, Mapping):
        return _shape_of_object(value, depth) if depth else "nested deeper"
    if isinstance(value, list | tuple):
        return _shape_of_list(value, depth) if depth else "nested deeper"
    return _shape_of_scalar(value)


def _shape_of_scalar(value: object) -> JsonLike:
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= _LARGEST_NUMBER):
        return value
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return "a number" if isinstance(value, int | float) else type(value).__name__


def _shape_of_list(value: Sequence[object], depth: int) -> JsonLike:
    rest = len(value) - _MOST_ITEMS
    return [_shape(each, depth - 1) for each in value[:_MOST_ITEMS]] + ([f"{rest} more"] if rest > 0 else [])


def _shape_of_object(value: Mapping[object, object], depth: int) -> JsonLike:
    rest = len(value) - _MOST_ITEMS
    shown = {_name(key): _named(key, each, depth - 1) for key, each in islice(value.items(), _MOST_ITEMS)}
    return shown | ({"...": f"{rest} more"} if rest > 0 else {})


def _named(key: object, value: object, depth: int) -> JsonLike:
    shown = shown_word(value) if key in _SHOWN else ""
    return shown or _shape(value, depth)


def _name(key: object) -> str:
    return mask_text(key) if isinstance(key, str) and _WORD.fullmatch(key) else "***"
