"""Callbacks: a command of our own that tells a producer what became of its delivery, and where it goes.

No door accepts it: the ledger opens callbacks by itself. From then on they are deliveries like any other.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol
from uuid import UUID

from pydantic import JsonValue, StringConstraints

from delivery.commands import Command
from delivery.destinations import host_of
from delivery.instants import Instant


class Callback(Command):
    """Tell one event to one endpoint.

    Attributes:
        type: What happened, e.g. "delivery.succeeded".
        timestamp: When it happened.
        about: The person whose data the event carries, so that erasing them erases it; None where it carries none.
    """

    kind: ClassVar[str] = "callback"
    service: ClassVar[str] = "callback"

    endpoint: UUID
    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", max_length=100)]
    timestamp: Instant
    data: dict[str, JsonValue]
    about: str | None = None

    @property
    def recipient(self) -> str:
        """The person the event is about, else the endpoint."""
        return self.about or str(self.endpoint)

    def body(self) -> dict[str, JsonValue]:
        """Return what the producer reads.

        Shape: {"type": "delivery.succeeded", "timestamp": "2026-11-22T12:00:00Z", "data": {...}}
        """
        content = self.content()
        return {name: content[name] for name in ("type", "timestamp", "data")}


@dataclass(frozen=True)
class Endpoint:
    """One URL of one producer.

    Attributes:
        producer: Whose it is.
        secrets: What the producer checks our signature with, newest first; two while one takes over from the other.
        disabled: Why nothing is sent there any more; None while it is open.
    """

    url: str
    producer: str
    secrets: tuple[bytes, ...]
    disabled: str | None

    def __repr__(self) -> str:
        """Tell the host only: the path may hold a token, and the secrets are secret."""
        return f"Endpoint({host_of(self.url)})"


class Endpoints(Protocol):
    """The producers' endpoints, as one that sends needs them."""

    def find(self, endpoint: UUID) -> Endpoint | None:
        """Return an endpoint as it is now, or None when there is none.

        Raises:
            LedgerUnavailable: It could not be asked for.
        """
        ...

    def disable(self, endpoint: UUID, *, actor: str, reason: str) -> bool:
        """Send nothing there any more until an operator enables it; False when it was so already.

        Raises:
            LedgerUnavailable: It is as it was.
        """
        ...


def account_of(url: str) -> str:
    """Return the account of a URL: all callbacks to one host share limits, breaker and retry budget."""
    return f"{Callback.service}:{host_of(url)}"
