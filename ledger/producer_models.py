"""The tables of producers and of refused messages. Take `metadata`, with all tables, from here."""

from sqlalchemy import Boolean, Column, DateTime, Integer, Interval, LargeBinary, Table, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from ledger.record_models import metadata

__all__ = ["api_keys", "metadata", "producers", "rejected_messages"]

_Instant = DateTime(timezone=True)
_now = text("now()")

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256; the key itself is shown once and stored nowhere"),
    Column("hint", Text, nullable=False, comment="how the key begins, for people to recognise it"),
    Column("producer", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", _Instant, nullable=False, server_default=_now),
    Column("created_by", Text, nullable=False),
    Column("expires_at", _Instant),
    Column("revoked_at", _Instant),
    UniqueConstraint("hash", name="uq_api_keys"),
)

producers = Table(
    "producers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("per_minute", Integer),
    Column("per_day", Integer),
    Column("new_recipients_per_day", Integer),
    Column("allowed", ARRAY(Text), comment="keyed hashes of recipients, and @domains; null: everybody"),
    Column("needs_approval", Boolean, nullable=False, server_default="false"),
    Column(
        "loop_most",
        Integer,
        nullable=False,
        server_default="20",
        comment="the same content to one person within loop_within; 0: no guard",
    ),
    Column("loop_within", Interval, nullable=False, server_default=text("'1 hour'")),
    Column("recipients_per_mail", Integer),
    Column("senders", ARRAY(Text), comment="addresses and @domains it may send mail from; null: those of the account"),
    Column("most_open", Integer, comment="deliveries that may wait, scheduled ones included; null: the common number"),
    Column("most_open_mb", Integer),
    Column("frozen_at", _Instant),
    Column("frozen_reason", Text),
    Column(
        "minute_from",
        _Instant,
        nullable=False,
        server_default=_now,
        comment="the first delivery of the minute that is counted; likewise day_from",
    ),
    Column("in_minute", Integer, nullable=False, server_default="0"),
    Column("day_from", _Instant, nullable=False, server_default=_now),
    Column("in_day", Integer, nullable=False, server_default="0"),
    Column("new_in_day", Integer, nullable=False, server_default="0"),
    # Rewritten with each delivery of a producer that has caps.
    postgresql_with={"fillfactor": "50"},
)

rejected_messages = Table(
    "rejected_messages",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("at", _Instant, nullable=False, server_default=_now),
    Column("reason", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("issues", JSONB, nullable=False, comment="which fields are wrong and how, never a value"),
    Column("size", Integer, nullable=False, comment="bytes"),
    Column("copy", Text, nullable=False, comment="the shape of the message: names and sizes"),
    comment="broker messages that no task could take, the newest ones; no content",
)
