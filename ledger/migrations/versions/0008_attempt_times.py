"""An index over the times of attempts: what was called lately, for a limiter that lost its memory."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it."""
    op.execute("CREATE INDEX ix_attempts_started_at ON attempts USING brin (started_at) WITH (autosummarize = on)")


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_attempts_started_at", "attempts")
