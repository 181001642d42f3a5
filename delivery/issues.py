"""What a model found wrong with a body, as fields and sentences: one language, the field's own name, never a value."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from delivery.errors import FieldIssue
from delivery.wording import issue_text

_LABEL = re.compile(r"\[[a-z]+\]")
_MOST = 50
_LONGEST_NAME = 80


def field_issues(err: ValidationError, language: str) -> tuple[FieldIssue, ...]:
    """Return what is wrong with each field, in the order of the body."""
    return tuple(field_issue(each, each["loc"], language) for each in err.errors(include_url=False)[:_MOST])


def field_issue(error: Mapping[str, Any], place: Sequence[int | str], language: str) -> FieldIssue:
    """Return one of pydantic's errors about the field at a place."""
    code, context = error["type"], error.get("ctx", {})
    if code == "value_error":
        return FieldIssue(field_name(place), issue_text(str(context["error"]), language))
    if code in {"too_long", "too_short"} and isinstance(error["input"], str):
        code = f"string_{code}"  # pydantic counts the items of what a validator returns
    return FieldIssue(field_name(place), issue_text(code, language, context))


def field_name(place: Sequence[int | str]) -> str:
    """Return a field's name, e.g. `template.variables.2`.

    Labels that are no part of it, `[key]` and those of a union, are left out. A name from outside may be personal data
    or a log injection: what no field name can hold is replaced.
    """
    parts = (str(each) for each in place if isinstance(each, int) or not _LABEL.fullmatch(each))
    return re.sub(r"[^\w.@-]", "?", ".".join(parts))[:_LONGEST_NAME] or "body"
