"""Which workers are at work, and what each was started with."""

from ledger.migrations.script import run

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE roster (
    name TEXT NOT NULL,
    facts JSONB NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_roster PRIMARY KEY (name)
);
COMMENT ON COLUMN roster.name IS 'machine and process id of a worker';
COMMENT ON COLUMN roster.facts IS 'what it was started with; no secret';
COMMENT ON COLUMN roster.seen_at IS 'when it last signed';
"""


def upgrade() -> None:
    """Make room for the list."""
    run(_UP)


def downgrade() -> None:
    """Forget it."""
    run("DROP TABLE roster")
