"""What can go wrong with a call, and what the caller should do about it: each error carries its `next_step`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

NextStep = Literal["none", "wait", "do_not_resend", "fix_fields", "ask_operator"]


@dataclass(frozen=True)
class Issue:
    """What is wrong with one field."""

    field: str
    issue: str


class EntregaError(Exception):
    """Entrega did not do what was asked.

    Attributes:
        code: Entrega's stable word for the reason, e.g. "invalid_command".
        issues: What is wrong with which field.
        request_id: Tell it to the operator; None when no answer came.
        next_step: What to do, in the words of a receipt.
    """

    next_step: NextStep = "ask_operator"

    def __init__(
        self, message: str, *, code: str, issues: tuple[Issue, ...] = (), request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.issues = issues
        self.request_id = request_id


class Refused(EntregaError):
    """The command is wrong and nothing was written: correct the fields in `issues` and call again."""

    next_step: NextStep = "fix_fields"


class KeyReused(EntregaError):
    """The key you gave stands for another command already; nothing was written."""

    next_step: NextStep = "fix_fields"


class NotCancelable(EntregaError):
    """It can no longer be promised that nothing is sent."""

    next_step: NextStep = "none"


class NotFound(EntregaError):
    """There is no such delivery, or it belongs to another producer."""

    next_step: NextStep = "fix_fields"


class Forbidden(EntregaError):
    """The API key is missing, wrong, expired, or may not do this."""


class UnexpectedAnswer(EntregaError):
    """The answer is none of Entrega's; is the address right, or does a proxy answer in its place?"""


class Unavailable(EntregaError):
    """No usable answer came within the deadline, whatever was tried.

    Attributes:
        key: The key of the call; call again with the same body and `key=` this, and there is still one delivery.
            None for calls that need none.
        items: What `submit_many` was given, with their keys; give it these again.
        may_have_arrived: False when it is sure that nothing was accepted.
        retry_after_s: When Entrega asked to come back; None when it said nothing.
    """

    next_step: NextStep = "wait"

    def __init__(  # noqa: PLR0913 - facts, all by name
        self,
        message: str,
        *,
        code: str,
        request_id: str | None = None,
        key: str | None = None,
        may_have_arrived: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, request_id=request_id)
        self.key = key
        self.items: list[dict[str, Any]] = []
        self.may_have_arrived = may_have_arrived
        self.retry_after_s = retry_after_s


_BY_CODE: Mapping[str, type[EntregaError]] = {"key_reused": KeyReused, "not_cancelable": NotCancelable}
_BY_STATUS: Mapping[int, type[EntregaError]] = {401: Forbidden, 403: Forbidden, 404: NotFound}
_TROUBLE = frozenset({400, 408, 409, 413, 415, 422, 429})


def error_of(status: int, body: Any, request_id: str | None) -> EntregaError:
    """Return the error that a refusal stands for.

    Args:
        status: The HTTP status.
        body: The parsed body, or None. Shape: {"error": {"code", "message", "details": [{"field", "issue"}]}}.
    """
    trouble = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(trouble, Mapping):
        return UnexpectedAnswer(
            f"HTTP {status} without a word of Entrega's; is the address right?",
            code="unexpected_answer",
            request_id=request_id,
        )
    return refusal_of(trouble, status=status, request_id=request_id)


def refusal_of(trouble: Mapping[str, Any], *, status: int = 422, request_id: str | None = None) -> EntregaError:
    """Return the error for an `error` object, of a whole answer or of one item of many."""
    code = str(trouble.get("code", "unknown"))
    issues = tuple(Issue(str(each.get("field")), str(each.get("issue"))) for each in trouble.get("details") or ())
    listed = "".join(f"\n  {each.field}: {each.issue}" for each in issues)
    message = f"{trouble.get('message', code)}{listed}"
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (Refused if status in _TROUBLE else EntregaError)
    return kind(message, code=code, issues=issues, request_id=request_id)
