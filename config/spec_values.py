"""The ground that every part of a spec stands on: strict, frozen sections and the small types they share.

Strict means that a number in quotes, a `no` where a text is wanted or a field nobody knows is refused
rather than guessed at.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

Environment = Literal["sandbox", "staging", "production"]
Verdict = Literal["success", "retryable", "permanent", "ambiguous"]
Severity = Literal["P0", "P1", "P2"]

# Our own stable words: dashboards, replay filters and dead letters are searched by them, so a spec cannot add one.
ERROR_CODES = (
    "not_sent",
    "certificate",
    "misconfigured",
    "redirected",
    "answer_lost",
    "server_error",
    "gateway_error",
    "unavailable",
    "rate_limited",
    "pair_limited",
    "unauthorized",
    "forbidden",
    "invalid",
    "not_found",
    "conflict",
    "undeliverable",
    "window_closed",
    "capped",
    "account_blocked",
    "template_unusable",
    "temporary",
    "lease_lost",
    "unknown",
)
# Settings that a URL of a spec may name; `Settings.urls` fills them.
URL_VARIABLES = ("CRM_API_URL", "CRM_TOKEN_URL", "WHATSAPP_API_URL", "SMTP_HOST", "SMTP_PORT")
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")
_LONGEST = timedelta(days=366)


class Section(BaseModel):
    """One part of a spec: cannot change once read, knows no field that is not written here, guesses no type."""

    # A duration has two names: `first` (a timedelta) in code, `first_s` (seconds) in YAML; see `config.policy`.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, validate_by_name=True)


@dataclass(frozen=True)
class ForReaders:
    """Marks prose: it stands on the page that `entrega spec doc` makes, and decides nothing."""


@dataclass(frozen=True)
class NotUsed:
    """Marks a key that has no effect in this version; `entrega spec check` says so where a spec has it.

    Attributes:
        by: The adapters that do not use it; all of them when empty.
        when: Tells from the names above it and its section whether it has no effect there; None: nowhere has it one.
    """

    by: tuple[str, ...] = ()
    when: Callable[[Sequence[str | int], Any], bool] | None = None


FOR_READERS = ForReaders()
NOT_USED = NotUsed()
CRM_ONLY = NotUsed(by=("whatsapp_cloud", "smtp", "callback"))
WHATSAPP_ONLY = NotUsed(by=("crm_rest", "smtp", "callback"))
SMTP_ONLY = NotUsed(by=("crm_rest", "whatsapp_cloud", "callback"))
CRM_AND_WHATSAPP = NotUsed(by=("smtp", "callback"))
NOT_BY_SMTP = NotUsed(by=("smtp",))
NOT_BY_CALLBACKS = NotUsed(by=("callback",))


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not 0 <= value <= _LONGEST.total_seconds():
        raise ValueError(f"wanted seconds between 0 and {_LONGEST.total_seconds():.0f}")
    return timedelta(seconds=value)


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _error_code(value: str) -> str:
    if value not in ERROR_CODES:
        raise ValueError(f"unknown error code; known: {', '.join(ERROR_CODES)}")
    return value


def _status_code(value: str) -> str:
    return value if value == "ok" else _error_code(value)


def _day(value: object) -> object:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as err:
        raise ValueError("wanted a day such as 2026-11-22") from err


def _status_key(value: int | str) -> int | str:
    exact = isinstance(value, int) and 200 <= value <= 599  # noqa: PLR2004 - final HTTP and SMTP replies
    if not exact and value not in STATUS_CLASSES:
        raise ValueError(f"unknown status or status class; wanted 200 to 599 or one of {', '.join(STATUS_CLASSES)}")
    return value


def _unique(value: Sequence[str]) -> Sequence[str]:
    if len(set(value)) != len(value):
        raise ValueError("an entry stands twice; keep one")
    return value


# A timedelta in code, a plain number of seconds in YAML, where the field's name ends in `_s`.
Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
Day = Annotated[date, BeforeValidator(_day)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,62}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,62}$")]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,500}$")]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), AfterValidator(_unique)]
ErrorCode = Annotated[str, AfterValidator(_error_code)]
StatusCode = Annotated[str, AfterValidator(_status_code)]
StatusKey = Annotated[int | str, AfterValidator(_status_key)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
listed = BeforeValidator(_listed)

_PLACEHOLDER = re.compile(r"\$\{(?P<name>[A-Z][A-Z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def known_variables(text: str) -> str:
    """Refuse a text that names a variable which `fill` is never given."""
    unknown = [each["name"] for each in _PLACEHOLDER.finditer(text) if each["name"] not in URL_VARIABLES]
    if unknown:
        raise ValueError(f"no URL reads {', '.join(unknown)} in this version; wanted one of {', '.join(URL_VARIABLES)}")
    return text


def fill(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}` and `${NAME:-default}` in a text; a variable that is set wins over the default.

    Raises:
        LookupError: A variable without a default is not set; the message names it.
    """

    def value(found: re.Match[str]) -> str:
        known = variables.get(found["name"]) or found["default"]
        if not known:
            raise LookupError(f"{found['name']} is not set; set it in the environment or in .env")
        return known

    return _PLACEHOLDER.sub(value, text)
