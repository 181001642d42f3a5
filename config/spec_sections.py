"""The parts of a spec around the operations: overview, authentication, limits, breaker, fallback, watching.

Each class names the section of the user's template that it holds. A number written in a spec carries its
source as a comment beside it.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from config.spec_values import (
    CRM_AND_WHATSAPP,
    CRM_ONLY,
    FOR_READERS,
    NOT_BY_CALLBACKS,
    NOT_USED,
    Count,
    Day,
    HeaderName,
    Name,
    NotUsed,
    Ratio,
    Seconds,
    Section,
    Severity,
    Text,
    Texts,
    Variable,
    Verdict,
    known_variables,
    listed,
)

_CRITICALITY = {"critica": "critical", "crítica": "critical", "alta": "high", "media": "medium", "média": "medium"}
_CRITICALITY |= {"baixa": "low"}
# The one measure of `alerts` that is looked at: the circuit breaker tells of itself.
BREAKER_IS_OPEN = "breaker_is_open"
_NEEDED_VARIABLES = {
    "oauth2_client_credentials": ("client_id", "client_secret"),
    "oauth2_refresh_token": ("client_id", "client_secret"),
    "api_key_header": ("api_key",),
    "bearer": ("token",),
    "smtp_login": ("user", "password"),
    "none": (),
}


TlsVersion = Literal["1.2", "1.3"]


def _criticality(value: object) -> object:
    return _CRITICALITY.get(value.lower(), value) if isinstance(value, str) else value


class Overview(Section):
    """Template section 1: why the integration exists and how much hangs on it."""

    objective: Text
    criticality: Annotated[Literal["critical", "high", "medium", "low"], BeforeValidator(_criticality)]
    kind: Literal["rest", "webhook", "smtp"]


class Documentation(Section):
    """Template section 2.2: where the provider explains itself."""

    official: Text | None = None
    openapi: Text | None = None
    postman: Text | None = None
    portal: Text | None = None


class Renewal(Section):
    """How long before its end a token is renewed: a share of its life, within bounds."""

    share_of_life: Ratio
    longest: Seconds = Field(validation_alias="longest_s")
    shortest: Seconds = Field(validation_alias="shortest_s")

    def margin(self, life: timedelta) -> timedelta:
        """Return how long before the end of a token of this life to renew it."""
        return max(self.shortest, min(self.longest, life * self.share_of_life))


class Credentials(Section):
    """One way to prove who we are; names of variables only, never a value.

    Attributes:
        type: With "oauth2_refresh_token" an operator gives the first refresh token (`entrega accounts set`); what each
            renewal brings is kept sealed in the ledger.
        format: How the credential stands in the header, e.g. "Bearer {token}".
        token_url: Where a token is asked for; may be "${NAME}", and `token_path` on the base URL is used when unset.
        token_life: Used when the provider does not say; `token_life_s` in YAML.
        variables: Our word for each credential and the environment variable that holds it.
    """

    type: Literal[
        "oauth2_client_credentials",
        "oauth2_refresh_token",
        "api_key_header",
        "bearer",
        "smtp_login",
        "none",
    ]
    header: Annotated[HeaderName | None, CRM_AND_WHATSAPP] = None
    format: Annotated[Text | None, CRM_AND_WHATSAPP] = None
    token_url: Annotated[Annotated[Text, AfterValidator(known_variables)] | None, CRM_ONLY] = None
    token_path: Annotated[Text | None, CRM_ONLY] = None
    scope: Annotated[Text | None, CRM_ONLY] = None
    token_life: Annotated[Seconds | None, CRM_ONLY] = Field(None, validation_alias="token_life_s")
    renewal: Annotated[Renewal | None, CRM_ONLY] = None
    variables: Mapping[Name, Variable] = {}

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        absent = [each for each in _NEEDED_VARIABLES[self.type] if each not in self.variables]
        absent += [each for each in self._needed_fields() if getattr(self, each) is None]
        if absent:
            raise ValueError(f"{self.type} also needs {', '.join(absent)}")
        return self

    def _needed_fields(self) -> tuple[str, ...]:
        oauth2 = ("header", "format", "token_path", "token_life", "renewal")
        table: Mapping[str, tuple[str, ...]] = {
            "oauth2_client_credentials": oauth2,
            "oauth2_refresh_token": oauth2,
            "api_key_header": ("header", "format"),
            "bearer": ("header", "format"),
        }
        return table.get(self.type, ())


class Authentication(Credentials):
    """Template section 2.3: the preferred credentials, then others that are used when only those are set."""

    alternatives: Annotated[tuple[Credentials, ...], listed] = ()

    def api_key(self) -> Credentials | None:
        """Return how a fixed key is sent, None where none is."""
        return next((each for each in (self, *self.alternatives) if each.type == "api_key_header"), None)


class Probe(Section):
    """How `doctor` and the health check ask whether the API answers and takes our credentials, without side effects.

    Attributes:
        every: About how often the health check asks, which itself comes once a minute; `every_s` in YAML.
    """

    method: Annotated[Literal["GET", "HEAD", "SMTP"], CRM_AND_WHATSAPP]
    path: Annotated[Text, CRM_AND_WHATSAPP]
    query: Annotated[Mapping[Text, Text], CRM_AND_WHATSAPP] = {}
    every: Annotated[Seconds, NOT_BY_CALLBACKS] = Field(validation_alias="every_s")


class Window(Section):
    """At most `calls` in any span of `every`.

    Attributes:
        every: The span; `every_s` in YAML.
        burst: When set, the limit is a bucket of this size refilled at `calls` per `every` instead of a strict span.
    """

    calls: Count
    every: Seconds = Field(validation_alias="every_s")
    burst: Count | None = None


class Excess(Section):
    """How the provider says "too much", and what we do about it.

    Attributes:
        retry_after_cap: A longer wait than this is not believed; `retry_after_cap_s` in YAML.
    """

    signals: Annotated[Texts, FOR_READERS]
    strategy: Annotated[Text, FOR_READERS]
    retry_after_cap: Seconds = Field(validation_alias="retry_after_cap_s")


class UsageHeader(Section):
    """A header in which the provider tells how much of a limit the account has used.

    Attributes:
        header: Percentages in JSON where `percent_in` is set, else the number of calls that are left.
        percent_in: Fields of the JSON that hold percentages, at the top or in the lists below it.
        minutes_in: Field of the JSON that says in how many minutes calls are accepted again.
        limit_header: Says how many calls there are in all; without it and without `limit` only the last call counts.
        limit: Calls in all, where no header says it.
        reset_header: Says when calls are accepted again: seconds, or an instant in seconds or milliseconds since 1970.
        slow_at: Share used from which the account slows down, evenly until all is used.
    """

    header: HeaderName
    percent_in: Texts = ()
    minutes_in: Text | None = None
    limit_header: HeaderName | None = None
    limit: Count | None = None
    reset_header: HeaderName | None = None
    slow_at: Annotated[float, Field(gt=0, lt=1)]


class Threads(Section):
    """How many threads of one worker process the calls of one account, one producer and the whole service may hold.

    A share that is null does not bind. `account` is half of the threads unless the spec says otherwise.
    """

    account: Count | None = 8
    producer: Count | None = None
    service: Count | None = None


class Limits(Section):
    """Template section 2.4, for one account; each limit that is absent does not bind.

    Attributes:
        threads: Shares of a worker process's threads, so that a slow provider leaves the others theirs.
        most_endpoints: Callback URLs that one producer may have; a further one is refused.
        most_due: Due deliveries of the service that may wait for workers; further commands over HTTP are answered 429.
    """

    per_second: Count | None = None
    per_minute: Count | None = None
    per_hour: Count | None = None
    per_day: Count | None = None
    concurrent: Count | None = None
    other: Annotated[tuple[Window, ...], listed] = ()
    per_recipient: Annotated[tuple[Window, ...], listed] = ()
    most_due: Count | None = None
    most_endpoints: Count | None = None
    threads: Threads = Threads()
    usage: Annotated[tuple[UsageHeader, ...], listed, CRM_AND_WHATSAPP] = ()
    on_excess: Excess

    def windows(self) -> tuple[Window, ...]:
        """Return every window that binds the account as a whole, shortest span first."""
        named = ((self.per_second, 1), (self.per_minute, 60), (self.per_hour, 3600), (self.per_day, 86400))
        all_windows = [Window(calls=most, every=timedelta(seconds=span)) for most, span in named if most]
        return tuple(sorted([*all_windows, *self.other], key=lambda each: each.every))


class Breaker(Section):
    """Template section 5.2; shared by all workers.

    Attributes:
        window: `window_s` in YAML; calls older than this are forgotten.
        open_for: `open_s` in YAML; how long no call is let through.
        trials: Calls let through to test a recovery.
        minimum_calls: The breaker stays closed while the window holds fewer.
        counts: Verdicts that can count as a failure, when the error rule says so too.
    """

    failure_ratio: Ratio
    window: Seconds = Field(validation_alias="window_s")
    open_for: Seconds = Field(validation_alias="open_s")
    trials: Count
    close_ratio: Ratio
    minimum_calls: Count
    counts: Annotated[tuple[Verdict, ...], listed] = ("retryable", "ambiguous")


class RetryBudget(Section):
    """How many retries an account may make, so that a storm does not multiply the load on a failing provider.

    Attributes:
        share: Retries earned by each first attempt, e.g. 0.2 for one in five.
        per_minute: Earned by time alone, so that a quiet account may retry too.
        most: Savings never grow past this.
    """

    share: Ratio
    per_minute: Count
    most: Count


class Answer(Section):
    """What a producer may say to the person while the delivery waits."""

    pt: Text
    en: Text


class Fallback(Section):
    """Template section 5.3: the queue in Postgres that takes over when the short retries are spent.

    Attributes:
        parking: Wait before each time it is taken up again; the last one repeats. `parking_s` in YAML.
        expires_after: From acceptance to dead letter; `expires_after_s` in YAML.
    """

    parking: Annotated[tuple[Seconds, ...], listed, Field(min_length=1)] = Field(validation_alias="parking_s")
    expires_after: Seconds = Field(validation_alias="expires_after_s")
    answer: Answer


class Cache(Section):
    """Template section 6, for the page: only tokens are cached. `ttl` is `ttl_s` in YAML."""

    backend: Literal["redis"]
    cached: Texts
    key_pattern: Text
    ttl: Seconds = Field(validation_alias="ttl_s")
    most_entries: Count
    token_key: Text | None = None


class Metrics(Section):
    """Template sections 7.1 and 7.2, for the page; what is measured and logged is fixed."""

    technical: Texts
    business: Texts
    log_fields: Texts


class Alert(Section):
    """One line of template section 7.3. What else alerts is in `errors`: each rule has an `alert` of its own.

    Attributes:
        measure: "breaker_is_open" is told when the circuit breaker opens; no other measure is watched by this version.
        above: For the page; an open breaker is told as it opens.
        during: As `above`; `during_s` in YAML.
    """

    measure: Annotated[Name, NotUsed(when=lambda _, alert: alert.measure != BREAKER_IS_OPEN)]
    above: Annotated[float, Field(ge=0), NOT_USED]
    during: Annotated[Seconds, NOT_USED] = Field(validation_alias="during_s")
    severity: Severity
    action: Text


class Redaction(Section):
    """Template section 8.1, for the page: what is masked in logs, metrics and errors is `delivery.redaction`'s list."""

    fields: Texts


class Security(Section):
    """Template sections 8.2 and 8.3. Certificates are always checked: there is no field to switch it off.

    Attributes:
        minimum_tls: No older version is spoken with the provider or its token endpoint.
    """

    credentials: Annotated[Text, FOR_READERS]
    rotation: Annotated[Text, FOR_READERS]
    minimum_tls: TlsVersion


class Rollback(Section):
    """When a rollout is taken back.

    Attributes:
        minimum_calls: Nothing is decided on fewer: one failure of two calls says nothing.
    """

    error_ratio_above: Ratio
    p95_above: Seconds = Field(validation_alias="p95_above_s")
    minimum_calls: Count = 20


class Rollout(Section):
    """Template section 11: shares of the traffic, how long each is watched, and when to go back."""

    shares: Annotated[tuple[Ratio, ...], listed, Field(min_length=1)]
    hold: Seconds = Field(validation_alias="hold_s")
    rollback: Rollback

    @field_validator("shares")
    @classmethod
    def _grows_to_all(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if sorted(set(value)) != list(value) or value[-1] != 1:
            raise ValueError("each share must be larger than the one before, and the last one 1.0")
        return value


class Contact(Section):
    """Template section 12: a role and how to reach it; no personal names."""

    role: Text
    reach: Text


class Change(Section):
    """One line of template section 14."""

    version: Text
    date: Day
    author: Text
    change: Text
