"""A ledger that only says what opening a delivery would do. It writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text

from delivery.ports import NewDelivery, Opened
from ledger import quotas
from ledger.database import statement
from ledger.entries import may_differ
from ledger.store import PostgresLedger

_EARLIER = text("""
    SELECT i.body_hash, d.id, d.state, d.next_at
    FROM idempotency i JOIN deliveries d ON d.id = i.delivery_id
    WHERE i.producer = :producer AND i.key = :key AND i.kept_until > now() AND d.environment = :environment
""")


@dataclass(frozen=True)
class Rehearsal(PostgresLedger):
    """The same question as `open`, without its effect."""

    def open(self, new: Sequence[NewDelivery]) -> list[Opened]:
        """Return what would stand for each delivery now; repeats among `new` themselves are not looked for.

        Raises:
            LedgerUnavailable: Postgres is away.
        """
        return [self._foreseen(each) for each in new]

    def _foreseen(self, new: NewDelivery) -> Opened:
        entry = self._entry(new)
        with statement(self.engine) as connection:
            for key, (body_hash, _) in entry.keys.items():
                values = {"producer": key[0], "key": key[1], "environment": self.environment}
                row = connection.execute(_EARLIER, values).one_or_none()
                if row is not None:
                    same = bytes(row.body_hash) == body_hash or not may_differ(key)
                    return Opened(row.id, fresh=False, same_body=same, state=row.state, next_at=row.next_at)
            refused = quotas.admit(connection, [entry], only_look=True).refused.get(new.id)
        now = datetime.now(UTC)
        send_at = new.command.options.send_at
        waits = send_at is not None and send_at > now
        state = "held" if new.held_code else "waiting" if waits else "ready"
        next_at = send_at if send_at and waits else now
        return Opened(new.id, fresh=refused is None, same_body=True, state=state, next_at=next_at, refusal=refused)
