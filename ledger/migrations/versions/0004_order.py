"""Order keys, fallback commands and the quarantine of deliveries that may kill their workers."""

from alembic import op

from ledger.migrations.script import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UP = """
ALTER TABLE deliveries ADD COLUMN stuck_since TIMESTAMP WITH TIME ZONE;
ALTER TABLE deliveries ADD COLUMN fallback SMALLINT DEFAULT '0' NOT NULL;
ALTER TABLE deliveries ADD COLUMN fallback_id UUID;
ALTER TABLE deliveries ADD COLUMN fallback_of UUID;
CREATE INDEX ix_deliveries_order_key ON deliveries (order_key, id)
    WHERE order_key is not null and state in ('ready', 'waiting', 'attempting', 'uncertain');
CREATE INDEX ix_deliveries_keyed_due ON deliveries (priority, next_at)
    WHERE order_key is not null and state in ('ready', 'waiting');
CREATE INDEX ix_deliveries_fallback ON deliveries (id)
    WHERE fallback = 1 and (state in ('dead', 'expired', 'uncertain') or progress in ('failed', 'bounced'));
CREATE INDEX ix_deliveries_suspect ON deliveries (next_at)
    WHERE state in ('ready', 'waiting') and coalesce((tries ->> 'lease_lost')::int, 0) >= 3;
CREATE TABLE quarantine (
    name TEXT NOT NULL,
    delivery_id UUID NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_quarantine PRIMARY KEY (name)
);
COMMENT ON COLUMN deliveries.order_key IS 'keyed hash of producer, account and the producer''s own order key';
COMMENT ON COLUMN deliveries.stuck_since IS
    'first in the fallback queue or uncertain: it blocks its key for so long';
COMMENT ON COLUMN deliveries.fallback IS '1 stands by, 2 was started';
COMMENT ON COLUMN deliveries.fallback_id IS 'the delivery that was started in place of this one';
COMMENT ON COLUMN deliveries.fallback_of IS 'the delivery that this one was started for';
COMMENT ON COLUMN quarantine.delivery_id IS 'the one suspect that is attempted';
COMMENT ON COLUMN quarantine.until IS 'end of its lease; in the past: free';
"""


def upgrade() -> None:
    """Add them."""
    run(_UP)


def downgrade() -> None:
    """Drop them."""
    op.drop_table("quarantine")
    for name in ("order_key", "keyed_due", "fallback", "suspect"):
        op.drop_index(f"ix_deliveries_{name}", "deliveries")
    for name in ("fallback_of", "fallback_id", "fallback", "stuck_since"):
        op.drop_column("deliveries", name)
