"""What is known of a person as a contact: other names, until when free text may be sent, and whether marketing may."""

from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy import Engine, text

from ledger.database import statement
from ledger.vault import Vault


def names_of(person: str) -> str:
    """Return the SQL that lists every hash one person is known by.

    Args:
        person: A column or parameter that holds one of them.
    """
    other = f"SELECT alias FROM aliases WHERE person = {person}"  # noqa: S608 - a column of our own
    main = f"SELECT person FROM aliases WHERE alias = {person}"  # noqa: S608 - as above
    return f"(SELECT {person} UNION ALL {other} UNION ALL {main})"


# An `AND` keeps the look-up away from the many rows that ask for no consent.
OPTED_OUT = f"""(d.marketing = 1 AND coalesce((
          SELECT o.stopped FROM opt_outs o WHERE o.person IN {names_of("d.person")}
          ORDER BY o.at DESC LIMIT 1), false))"""  # noqa: S608 - as above

# Under every name that was known when the person was erased.
SUPPRESSED = "EXISTS (SELECT FROM erased e WHERE e.person = d.person AND e.suppressed)"

_NAMES = names_of("CAST(:person AS bytea)")
_WINDOW = text(f"SELECT max(until) FROM windows WHERE account = :account AND person IN {_NAMES}")  # noqa: S608 - as above
_STOPPED = text(f"SELECT stopped FROM opt_outs WHERE person IN {_NAMES} ORDER BY at DESC LIMIT 1")  # noqa: S608 - as above


_DELIVERED = text(f"""
    SELECT EXISTS (
      SELECT FROM deliveries WHERE person IN {_NAMES} AND producer = :producer AND state = 'succeeded'
    )
""")  # noqa: S608 - as above


@dataclass(frozen=True)
class Contacts:
    """Reads what people's messages left behind. A recipient is written as in a command, e.g. "+5511999990001"."""

    engine: Engine
    vault: Vault

    def window_until(self, account: str, recipient: str) -> datetime | None:
        """Return when the window of this person and account closes, or closed; None when it was never open."""
        values = {"account": account, "person": self.vault.hash(recipient)}
        with statement(self.engine) as connection:
            return cast("datetime | None", connection.scalar(_WINDOW, values))

    def is_known_to(self, producer: str, recipient: str) -> bool:
        """Tell whether a delivery of this producer to the person succeeded."""
        with statement(self.engine) as connection:
            return bool(connection.scalar(_DELIVERED, {"person": self.vault.hash(recipient), "producer": producer}))

    def has_opted_out(self, recipient: str) -> bool:
        """Tell whether the person wants no marketing."""
        with statement(self.engine) as connection:
            return bool(connection.scalar(_STOPPED, {"person": self.vault.hash(recipient)}))
