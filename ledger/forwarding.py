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
        vault = self.callbacks.ledger.vault
        data = {"account": heard.account, **heard.content}
        if isinstance(answered := data.get("reply_to"), str):
            # As the answered delivery's own callbacks name its message: that is how a producer finds it.
            data["reply_to_receipt"] = vault.proof(answered)
        event = Event(
            type=f"{service}.{heard.kind}",
            at=heard.at,
            data=data,
            key=f"inbound:{heard.id}",
            about=heard.person,
            order=f"person:{vault.hash(heard.person).hex()}",
        )
        return self.callbacks.forward(connection, event, producer=service, url=self.url)
