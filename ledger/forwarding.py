"""The way on to the producer for what people say: whatever was heard becomes one signed callback."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from delivery.ports import Hint
from ledger.callbacks import Callbacks, Event
from ledger.inbound import Heard


@dataclass(frozen=True)
class CallbackForwarder:
    """Forwards over callbacks; implements `ledger.inbound.Forwarder`.

    Attributes:
        url: Where everything goes; checked with `delivery.destinations.url_issue`.
    """

    callbacks: Callbacks
    url: str

    def forward(self, connection: Connection, heard: Sequence[Heard]) -> Sequence[Hint]:
        """See `ledger.inbound.Forwarder.forward`. The secret is that of a producer named like the service."""
        opened = [self._open(connection, each) for each in heard]
        return [each for each in opened if each is not None]

    def _open(self, connection: Connection, heard: Heard) -> Hint | None:
        service = heard.account.partition(":")[0]
        event = Event(
            type=f"{service}.{heard.kind}",
            at=heard.at,
            data={"account": heard.account, **heard.content},
            key=f"inbound:{heard.id}",
            about=heard.person,
            order=f"person:{self.callbacks.ledger.vault.hash(heard.person).hex()}",
        )
        return self.callbacks.forward(connection, event, producer=service, url=self.url)
