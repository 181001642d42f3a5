"""What a refusal of the CRM may tell: its code, the fields that are wrong and why. Never a value that we sent."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from pydantic import JsonValue

from config.policy import StatusRule
from delivery.errors import ProviderError
from delivery.outcomes import Usage
from providers.http import VERDICT_ERRORS, Answer

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_FIELD = re.compile(r"[A-Za-z][\w.\[\]-]{0,59}")
# An address, or a run of seven digits and more however it is written: a phone or a document of a person.
_PERSONAL = re.compile(r"@|\d(?:[\s().-]*\d){6,}")
_SHORTEST_VALUE = 3
_LONGEST_ISSUE = 80
_MOST_FIELDS = 10


def refusal(  # noqa: PLR0913 - what is known of one answer, all by name
    answer: Answer,
    rule: StatusRule,
    *,
    route: str,
    content: Mapping[str, JsonValue],
    now: datetime,
    usage: Usage | None = None,
) -> ProviderError:
    """Turn an answer that is no success into the error its rule asks for.

    Args:
        answer: Shape: {"error": {"code": "VALIDATION_ERROR", "message": "...", "details": [{"field", "issue"}]}}.
        rule: What the spec says about its status.
        route: The path as a template, for the message.
        content: What we sent; an issue that repeats one of its values is not passed on.
        now: Stands in for the answer's date when it asks us to wait until an instant.
        usage: What the answer says about our limits; its wait counts where there is no Retry-After.
    """
    code = answer.text_at("error.code")
    code = code if code and _CODE.fullmatch(code) else None
    issues = "; ".join(_issues(answer, tuple(_values(content))))
    said = f"{answer.status} {code}" if code else str(answer.status)
    message = f"the CRM refused {route} with {said}: {rule.meaning}"
    return VERDICT_ERRORS[rule.verdict](
        f"{message}; {issues}" if issues else message,
        code=rule.code,
        retry_after=answer.retry_after(now) or (usage.wait if usage else None),
        http_status=answer.status,
        provider_code=code,
        usage=usage,
    )


def _issues(answer: Answer, values: tuple[str, ...]) -> Iterator[str]:
    details = answer.at("error.details")
    for detail in details[:_MOST_FIELDS] if isinstance(details, list) else ():
        field = detail.get("field") if isinstance(detail, dict) else None
        if isinstance(field, str) and _FIELD.fullmatch(field):
            yield f"{field}: {_harmless(detail.get('issue'), values)}"


def _harmless(issue: object, values: tuple[str, ...]) -> str:
    text = " ".join(str(issue).split()) if isinstance(issue, str) else ""
    if not text or not text.isprintable():
        return "refused"
    if _PERSONAL.search(text) or any(value in text.casefold() for value in values):
        return "refused (the reason repeats a value and is not shown)"
    return text if len(text) <= _LONGEST_ISSUE else text[: _LONGEST_ISSUE - 1] + "…"


def _values(content: JsonValue | Mapping[str, JsonValue]) -> Iterator[str]:
    if isinstance(content, str) and len(content) >= _SHORTEST_VALUE:
        yield content.casefold()
    nested = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    for each in nested:
        yield from _values(each)
