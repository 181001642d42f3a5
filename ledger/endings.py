"""How settled attempts are written: one row of the SETTLE statement for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic_core import to_json

from delivery.outcomes import Deferred, Outcome, Rejected, Succeeded
from delivery.ports import Settlement
from delivery.redaction import mask_text
from ledger.vault import Vault

_LONGEST_REASON = 500


@dataclass(frozen=True)
class Ending:
    """One settled attempt, as a row of the SETTLE statement."""

    id: UUID
    fence: int
    state: str
    outcome: str
    code: str
    reason: str | None = None
    wait_s: float | None = None
    parked: bool = False
    burned: bool = True
    receipt: str | None = None
    http_status: int | None = None
    provider_code: str | None = None
    duration_ms: float | None = None
    paced: bool = False


def ending_of(settlement: Settlement, vault: Vault) -> Ending:
    """Return what is written of a settlement; a provider's id that names a person as its keyed hash."""
    outcome, claimed = settlement.outcome, settlement.claimed
    return Ending(
        id=claimed.order.delivery_id,
        fence=claimed.fence,
        state=_state(outcome),
        outcome=type(outcome).__name__.lower(),
        code=outcome.code,
        reason=None if isinstance(outcome, Succeeded) else mask_text(outcome.reason)[:_LONGEST_REASON],
        wait_s=outcome.wait.total_seconds() if isinstance(outcome, Deferred) else None,
        parked=isinstance(outcome, Deferred) and outcome.parked,
        burned=not isinstance(outcome, Deferred) or outcome.burned,
        receipt=vault.proof(outcome.receipt.id) if isinstance(outcome, Succeeded) else None,
        http_status=settlement.http_status,
        provider_code=settlement.provider_code,
        duration_ms=settlement.duration.total_seconds() * 1000,
        paced=isinstance(outcome, Deferred) and outcome.paced,
    )


def _state(outcome: Outcome) -> str:
    if isinstance(outcome, Succeeded):
        return "succeeded"
    if isinstance(outcome, Deferred):
        return "waiting"
    if isinstance(outcome, Rejected):
        return "held" if outcome.held else "dead"
    return "uncertain"


def rows_of(endings: Sequence[Ending]) -> dict[str, Any]:
    """Return the values of the SETTLE statement."""
    return {"rows": to_json(endings).decode(), "many": len(endings)}
