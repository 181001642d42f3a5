"""What every provider must keep, whatever wire it speaks: all four run it, over HTTP, SMTP and for callbacks.

A test file brings a table of `Case` and a way to stage one: a provider that will meet the canned behaviour, and the
bytes that reached the other side. `assert_conforms` then checks what the engine relies on.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from pydantic import JsonValue

from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from delivery.outcomes import Receipt
from delivery.ports import Order, Provider

Wire = TypeVar("Wire")


@dataclass(frozen=True)
class Refusal:
    """The error a provider must raise: its verdict and the word for it; `code` is a key of the spec's errors."""

    verdict: type[ProviderError]
    code: str
    retry_after: timedelta | None = None


@dataclass(frozen=True)
class Case(Generic[Wire]):
    """One canned behaviour of the other side.

    Attributes:
        label: Says what happens, e.g. "answer lost after the body".
        wire: Whatever the stage understands, e.g. a status and a body, or an SMTP dialogue.
        expected: The receipt, or the refusal.
        requests: How often the command may have reached the other side; more than one is a retry.
    """

    label: str
    wire: Wire
    expected: Receipt | Refusal
    requests: int = 1

    def __str__(self) -> str:
        return self.label.replace(" ", "-")


@dataclass(frozen=True)
class Staged:
    """A provider facing one canned behaviour.

    Attributes:
        provider: Fresh, sharing nothing with another case.
        requests: Called after a send, returns each request that carried the command, as bytes, oldest first.
    """

    provider: Provider
    requests: Callable[[], Sequence[bytes]]


def assert_conforms(case: Case[Wire], staged: Staged, order: Order, *, secrets: Sequence[str] = ()) -> None:
    """Check one case: right verdict, right word, sent as often as allowed, and nobody's data told.

    Args:
        case: What the other side does and what must come of it.
        staged: The provider that meets it.
        order: What to send.
        secrets: Tokens and passwords; like every text of the command they may stand in no message or receipt.
    """
    outcome = _outcome(staged.provider, order)
    told = _told(outcome)
    private = [*secrets, *_texts(order.command.content())]

    assert _kind(outcome) == case.expected
    assert len(staged.requests()) == case.requests
    assert [each for each in private if each in told] == []
    assert "\n" not in str(outcome)
    assert len(str(outcome)) <= 1_000


def assert_repeats_itself(staged: Staged, order: Order) -> None:
    """Check that a second attempt sends the very same bytes, whatever became of the first."""
    _outcome(staged.provider, order)
    _outcome(staged.provider, order)

    first, second = staged.requests()[0], staged.requests()[-1]
    assert len(staged.requests()) >= 2
    assert first == second


def _outcome(provider: Provider, order: Order) -> Receipt | ProviderError:
    try:
        return provider.send(order)
    except ProviderError as err:
        return err


def _kind(outcome: Receipt | ProviderError) -> Receipt | Refusal:
    if isinstance(outcome, Receipt):
        return outcome
    verdict = next(each for each in (Retryable, Permanent, Ambiguous) if isinstance(outcome, each))
    return Refusal(verdict, outcome.code, outcome.retry_after)


def _told(outcome: Receipt | ProviderError) -> str:
    """Everything a log could show of it: the whole traceback, causes included."""
    if isinstance(outcome, Receipt):
        return repr(outcome)
    return "".join(traceback.format_exception(outcome))


def _texts(value: JsonValue) -> list[str]:
    """Every text of at least four characters in a command: shorter ones stand in any traceback by chance."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) and len(value) >= 4 else []
