"""What producers may do, what waits for approval, and the switch that stops everything."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE producers (
    name TEXT NOT NULL,
    per_minute INTEGER,
    per_day INTEGER,
    new_recipients_per_day INTEGER,
    allowed TEXT[],
    needs_approval BOOLEAN DEFAULT false NOT NULL,
    loop_most INTEGER DEFAULT 20 NOT NULL,
    loop_within INTERVAL DEFAULT '1 hour' NOT NULL,
    frozen_at TIMESTAMP WITH TIME ZONE,
    frozen_reason TEXT,
    minute_from TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    in_minute INTEGER DEFAULT 0 NOT NULL,
    day_from TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    in_day INTEGER DEFAULT 0 NOT NULL,
    new_in_day INTEGER DEFAULT 0 NOT NULL,
    CONSTRAINT pk_producers PRIMARY KEY (name)
) WITH (fillfactor = 50);
COMMENT ON COLUMN producers.allowed IS 'keyed hashes of recipients, and @domains; null: everybody';
COMMENT ON COLUMN producers.loop_most IS 'the same content to one person within loop_within; 0: no guard';
COMMENT ON COLUMN producers.minute_from IS 'the first delivery of the minute that is counted; likewise day_from';
CREATE TABLE switches (
    name TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_switches PRIMARY KEY (name)
);
COMMENT ON TABLE switches IS 'a switch that has a row is on';
ALTER TABLE deliveries ADD COLUMN content BIGINT;
COMMENT ON COLUMN deliveries.content IS 'keyed hash of what is asked for, for the loop guard';
CREATE INDEX ix_deliveries_same ON deliveries (person, content, id);
DROP INDEX ix_deliveries_person;
"""


def upgrade() -> None:
    """Add them. The new index finds a person as the old one did, and within it the same content."""
    for statement in _UP.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.create_index("ix_deliveries_person", "deliveries", ["person"])
    op.drop_index("ix_deliveries_same", "deliveries")
    op.drop_column("deliveries", "content")
    op.drop_table("switches")
    op.drop_table("producers")
