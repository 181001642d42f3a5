"""The verdicts a provider may speak, and what a producer may have got wrong.

An exception here answers one question: may the same request be sent again? This module knows no
provider and no transport; `delivery.judging` turns a verdict into an outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from delivery.outcomes import Usage


class ProviderError(Exception):
    """A provider did not accept a request.

    Attributes:
        code: Stable word for dashboards, replay filters and the error rules of a spec, e.g. "rate_limited".
        retry_after: How long the provider asked us to wait; None when it said nothing.
        http_status: The status on the wire; None when no complete answer came or the wire is not HTTP.
        provider_code: The provider's own code, e.g. "131056" or "550 5.1.1"; None when it gave none.
        usage: What the answer said about the account's limits; None when it said nothing.
    """

    code = "provider_error"

    def __init__(  # noqa: PLR0913 - what a provider may say, all by name
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after: timedelta | None = None,
        http_status: int | None = None,
        provider_code: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.retry_after = retry_after
        self.http_status = http_status
        self.provider_code = provider_code
        self.usage = usage


class Retryable(ProviderError):
    """The request was surely not carried out; the same request may succeed later."""

    code = "not_sent"


class Permanent(ProviderError):
    """The same request will never succeed."""

    code = "invalid"


class Ambiguous(ProviderError):
    """We cannot tell whether the provider acted: look before sending again."""

    code = "answer_lost"


# An earlier attempt that ended in one of these may have been carried out, even where the operation is idempotent.
DOUBTFUL_CODES = frozenset({"answer_lost", "server_error", "gateway_error", "lease_lost", "unknown"})


@dataclass(frozen=True)
class FieldIssue:
    """What is wrong with one field of a command; never holds the value itself."""

    field: str
    issue: str


class InvalidCommand(ValueError):
    """A command that no door may accept; nothing was written.

    Attributes:
        issues: One entry for each wrong field, in the order of the body.
    """

    def __init__(self, kind: str, issues: tuple[FieldIssue, ...]) -> None:
        listed = "; ".join(f"{each.field}: {each.issue}" for each in issues)
        super().__init__(f"{kind} was refused: {listed}")
        self.kind = kind
        self.issues = issues

    def __reduce__(self) -> tuple[type["InvalidCommand"], tuple[str, tuple[FieldIssue, ...]]]:
        """Keep the fields when the error crosses a process border (prefork pools pickle it)."""
        return type(self), (self.kind, self.issues)

    def as_answer(self) -> Mapping[str, object]:
        """Return the public error body.

        Shape: {"error": {"code": "invalid_command", "message": "...", "details": [{"field": "email", "issue": "..."}]}}
        """
        details = [{"field": each.field, "issue": each.issue} for each in self.issues]
        return {"error": {"code": "invalid_command", "message": str(self), "details": details}}


class KeyReused(ValueError):
    """An idempotency key was used before with another body; nothing was written."""


class ProducerRefused(ValueError):
    """The policy of a producer forbids this command now; nothing was written.

    Attributes:
        code: Which rule; a word of `delivery.producers.HELD_BECAUSE`.
        retry_at: When the same may be asked for again; None when only an operator can change that.
    """

    def __init__(self, code: str, retry_at: datetime | None = None) -> None:
        super().__init__(code, retry_at)
        self.code = code
        self.retry_at = retry_at

    def __str__(self) -> str:
        """Return one sentence for a log or an operator."""
        when = f"not before {self.retry_at:%Y-%m-%d %H:%M:%S} UTC" if self.retry_at else "an operator must act first"
        return f"refused by the producer's policy: {self.code}; {when}"


class LedgerUnavailable(RuntimeError):
    """The ledger cannot be reached, so nothing can be promised; the producer should try again."""


class LedgerUnusable(RuntimeError):
    """This program cannot work with this ledger, and trying again does not help; the message says what does."""
