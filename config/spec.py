"""One integration form as a whole: the sections of the user's template, top to bottom, and what they answer.

`config.policy` reads the files; this module only says what a complete form is.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from config.services import adapter_issue, base_url_issues, name_issue, operation_issues, proof_issues
from config.spec_mail import Mail
from config.spec_operations import ErrorRule, Errors, Operations
from config.spec_sections import (
    Alert,
    Authentication,
    Breaker,
    Cache,
    Change,
    Contact,
    Documentation,
    Fallback,
    Limits,
    Metrics,
    Overview,
    Probe,
    Redaction,
    RetryBudget,
    Rollout,
    Security,
)
from config.spec_values import (
    CRM_AND_WHATSAPP,
    ERROR_CODES,
    FOR_READERS,
    NOT_USED,
    WHATSAPP_ONLY,
    Day,
    Environment,
    Name,
    Section,
    Text,
    Variable,
    Verdict,
    fill,
    known_variables,
    listed,
)
from config.spec_webhook import Webhook

# A Celery rate_limit evens calls out and was measured to grant a fraction of what it says, so it must lie far above
# the provider's own limit. Source: Celery 5.7 measured on Redis, 80/s granted 2.2/s to 3.7/s, 2026-11-22.
_CEILING_ROOM = 10
_SPAN_S = {"s": 1, "m": 60, "h": 3600}


def _base_url(value: str) -> str:
    if value.startswith(("${", "https://", "smtp://")) or _is_loopback_url(value):
        return value
    raise ValueError("wanted https://, smtp://, ${A_VARIABLE}, or http:// to loopback")


def _is_loopback_url(value: str) -> bool:
    parts = urlsplit(value)
    host = parts.hostname or ""
    try:
        return parts.scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False


def _refuse(issues: Iterable[str | None]) -> None:
    found = [each for each in issues if each]
    if found:
        raise ValueError("; ".join(found))


def _service(info: ValidationInfo) -> Iterable[str]:
    """Give the service's name; none when it is wrong, which is said elsewhere."""
    return [info.data["name"]] if "name" in info.data else []


BaseUrl = Annotated[str, AfterValidator(_base_url), AfterValidator(known_variables)]


class Spec(Section):
    """One filled-in integration form.

    Attributes:
        name: The service, e.g. "crm"; also the first part of an account's name.
        adapter: The code that speaks to this API.
        base_urls: One for each environment; may name a variable, and the setting wins.
        api_version: Part of the path where the API has one, e.g. "v26.0".
        variables: Environment variables the integration reads.
        operations: By kind of command, e.g. "create_lead".
        errors: The rule for every error code: this spec's own over the defaults.
        worker_ceiling: Celery `rate_limit` of the tasks; a ceiling that never binds before the real limit does.
    """

    name: Name
    adapter: Literal["crm_rest", "whatsapp_cloud", "smtp", "callback"]
    system: Annotated[Text, FOR_READERS]
    version: Annotated[Text, FOR_READERS]
    owner: Annotated[Text, FOR_READERS]
    updated: Annotated[Day, FOR_READERS]
    overview: Annotated[Overview, FOR_READERS]
    base_urls: Annotated[Mapping[Environment, BaseUrl], CRM_AND_WHATSAPP]
    api_version: Annotated[
        Annotated[str, StringConstraints(pattern=r"^v\d+(\.\d+)*$")] | None,
        WHATSAPP_ONLY,
    ] = None
    documentation: Annotated[Documentation, FOR_READERS]
    authentication: Authentication
    limits: Limits
    worker_ceiling: Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,8}/[smh]$")]
    operations: Operations
    probe: Probe
    webhook: Webhook | None = None
    mail: Mail | None = None
    errors: Errors
    breaker: Breaker
    retry_budget: RetryBudget
    fallback: Fallback
    cache: Annotated[Cache, NOT_USED]
    metrics: Annotated[Metrics, NOT_USED]
    alerts: Annotated[Mapping[Name, Alert], Field(min_length=1)]
    redaction: Annotated[Redaction, NOT_USED]
    security: Security
    variables: Annotated[tuple[Variable, ...], listed]
    rollout: Rollout
    contacts: Annotated[tuple[Contact, ...], listed, Field(min_length=1), FOR_READERS]
    change_log: Annotated[tuple[Change, ...], listed, Field(min_length=1), FOR_READERS]

    @field_validator("name")
    @classmethod
    def _service_can_be_served(cls, value: str) -> str:
        _refuse([name_issue(value)])
        return value

    @field_validator("adapter")
    @classmethod
    def _adapter_is_the_services_own(cls, value: str, info: ValidationInfo) -> str:
        _refuse(adapter_issue(name, value) for name in _service(info))
        return value

    @field_validator("authentication")
    @classmethod
    def _credentials_are_sent(cls, value: Authentication, info: ValidationInfo) -> Authentication:
        _refuse(issue for name in _service(info) for issue in proof_issues(name, value))
        return value

    @field_validator("operations")
    @classmethod
    def _operations_are_carried_out(cls, value: Operations, info: ValidationInfo) -> Operations:
        _refuse(issue for name in _service(info) for issue in operation_issues(name, value))
        return value

    @field_validator("base_urls")
    @classmethod
    def _adapter_speaks_the_scheme(cls, value: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
        _refuse(issue for name in _service(info) for issue in base_url_issues(name, value.values()))
        return value

    @field_validator("base_urls")
    @classmethod
    def _every_environment_has_one(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        absent = [each for each in ("sandbox", "staging", "production") if each not in value]
        if absent:
            raise ValueError(f"no base URL for {', '.join(absent)}")
        plain = [each for each, url in value.items() if each != "sandbox" and url.startswith("http://")]
        if plain:
            raise ValueError(f"{', '.join(plain)}: plain http:// is for the sandbox only")
        return value

    @field_validator("worker_ceiling")
    @classmethod
    def _ceiling_never_binds_first(cls, value: str, info: ValidationInfo) -> str:
        limits: Limits | None = info.data.get("limits")
        fastest = (
            max((each.calls / each.every.total_seconds() for each in limits.windows()), default=0) if limits else 0
        )
        calls, span = value.split("/")
        if int(calls) / _SPAN_S[span] < fastest * _CEILING_ROOM:
            raise ValueError(f"must be at least {_CEILING_ROOM} times the limit of {fastest:g}/s, or it binds first")
        return value

    @field_validator("webhook")
    @classmethod
    def _webhook_can_be_read(cls, value: Webhook | None, info: ValidationInfo) -> Webhook | None:
        if value is not None and value.shape is None and info.data.get("adapter") != "whatsapp_cloud":
            raise ValueError("shape: missing; this adapter does not know what stands in the provider's webhooks")
        return value

    @field_validator("mail")
    @classmethod
    def _mail_has_its_allow_lists(cls, value: Mail | None, info: ValidationInfo) -> Mail | None:
        if (value is None) is (info.data.get("adapter") == "smtp"):
            raise ValueError("missing; e-mail needs its allow-lists" if value is None else "only for e-mail")
        return value

    @field_validator("errors")
    @classmethod
    def _every_code_has_a_rule(cls, value: Errors) -> Errors:
        absent = [each for each in ERROR_CODES if each not in value]
        if absent:
            raise ValueError(f"no rule for {', '.join(absent)}")
        return value

    @property
    def parking(self) -> tuple[timedelta, ...]:
        """The waits of the fallback queue; the last one repeats."""
        return self.fallback.parking

    @property
    def expires_after(self) -> timedelta:
        """How long after acceptance an open delivery becomes a dead letter."""
        return self.fallback.expires_after

    def rule(self, code: str) -> ErrorRule:
        """Return the rule for an error code; a code nobody knows gets the rule "unknown"."""
        return self.errors.get(code) or self.errors["unknown"]

    def counts_for_breaker(self, code: str, verdict: Verdict, http_status: int | None) -> bool:
        """Tell whether a failure speaks against the provider's health.

        Args:
            code: The error code.
            verdict: What the provider's table made of it.
            http_status: What came over HTTP, or None. A 4xx never counts: the provider was well enough to refuse.
        """
        refused = http_status is not None and 400 <= http_status < 500  # noqa: PLR2004 - the 4xx class
        return self.rule(code).breaker and verdict in self.breaker.counts and not refused

    def base_url(self, environment: Environment, variables: Mapping[str, str] | None = None) -> str:
        """Return where the API lives, without a trailing slash and without the API version.

        Args:
            environment: One of sandbox, staging, production.
            variables: What is set, e.g. {"CRM_API_URL": "https://crm.example"}; see `Settings.urls`.

        Raises:
            LookupError: The URL names a variable that is not set and has no default.
        """
        return fill(self.base_urls[environment], variables or {}).rstrip("/")

    def token_url(self, environment: Environment, variables: Mapping[str, str]) -> str | None:
        """Return where a token is asked for, or None when this API needs none.

        Raises:
            LookupError: As `base_url`.
        """
        auth = self.authentication
        if auth.token_path is None:
            return None
        usual = self.base_url(environment, variables) + auth.token_path
        try:
            return fill(auth.token_url, variables) if auth.token_url else usual
        except LookupError:
            return usual
