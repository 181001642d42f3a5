"""The tables that outlive rows: the chain of the audit trail, who was erased, how many rows were purged."""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, LargeBinary, Table, Text, text

from ledger.models import metadata

__all__ = ["audit_chain", "erased", "metadata", "purged"]

_Instant = DateTime(timezone=True)
_now = text("now()")

purged = Table(
    "purged",
    metadata,
    Column(
        "what",
        Text,
        primary_key=True,
        comment="a state: deliveries that ended so and are gone; accepted: their audit rows",
    ),
    Column("n", BigInteger, nullable=False),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    Column("n", BigInteger, primary_key=True, comment="number of the block, from 1 without a gap"),
    Column("last_id", BigInteger, nullable=False, comment="its last audit row; the first one follows the block before"),
    Column("rows", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False, comment="keyed hash of its rows"),
    Column("link", LargeBinary, nullable=False, comment="keyed hash of this block and of the link before"),
    Column("at", _Instant, nullable=False, server_default=_now),
    Column("purged", LargeBinary, comment="keyed proof that the purge removed the rows"),
)

erased = Table(
    "erased",
    metadata,
    Column("person", LargeBinary, primary_key=True, comment="keyed hash of a name of the person"),
    Column("at", _Instant, nullable=False, comment="what was told of the person before is not stored again"),
    Column(
        "suppressed", Boolean, nullable=False, comment="nothing is accepted for the person until an operator allows it"
    ),
)
