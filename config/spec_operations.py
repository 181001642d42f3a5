"""The part of a spec that the engine reads on every attempt: operations, status tables and error rules.

Sections 3 and 5.1 of the user's template. Decides nothing: `delivery` turns these values into outcomes.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from config.spec_values import (
    CRM_AND_WHATSAPP,
    CRM_ONLY,
    FOR_READERS,
    NOT_BY_SMTP,
    NOT_USED,
    SMTP_ONLY,
    STATUS_CLASSES,
    Count,
    ErrorCode,
    HeaderName,
    HeaderValue,
    Name,
    NotUsed,
    Seconds,
    Section,
    Severity,
    StatusCode,
    StatusKey,
    Text,
    Texts,
    Verdict,
)

# What becomes of a dead worker's delivery is the sweep's to decide; it reads `retries` and `alert`.
_BY_THE_SWEEP = NotUsed(when=lambda path, _: "lease_lost" in path)
_OURS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "host", "content-length"})


class Wait(Section):
    """How long to wait between the short retries, before jitter.

    Attributes:
        shape: `exponential` multiplies by `factor` each time, `linear` adds `first` each time, `fixed` stays.
        first: Wait before the first retry; `first_s` in YAML.
        longest: No wait grows past this; `longest_s` in YAML. Does not shorten what a provider asked for.
    """

    shape: Literal["exponential", "linear", "fixed"]
    first: Seconds = Field(validation_alias="first_s")
    longest: Seconds = Field(validation_alias="longest_s")
    factor: Annotated[float, Field(ge=1, le=10)] = 2.0

    @model_validator(mode="after")
    def _longest_is_not_shorter(self) -> Self:
        if self.longest < self.first:
            raise ValueError("longest_s must be at least first_s")
        return self

    def step(self, retry: int) -> timedelta:
        """Return the wait before one retry.

        Args:
            retry: Counted from 1.
        """
        growth = {"exponential": self.factor ** min(retry - 1, 60), "linear": float(retry), "fixed": 1.0}
        seconds, most = self.first.total_seconds() * growth[self.shape], self.longest.total_seconds()
        return timedelta(seconds=min(seconds, most))


class ErrorRule(Section):
    """What to do about one kind of failure.

    Attributes:
        retries: Short retries after the first attempt; 0 means none.
        spent: When they are used up: `park` (fallback queue), `dead` (a person moves it) or `hold` (the account waits).
        breaker: True when it counts against the circuit breaker; see `Spec.counts_for_breaker`.
        alert: How urgently a person must know; None when nobody must.
        alert_at: Whether a person must know at the `first` such failure, or once the short retries are `spent`.
    """

    retries: Annotated[int, Field(ge=0, le=50)]
    wait: Annotated[Wait, _BY_THE_SWEEP]
    spent: Annotated[Literal["park", "dead", "hold"], _BY_THE_SWEEP]
    breaker: Annotated[bool, _BY_THE_SWEEP] = False
    alert: Severity | None = None
    alert_at: Annotated[Literal["first", "spent"], _BY_THE_SWEEP] = "spent"


class StatusRule(Section):
    """What one status on the wire means.

    Attributes:
        code: The error rule that applies; "ok" for a success.
    """

    meaning: Text
    verdict: Verdict
    code: StatusCode

    @model_validator(mode="after")
    def _only_a_success_is_ok(self) -> Self:
        if (self.verdict == "success") != (self.code == "ok"):
            raise ValueError('code "ok" and verdict "success" go together')
        return self


class Timeouts(Section):
    """Time limits of one call, in seconds.

    Attributes:
        connect_s: Name look-up, TCP and TLS together.
        read_s: Longest silence on an open connection; for SMTP the wait for the reply to one command.
        total_s: End of the whole call, however busy the line is; leases are built on it.
        final_reply_s: SMTP only: the wait after the final dot.
    """

    connect_s: Annotated[float, Field(gt=0, le=60)]
    read_s: Annotated[float, Field(gt=0, le=600)]
    total_s: Annotated[float, Field(gt=0, le=900)]
    final_reply_s: Annotated[Annotated[float, Field(gt=0, le=900)] | None, SMTP_ONLY] = None

    @model_validator(mode="after")
    def _total_is_the_longest(self) -> Self:
        if self.total_s < max(self.connect_s, self.read_s, self.final_reply_s or 0):
            raise ValueError("total_s must not be shorter than the other time-outs")
        return self


class FieldRule(Section):
    """What one field of the body must look like, for the page; the `enum` of `interesse` is enforced at every door."""

    type: Annotated[Literal["string", "list", "object", "integer", "number", "boolean"], NOT_USED] = "string"
    required: Annotated[bool, NOT_USED] = False
    max_length: Annotated[Count | None, NOT_USED] = None
    max_items: Annotated[Count | None, NOT_USED] = None
    format: Annotated[Text | None, NOT_USED] = None
    enum: Annotated[Texts | None, NotUsed(when=lambda path, _: "interesse" not in path)] = None
    default: Annotated[JsonValue, NOT_USED] = None
    about: Annotated[Text | None, FOR_READERS] = None


class LookUp(Section):
    """How to find out whether an uncertain attempt took effect.

    Attributes:
        by: `query` asks the API, `webhook` waits for its status events, `message_id` relies on a stable id.
        field: Where our delivery id travels, e.g. "external_id".
        query: Query parameters; "{delivery_id}" stands for our id.
        items: Dotted path of the list in the answer.
        wait: How long evidence may take to arrive before `on_uncertain` decides; `wait_s` in YAML.
    """

    by: Literal["query", "webhook", "message_id"]
    field: Annotated[Text, CRM_ONLY]
    method: Annotated[Literal["GET", "POST"], CRM_ONLY] = "GET"
    path: Annotated[Text | None, CRM_ONLY] = None
    query: Annotated[Mapping[Text, Text], CRM_ONLY] = {}
    items: Annotated[Text | None, CRM_ONLY] = None
    wait: Seconds = Field(timedelta(), validation_alias="wait_s")

    @model_validator(mode="after")
    def _a_query_says_where(self) -> Self:
        if self.by == "query" and not (self.path and self.query and self.items):
            raise ValueError("a look-up by query needs path, query and items")
        return self


class Operation(Section):
    """One thing the API can do for us.

    Attributes:
        path: Joined to the base URL; "{name}" parts are filled by the adapter.
        success_id: Dotted path of the provider's id in the answer; without it a 2xx proves nothing.
        idempotency_header: Header that carries our delivery id, so that the API drops a repeat.
        idempotent: True when the same request may be sent again without a second effect.
        on_uncertain: What happens when no look-up could tell: `hold` for a person, or `resend`.
        max_response_bytes: An answer is read no further than this.
    """

    purpose: Annotated[Text, FOR_READERS]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "SMTP"]
    path: Text
    headers: Annotated[Mapping[HeaderName, HeaderValue], NOT_BY_SMTP] = {}
    fields: Mapping[Text, FieldRule]
    success_id: Annotated[Text, CRM_AND_WHATSAPP]
    success_shape: Annotated[Mapping[Text, JsonValue], FOR_READERS] = {}
    error_shape: Annotated[Mapping[Text, JsonValue], FOR_READERS] = {}
    statuses: Annotated[Mapping[StatusKey, StatusRule], NOT_BY_SMTP]
    idempotency_header: Annotated[HeaderName | None, CRM_ONLY] = None
    look_up: LookUp | None = None
    idempotent: bool
    on_uncertain: Literal["hold", "resend"]
    timeouts: Timeouts
    max_response_bytes: Annotated[int, Field(ge=1024, le=10_000_000)]

    @field_validator("path")
    @classmethod
    def _path_is_relative(cls, value: str, info: ValidationInfo) -> str:
        plain = value.startswith("/") and not any(each in value for each in "?#\\ ")
        if info.data.get("method") != "SMTP" and not plain:
            raise ValueError('wanted a path that starts with "/", without query or fragment')
        return value

    @field_validator("headers")
    @classmethod
    def _credentials_stay_out(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        refused = sorted(each for each in value if each.lower() in _OURS)
        if refused:
            raise ValueError(f"{', '.join(refused)}: set by the adapter; credentials belong under authentication")
        return value

    @field_validator("statuses")
    @classmethod
    def _every_status_has_a_rule(cls, value: Mapping[int | str, StatusRule]) -> Mapping[int | str, StatusRule]:
        absent = [each for each in STATUS_CLASSES if each not in value]
        if absent:
            raise ValueError(f"no rule for {', '.join(absent)}; every status class needs one")
        wrong = [str(key) for key, rule in value.items() if rule.verdict == "success" and str(key)[0] != "2"]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: only a 2xx status can be a success")
        return value

    @field_validator("idempotent")
    @classmethod
    def _a_repeat_must_be_recognised(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's shape
        known = info.data.get("idempotency_header") or info.data.get("look_up")
        if value and not known:
            raise ValueError("an idempotent operation needs idempotency_header or look_up")
        return value

    def status(self, http_status: int) -> StatusRule:
        """Return the rule for one status: the exact one, else its class; a status outside 200-599 counts as 5xx."""
        exact = self.statuses.get(http_status)
        return exact or self.statuses.get(f"{http_status // 100}xx") or self.statuses["5xx"]

    def choices(self) -> Mapping[str, tuple[str, ...]]:
        """Return the allowed values of each field that has an enum, e.g. {"interesse": ("produto_a", ...)}."""
        return {name: tuple(rule.enum) for name, rule in self.fields.items() if rule.enum}


Operations = Annotated[Mapping[Name, Operation], Field(min_length=1)]
Errors = Mapping[ErrorCode, ErrorRule]
