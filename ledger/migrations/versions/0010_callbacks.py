"""Callbacks: the producers' endpoints and secrets, and the events that they must still be told."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE endpoints (
    id UUID NOT NULL,
    producer TEXT NOT NULL,
    address BYTEA NOT NULL,
    account TEXT NOT NULL,
    url BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    disabled_at TIMESTAMP WITH TIME ZONE,
    disabled_reason TEXT,
    CONSTRAINT pk_endpoints PRIMARY KEY (id),
    CONSTRAINT uq_endpoints UNIQUE (producer, address)
);
CREATE TABLE signing_secrets (
    id UUID NOT NULL,
    producer TEXT NOT NULL,
    secret BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    shown_at TIMESTAMP WITH TIME ZONE,
    ends_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_signing_secrets PRIMARY KEY (id)
);
CREATE UNIQUE INDEX ix_signing_secrets_producer ON signing_secrets (producer) WHERE ends_at is null;
CREATE TABLE callback_events (
    id BIGSERIAL NOT NULL,
    delivery_id UUID NOT NULL,
    event TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    state TEXT NOT NULL,
    progress TEXT,
    code TEXT,
    reason TEXT,
    receipt TEXT,
    attempts INTEGER NOT NULL,
    settled_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_callback_events PRIMARY KEY (id)
);
CREATE INDEX ix_callback_events_delivery_id ON callback_events (delivery_id, id);
ALTER TABLE deliveries ADD COLUMN endpoint_id UUID;
COMMENT ON COLUMN endpoints.address IS 'keyed hash of the URL';
COMMENT ON COLUMN endpoints.account IS 'callback:<host>: what shares limits and breaker';
COMMENT ON COLUMN endpoints.url IS 'sealed: a URL may hold a token';
COMMENT ON COLUMN endpoints.disabled_reason IS 'why nothing is sent there; null while it is open';
COMMENT ON COLUMN signing_secrets.secret IS 'sealed';
COMMENT ON COLUMN signing_secrets.shown_at IS 'it is shown once';
COMMENT ON COLUMN signing_secrets.ends_at IS 'signs beside the new one until then; null: the current one';
COMMENT ON COLUMN callback_events.event IS 'the new state or progress; a row lives until its callback is opened';
COMMENT ON COLUMN deliveries.endpoint_id IS 'where the producer is told what becomes of it'
"""

# The one place that knows what is told, whatever statement changes a delivery: settle, sweep, cancel, look-up, event or
# operator. The clock and not the transaction's start: of two changes of one row the later one has the later instant.
_FUNCTION = """
CREATE FUNCTION note_callback_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO callback_events (delivery_id, event, at, state, progress, code, reason, receipt, attempts, settled_at)
  SELECT NEW.id, word, clock_timestamp(), NEW.state, NEW.progress, NEW.code, NEW.reason, NEW.receipt, NEW.attempts,
         NEW.settled_at
  FROM (VALUES
    (1, NEW.state, NEW.state <> OLD.state AND NEW.state IN ('succeeded', 'dead', 'held', 'canceled', 'expired')),
    (2, NEW.progress, NEW.progress IS DISTINCT FROM OLD.progress
                      AND NEW.progress IN ('delivered', 'read', 'failed', 'bounced'))
  ) AS change (place, word, is_told)
  WHERE is_told ORDER BY place;
  RETURN NULL;
END $$
"""
# A delivery without a callback URL pays for the look at this condition and for nothing else.
_TRIGGER = """
CREATE TRIGGER note_callback_events AFTER UPDATE OF state, progress ON deliveries FOR EACH ROW
WHEN (NEW.endpoint_id IS NOT NULL
      AND (NEW.state <> OLD.state OR NEW.progress IS DISTINCT FROM OLD.progress))
EXECUTE FUNCTION note_callback_events()
"""


def upgrade() -> None:
    """Add them."""
    for statement in [*_UP.split(";\n"), _FUNCTION, _TRIGGER]:
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TRIGGER note_callback_events ON deliveries")
    op.execute("DROP FUNCTION note_callback_events()")
    op.drop_column("deliveries", "endpoint_id")
    for name in ("callback_events", "signing_secrets", "endpoints"):
        op.drop_table(name)
