"""Masked copies of broker messages that were refused, the newest ones, for the operator.

They hold no content (see `delivery.refused`), so they need neither encryption nor erasure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, Row, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from delivery.errors import FieldIssue
from delivery.ids import new_id
from delivery.refused import RefusedMessage
from ledger.database import transaction

# 4 MB at most: a copy has about 4,000 characters.
MOST_KEPT = 1_000

_KEEP = text("""
    INSERT INTO rejected_messages (id, reason, queue, task, message_id, issues, size, copy)
    VALUES (:id, :reason, :queue, :task, :message_id, :issues, :size, :copy)
""").bindparams(bindparam("issues", type_=JSONB))
_FORGET = text("""
    DELETE FROM rejected_messages WHERE id <= (SELECT id FROM rejected_messages ORDER BY id DESC OFFSET :most LIMIT 1)
""")
_COLUMNS = "id, at, reason, queue, task, message_id, issues, size, copy"
_LIST = text(f"""
    SELECT {_COLUMNS} FROM rejected_messages
    WHERE (CAST(:reason AS text) IS NULL OR reason = :reason) ORDER BY id DESC LIMIT :most
""")  # noqa: S608 - names of columns
_FIND = text(f"SELECT {_COLUMNS} FROM rejected_messages WHERE id = :id")  # noqa: S608 - names of columns


@dataclass(frozen=True)
class KeptMessage:
    """A message that was refused: when, and what is kept of it. See `delivery.refused.RefusedMessage`."""

    id: UUID
    at: datetime
    message: RefusedMessage


@dataclass(frozen=True)
class RejectedMessages:
    """The newest messages that no task could take."""

    engine: Engine

    def keep(self, refused: Sequence[RefusedMessage]) -> None:
        """Keep copies, and forget those beyond the newest thousand.

        Raises:
            LedgerUnavailable: Postgres does not answer; nothing was kept.
        """
        rows = [
            {**vars(each), "id": new_id(), "issues": [vars(issue) for issue in each.issues]}
            for each in refused[-MOST_KEPT:]
        ]
        with transaction(self.engine) as connection:
            connection.execute(_KEEP, rows)
            connection.execute(_FORGET, {"most": MOST_KEPT})

    def newest(self, *, most: int, reason: str | None = None) -> list[KeptMessage]:
        """Return the newest copies, newest first."""
        with transaction(self.engine) as connection:
            return [_kept(row) for row in connection.execute(_LIST, {"most": most, "reason": reason})]

    def find(self, id_: UUID) -> KeptMessage | None:
        """Return one copy."""
        with transaction(self.engine) as connection:
            row = connection.execute(_FIND, {"id": id_}).one_or_none()
        return _kept(row) if row else None


def _kept(row: Row[Any]) -> KeptMessage:
    issues = tuple(FieldIssue(**each) for each in row.issues)
    return KeptMessage(
        row.id, row.at, RefusedMessage(row.reason, row.queue, row.task, row.message_id, issues, row.size, row.copy)
    )
