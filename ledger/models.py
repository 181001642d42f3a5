"""The tables. `deliveries` is narrow and hot; everything long, sealed or rarely read stands beside it."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

STATES = (
    "ready",
    "attempting",
    "waiting",
    "uncertain",
    "held",
    "succeeded",
    "dead",
    "canceled",
    "expired",
)
OPEN_STATES = ("ready", "attempting", "waiting", "uncertain", "held")
PRIORITIES = ("high", "normal", "low")

_Instant = DateTime(timezone=True)
_now = text("now()")
_RECEIPT = "the provider's own id; the keyed hash of one that names a person"

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("producer", Text, nullable=False),
    Column(
        "environment",
        Text,
        nullable=False,
        server_default=text("'sandbox'"),
        comment="where it was accepted; no other environment sends it",
    ),
    Column("state", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False, comment="position in PRIORITIES; 0 is the most urgent"),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("tries", JSONB, nullable=False, server_default="{}", comment="attempts spent, by error code"),
    Column("parks", SmallInteger, nullable=False, server_default="0", comment="times in the fallback queue"),
    Column("lease_until", _Instant),
    Column("next_at", _Instant, nullable=False, server_default=_now),
    Column("hinted_at", _Instant, comment="when a worker was, or will be, told to look"),
    Column("expires_at", _Instant, nullable=False),
    Column(
        "lifetime",
        Interval,
        nullable=False,
        server_default=text("'1 day'"),
        comment="from the first due instant until it expires; a replay gets it again",
    ),
    Column("created_at", _Instant, nullable=False, server_default=_now),
    Column("settled_at", _Instant),
    Column("uncertain_since", _Instant, comment="kept when a person must decide"),
    Column("looked_at", _Instant, comment="last look-up of an uncertain delivery"),
    Column("resent", SmallInteger, nullable=False, server_default="0", comment="1 after it was sent again unconfirmed"),
    Column("hold_uncertain", SmallInteger, nullable=False, comment="1 holds an uncertain delivery for a person"),
    Column("order_key", Text, comment="keyed hash of producer, account and the producer's own order key"),
    Column("stuck_since", _Instant, comment="first in the fallback queue or uncertain: it blocks its key for so long"),
    Column("fallback", SmallInteger, nullable=False, server_default="0", comment="1 stands by, 2 was started"),
    Column("fallback_id", UUID(as_uuid=True), comment="the delivery that was started in place of this one"),
    Column("fallback_of", UUID(as_uuid=True), comment="the delivery that this one was started for"),
    Column("endpoint_id", UUID(as_uuid=True), comment="where the producer is told what becomes of it"),
    Column("marketing", SmallInteger, nullable=False, server_default="0", comment="1 asks for the person's consent"),
    Column(
        "cancel_on_reply", SmallInteger, nullable=False, server_default="0", comment="1 ends when the person writes"
    ),
    Column("person", LargeBinary, nullable=False, comment="keyed hash of the recipient"),
    Column("recipient", Text, nullable=False, comment="masked, for people to read"),
    Column("content", BigInteger, comment="keyed hash of what is asked for, for the loop guard"),
    Column("progress", Text),
    Column("receipt", Text, comment=_RECEIPT),
    Column("code", Text, comment="stable word for the last outcome"),
    Column("reason", Text),
    Column("replay_of", UUID(as_uuid=True)),
    Column("replay", UUID(as_uuid=True), comment="the bulk replay it belongs to"),
    Column("approved", LargeBinary, comment="keyed hash of the content that a person approved; nothing else is sent"),
    Column("counted", Integer, comment="people counted against its producer's caps; null: nothing was counted"),
    CheckConstraint("state in ('" + "','".join(STATES) + "')", name="state"),
    CheckConstraint("(state = 'attempting') = (lease_until is not null)", name="lease"),
    # Every transition rewrites a row; free room on the page keeps the update on it (HOT) and the indexes small.
    postgresql_with={"fillfactor": "75"},
)

# Partial indexes on open states only: the hot paths stay small however many deliveries are settled.
Index(
    "ix_deliveries_due",
    deliveries.c.account,
    deliveries.c.kind,
    deliveries.c.priority,
    deliveries.c.next_at,
    postgresql_where=text("order_key is null and state in ('ready', 'waiting')"),
)
Index("ix_deliveries_expiry", deliveries.c.expires_at, postgresql_where=text("state in ('ready', 'waiting')"))
Index("ix_deliveries_lease", deliveries.c.lease_until, postgresql_where=text("state = 'attempting'"))
Index("ix_deliveries_uncertain", deliveries.c.uncertain_since, postgresql_where=text("state = 'uncertain'"))
Index(
    "ix_deliveries_asks_person",
    deliveries.c.account,
    deliveries.c.id,
    postgresql_where=text("state in ('dead', 'held')"),
)
Index("ix_deliveries_died", deliveries.c.settled_at, postgresql_where=text("state = 'dead'"))
Index("ix_deliveries_same", deliveries.c.person, deliveries.c.content, deliveries.c.id)
Index("ix_deliveries_producer", deliveries.c.producer, deliveries.c.id)
Index("ix_deliveries_replay", deliveries.c.replay, postgresql_where=text("replay is not null"))
Index(
    "ix_deliveries_order_key",
    deliveries.c.order_key,
    deliveries.c.id,
    postgresql_where=text("order_key is not null and state in ('ready', 'waiting', 'attempting', 'uncertain')"),
)
Index(
    "ix_deliveries_keyed_due",
    deliveries.c.account,
    deliveries.c.kind,
    deliveries.c.priority,
    deliveries.c.next_at,
    postgresql_where=text("order_key is not null and state in ('ready', 'waiting')"),
)
Index(
    "ix_deliveries_fallback",
    deliveries.c.id,
    postgresql_where=text(
        "fallback = 1 and (state in ('dead', 'expired', 'uncertain') or progress in ('failed', 'bounced'))"
    ),
)
Index(
    "ix_deliveries_suspect",
    deliveries.c.next_at,
    postgresql_where=text("state in ('ready', 'waiting') and coalesce((tries ->> 'lease_lost')::int, 0) >= 3"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("name", Text, primary_key=True),
    Column("delivery_id", UUID(as_uuid=True), nullable=False, comment="the one suspect that is attempted"),
    Column("until", _Instant, nullable=False, comment="end of its lease; in the past: free"),
)

payloads = Table(
    "payloads",
    metadata,
    Column("delivery_id", UUID(as_uuid=True), ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("body", LargeBinary, nullable=False, comment="the command, sealed with the person's data key"),
)

people = Table(
    "people",
    metadata,
    Column("person", LargeBinary, primary_key=True, comment="keyed hash of the recipient"),
    Column("data_key", LargeBinary, nullable=False, comment="wrapped by a master key; deleting it erases the person"),
    Column("created_at", _Instant, nullable=False, server_default=_now),
)

vault = Table(
    "vault",
    metadata,
    Column("name", Text, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False, comment="wrapped by a master key"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", UUID(as_uuid=True), ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("worker", Text, nullable=False),
    Column("started_at", _Instant, nullable=False),
    Column("ended_at", _Instant),
    Column("outcome", Text),
    Column("code", Text),
    Column("http_status", SmallInteger),
    Column("provider_code", Text),
    Column("duration_ms", Integer),
    Column("wait_s", Integer, comment="seconds until the next attempt"),
)

# Rows come in the order of time, so a few pages of ranges find the latest; a tree would cost each attempt more.
Index("ix_attempts_started_at", attempts.c.started_at, postgresql_using="brin", postgresql_with={"autosummarize": "on"})

idempotency = Table(
    "idempotency",
    metadata,
    Column("producer", Text, primary_key=True),
    Column("key", Text, primary_key=True, comment="keyed hash, with the sort of key in front"),
    Column("body_hash", LargeBinary, nullable=False),
    Column("delivery_id", UUID(as_uuid=True), nullable=False),
    Column("kept_until", _Instant, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("held_reason", Text, comment="why deliveries of this account wait for a person; null when it works"),
    Column("held_at", _Instant),
    Column("held_code", Text, comment="the error code when the system held it; null: a person did"),
    Column("health", Text, comment="ok or the error code of the last probe"),
    Column("health_note", Text),
    Column("probed_at", _Instant),
    Column("told", Text, comment="what the provider last told of this account by itself"),
    Column("told_at", _Instant),
    Column(
        "settings",
        LargeBinary,
        comment="an added account's variables as JSON, sealed with a master key; null: the environment's",
    ),
    Column("version", Integer, nullable=False, server_default="1", comment="grows with each change of the settings"),
)

credentials = Table(
    "credentials",
    metadata,
    Column("account", Text, primary_key=True),
    Column(
        "version",
        Integer,
        nullable=False,
        server_default="1",
        comment="grows with each change; who changes it names the one it read",
    ),
    Column("sealed", LargeBinary, nullable=False, comment="the secrets as JSON, sealed with a master key"),
    Column("changed_at", _Instant, nullable=False, server_default=_now),
    Column("renewing_until", _Instant, comment="one process at a time renews it, and no longer than this"),
    Column("unproven_since", _Instant, comment="a renewal began then, and none was stored since"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("account", Text, primary_key=True),
    Column("code", Text, primary_key=True),
    Column("severity", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("next_step", Text, nullable=False),
    Column("first_at", _Instant, nullable=False, server_default=_now),
    Column(
        "last_at",
        _Instant,
        nullable=False,
        server_default=_now,
        comment="when it was last told; never more often than every few minutes",
    ),
)

inbound_events = Table(
    "inbound_events",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("account", Text, nullable=False),
    Column("key", Text, nullable=False, comment="the provider's event, so that a repeat is stored once"),
    Column("kind", Text, nullable=False, server_default="status", comment="see `delivery.inbound.Kind`"),
    Column("at", _Instant, nullable=False, server_default=_now, comment="when it was stored"),
    Column("occurred_at", _Instant, comment="when it happened, by the provider's clock"),
    Column("delivery_id", UUID(as_uuid=True), comment="ours, as the provider echoed it"),
    Column("status", Text, comment="sent, delivered, read, failed or bounced"),
    Column("receipt", Text, comment=_RECEIPT),
    Column("code", Text, comment="why it failed"),
    Column("provider_code", Text),
    Column("person", LargeBinary, comment="keyed hash of who it is about"),
    Column("alias", LargeBinary, comment="keyed hash of the same person's other name"),
    Column("window_until", _Instant),
    Column("consent", Text, comment="stop or resume"),
    Column("body", LargeBinary, comment="what was said, sealed with the person's data key"),
    Column("facts", JSONB, comment="what was said where it concerns nobody"),
    Column("worked_at", _Instant),
    Column("tries", SmallInteger, nullable=False, server_default="0", comment="how often working on it failed"),
    Column("try_at", _Instant, comment="not before; null: now"),
    Column("set_aside_at", _Instant, comment="it failed too often and waits for a person"),
    Column("fault", Text, comment="what failed, as the name of an exception"),
    UniqueConstraint("account", "key", name="uq_inbound_events"),
)
Index("ix_inbound_events_delivery_id", inbound_events.c.delivery_id)
Index("ix_inbound_events_heard", inbound_events.c.account, inbound_events.c.at)
Index(
    "ix_inbound_events_set_aside",
    inbound_events.c.set_aside_at,
    postgresql_where=text("set_aside_at is not null"),
)
Index("ix_inbound_events_waiting", inbound_events.c.id, postgresql_where=text("worked_at is null"))

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("producer", Text, nullable=False),
    Column("address", LargeBinary, nullable=False, comment="keyed hash of the URL"),
    Column("account", Text, nullable=False, comment="callback:<host>: what shares limits and breaker"),
    Column("url", LargeBinary, nullable=False, comment="sealed: a URL may hold a token"),
    Column("created_at", _Instant, nullable=False, server_default=_now),
    Column("disabled_at", _Instant),
    Column("disabled_reason", Text, comment="why nothing is sent there; null while it is open"),
    UniqueConstraint("producer", "address", name="uq_endpoints"),
)

signing_secrets = Table(
    "signing_secrets",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("producer", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False, comment="sealed"),
    Column("created_at", _Instant, nullable=False, server_default=_now),
    Column("shown_at", _Instant, comment="it is shown once"),
    Column("ends_at", _Instant, comment="signs beside the new one until then; null: the current one"),
)
Index(
    "ix_signing_secrets_producer",
    signing_secrets.c.producer,
    unique=True,
    postgresql_where=text("ends_at is null"),
)

# Filled by the trigger `note_callback_events` on `deliveries`, within the transaction that it tells of.
callback_events = Table(
    "callback_events",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("delivery_id", UUID(as_uuid=True), nullable=False),
    Column(
        "event", Text, nullable=False, comment="the new state or progress; a row lives until its callback is opened"
    ),
    Column("at", _Instant, nullable=False),
    Column("state", Text, nullable=False),
    Column("progress", Text),
    Column("code", Text),
    Column("reason", Text),
    Column("receipt", Text, comment=_RECEIPT),
    Column("attempts", Integer, nullable=False),
    Column("settled_at", _Instant),
    Column("tries", SmallInteger, nullable=False, server_default="0", comment="how often working on it failed"),
    Column("try_at", _Instant, comment="not before; null: now"),
    Column("set_aside_at", _Instant, comment="it failed too often and waits for a person"),
    Column("fault", Text, comment="what failed, as the name of an exception"),
)
Index("ix_callback_events_delivery_id", callback_events.c.delivery_id, callback_events.c.id)
Index(
    "ix_callback_events_set_aside",
    callback_events.c.set_aside_at,
    postgresql_where=text("set_aside_at is not null"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("alias", LargeBinary, primary_key=True, comment="keyed hash of a name that a provider gave a person"),
    Column("person", LargeBinary, nullable=False, comment="keyed hash of the name that our commands use"),
)
Index("ix_aliases_person", aliases.c.person)

windows = Table(
    "windows",
    metadata,
    Column("account", Text, primary_key=True),
    Column("person", LargeBinary, primary_key=True),
    Column("until", _Instant, nullable=False, comment="until then free text may be sent"),
)

opt_outs = Table(
    "opt_outs",
    metadata,
    Column("person", LargeBinary, primary_key=True),
    Column("stopped", Boolean, nullable=False, comment="false once the person allowed marketing again"),
    Column("at", _Instant, nullable=False, comment="when the person said so"),
)

templates = Table(
    "templates",
    metadata,
    Column("account", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("language", Text, primary_key=True),
    Column("status", Text),
    Column("category", Text),
    Column("quality", Text),
    Column("at", _Instant, nullable=False, comment="newest news"),
)

replays = Table(
    "replays",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("filter", JSONB, nullable=False),
    Column("pace", Double, comment="deliveries that become due in a second; null: all at once"),
    Column(
        "threshold",
        Double,
        nullable=False,
        comment="stop above this share of those that ended, or this number of errors",
    ),
    Column("threshold_unit", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("put_back", Integer, nullable=False, server_default="0", comment="dead again, untried, after the stop"),
    Column("started_at", _Instant, nullable=False, server_default=_now),
    Column("stopped_at", _Instant),
    Column("stop_reason", Text, comment="done, or why the rest was put back"),
    CheckConstraint("threshold_unit in ('share', 'errors')", name="threshold_unit"),
)
Index("ix_replays_running", replays.c.started_at, postgresql_where=text("stopped_at is null"))

switches = Table(
    "switches",
    metadata,
    Column("name", Text, primary_key=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", _Instant, nullable=False, server_default=_now),
    comment="a switch that has a row is on",
)

ticks = Table(
    "ticks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", _Instant, nullable=False, comment="when the task last began"),
)

roster = Table(
    "roster",
    metadata,
    Column("name", Text, primary_key=True, comment="machine and process id of a worker"),
    Column("facts", JSONB, nullable=False, comment="what it was started with; no secret"),
    Column("seen_at", _Instant, nullable=False, comment="when it last signed"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("at", _Instant, nullable=False, server_default=_now),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("delivery_id", UUID(as_uuid=True)),
    Column("account", Text),
    Column("reason", Text),
    Column("reason_hash", LargeBinary, comment="keyed hash of a reason that was erased, so that the chain still fits"),
)
Index("ix_audit_delivery_id", audit.c.delivery_id)
