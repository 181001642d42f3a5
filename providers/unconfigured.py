"""What stands in the place of an account whose settings are missing: it says what to do, and nobody is called."""

from dataclasses import dataclass

from delivery.errors import Permanent
from delivery.outcomes import Receipt
from delivery.ports import Order, Wire


@dataclass(frozen=True)
class Unconfigured:
    """An account that cannot be used yet.

    Attributes:
        account: Its name, e.g. "crm:default".
        step: What to do, e.g. "set SMTP_HOST, restart the workers".
    """

    account: str
    step: str

    def send(self, order: Order) -> Receipt:  # noqa: ARG002 - the port's shape
        """Refuse, so that the account and its deliveries are held until the settings are there.

        Raises:
            Permanent: Always; the message names the variables and the next step.
        """
        raise self._verdict()

    def preview(self, order: Order) -> Wire:  # noqa: ARG002 - the port's shape
        """Refuse for the same reason.

        Raises:
            Permanent: Always.
        """
        raise self._verdict()

    def look_up(self, order: Order) -> Receipt | None:  # noqa: ARG002 - the port's shape
        """Refuse for the same reason.

        Raises:
            Permanent: Always.
        """
        raise self._verdict()

    def probe(self) -> str:
        """Refuse for the same reason.

        Raises:
            Permanent: Always.
        """
        raise self._verdict()

    def _verdict(self) -> Permanent:
        advice = f"{self.step}, then run: entrega resume {self.account}"
        return Permanent(f"{self.account} is not set up: {advice}", code="misconfigured")
