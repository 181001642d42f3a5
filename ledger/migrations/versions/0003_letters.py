"""What dead letters need: bulk replays, and which one a delivery belongs to."""

from alembic import op

from ledger.migrations.script import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UP = """
ALTER TABLE deliveries ADD COLUMN replay UUID;
CREATE INDEX ix_deliveries_replay ON deliveries (replay) WHERE replay is not null;
CREATE TABLE replays (
    id UUID NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    filter JSONB NOT NULL,
    pace DOUBLE PRECISION,
    threshold DOUBLE PRECISION NOT NULL,
    threshold_unit TEXT NOT NULL,
    total INTEGER NOT NULL,
    put_back INTEGER DEFAULT '0' NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    stopped_at TIMESTAMP WITH TIME ZONE,
    stop_reason TEXT,
    CONSTRAINT pk_replays PRIMARY KEY (id),
    CONSTRAINT ck_replays_threshold_unit CHECK (threshold_unit in ('share', 'errors'))
);
CREATE INDEX ix_replays_running ON replays (started_at) WHERE stopped_at is null;
COMMENT ON COLUMN deliveries.replay IS 'the bulk replay it belongs to';
COMMENT ON COLUMN replays.pace IS 'deliveries that become due in a second; null: all at once';
COMMENT ON COLUMN replays.threshold IS 'stop above this share of those that ended, or this number of errors';
COMMENT ON COLUMN replays.put_back IS 'dead again, untried, after the stop';
COMMENT ON COLUMN replays.stop_reason IS 'done, or why the rest was put back';
"""


def upgrade() -> None:
    """Add them."""
    run(_UP)


def downgrade() -> None:
    """Drop them."""
    op.drop_table("replays")
    op.drop_index("ix_deliveries_replay")
    op.drop_column("deliveries", "replay")
