"""What the look-up of uncertain deliveries needs: when it was looked, whether it was sent again, and provider events."""

from alembic import op

from ledger.migrations.script import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UP = """
ALTER TABLE deliveries ADD COLUMN looked_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE deliveries ADD COLUMN resent SMALLINT DEFAULT '0' NOT NULL;
CREATE TABLE inbound_events (
    id BIGSERIAL NOT NULL,
    account TEXT NOT NULL,
    key TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    delivery_id UUID,
    status TEXT,
    receipt TEXT,
    code TEXT,
    worked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_inbound_events PRIMARY KEY (id),
    CONSTRAINT uq_inbound_events UNIQUE (account, key)
);
CREATE INDEX ix_inbound_events_delivery_id ON inbound_events (delivery_id);
CREATE INDEX ix_inbound_events_heard ON inbound_events (account, at);
CREATE INDEX ix_inbound_events_waiting ON inbound_events (id) WHERE worked_at is null;
COMMENT ON COLUMN deliveries.uncertain_since IS 'kept when a person must decide';
COMMENT ON COLUMN deliveries.looked_at IS 'last look-up of an uncertain delivery';
COMMENT ON COLUMN deliveries.resent IS '1 after it was sent again unconfirmed';
COMMENT ON COLUMN ticks.at IS 'when the task last began';
COMMENT ON COLUMN inbound_events.key IS 'the provider''s event, so that a repeat is stored once';
COMMENT ON COLUMN inbound_events.delivery_id IS 'ours, as the provider echoed it';
COMMENT ON COLUMN inbound_events.status IS 'sent, delivered, read, failed or bounced';
COMMENT ON COLUMN inbound_events.receipt IS 'the provider''s own id';
COMMENT ON COLUMN inbound_events.code IS 'why it failed';
"""


def upgrade() -> None:
    """Add them."""
    run(_UP)


def downgrade() -> None:
    """Drop them."""
    op.drop_table("inbound_events")
    op.drop_column("deliveries", "resent")
    op.drop_column("deliveries", "looked_at")
