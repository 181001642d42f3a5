"""Open breakers in the table `switches`: `breaker:ACCOUNT/OPERATION` stands while the shared breaker is not closed.

Redis decides; this record is read only where Redis has forgotten.
"""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from ledger.database import statement

_KEEP = text("""
    INSERT INTO switches AS s (name, actor, reason) VALUES ('breaker:' || :name, 'breaker', 'too many calls failed')
    ON CONFLICT (name) DO UPDATE SET at = now()
""")
_FORGET = text("DELETE FROM switches WHERE name = 'breaker:' || :name")
_STANDS = text("SELECT EXISTS (SELECT FROM switches WHERE name = 'breaker:' || :name)")


@dataclass(frozen=True)
class OpenBreakers:
    """The record of breakers that are not closed. Every method raises LedgerUnavailable when Postgres is away."""

    engine: Engine

    def keep(self, name: str) -> None:
        """Record that a breaker opened, e.g. "crm:default/create_lead"."""
        with statement(self.engine) as connection:
            connection.execute(_KEEP, {"name": name})

    def forget(self, name: str) -> None:
        """Record that it closed."""
        with statement(self.engine) as connection:
            connection.execute(_FORGET, {"name": name})

    def stands(self, name: str) -> bool:
        """Tell whether it opened and did not close since."""
        with statement(self.engine) as connection:
            return bool(connection.scalar(_STANDS, {"name": name}))
