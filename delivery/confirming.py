"""The look-up of uncertain deliveries: ask the provider, weigh its silence, decide what the producer chose.

Nothing is ever sent from here. What was surely not carried out, or may be sent again, goes back to waiting and takes
the engine's usual steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from config.policy import Operation, Spec
from delivery.errors import ProviderError
from delivery.outcomes import Receipt
from delivery.ports import Conclusion, Doubt, Doubts, Provider


@dataclass(frozen=True)
class Confirmer:
    """Looks uncertain deliveries up.

    Attributes:
        pause: Time between two look-ups of one delivery.
    """

    doubts: Doubts
    providers: Mapping[str, Provider]
    specs: Mapping[str, Spec]
    pause: timedelta = timedelta(seconds=10)

    def confirm(self, *, most: int = 100) -> list[Conclusion]:
        """Work on uncertain deliveries once; return the conclusions that were written."""
        taken = self.doubts.take(pause=self.pause, window=self._windows(), most=most)
        conclusions = [self._weigh(each) for each in taken]
        written = self.doubts.conclude(conclusions)
        return [each for each in conclusions if each.doubt.claimed.order.delivery_id in written]

    def _windows(self) -> dict[str, timedelta]:
        return {kind: patience(each) for spec in self.specs.values() for kind, each in spec.operations.items()}

    def _weigh(self, doubt: Doubt) -> Conclusion:
        order = doubt.claimed.order
        operation = self.specs[order.command.service].operations[order.command.kind]
        try:
            provider = self.providers.get(order.account)
            found = provider.look_up(order) if provider else None
        except ProviderError as err:
            return weigh_silence(doubt, operation, str(err))
        except Exception as err:  # noqa: BLE001 - one account whose adapter is broken must not stop the others
            return weigh_silence(doubt, operation, f"the provider's adapter failed with {type(err).__name__}")
        if provider is None:
            return weigh_silence(doubt, operation, f"no account named {order.account} is set up here")
        if isinstance(found, Receipt):
            return Conclusion(doubt, "proved", "the provider has it", found)
        return Conclusion(doubt, "absent", "the provider does not have it; it is sent again")


def patience(operation: Operation) -> timedelta:
    """Return how long evidence may take to arrive before silence is weighed."""
    return operation.look_up.wait if operation.look_up else timedelta()


def weigh_silence(doubt: Doubt, operation: Operation, why: str) -> Conclusion:
    """Decide where the provider could not be asked.

    Args:
        why: What the look-up said.

    Returns:
        `later` while evidence may still come; `absent` when events were arriving all the while and none was about this
        delivery; otherwise what the producer chose: `resend` once, or `unconfirmed` for a person.
    """
    if doubt.age < patience(operation):
        return Conclusion(doubt, "later", why)
    if operation.look_up and operation.look_up.by == "webhook" and doubt.listening:
        return Conclusion(doubt, "absent", "events were arriving and none was about it; it is sent again")
    if doubt.hold or doubt.resent:
        return Conclusion(
            doubt, "unconfirmed", f"it may have arrived and nothing proves it ({why}); look before replaying"
        )
    return Conclusion(doubt, "resend", f"nothing proves that it arrived ({why}); it is sent again once, as asked")
