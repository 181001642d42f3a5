"""Dead letters by the time of their death: operators are told of them once a minute."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index dead letters, and nothing else."""
    op.execute("CREATE INDEX ix_deliveries_died ON deliveries (settled_at) WHERE state = 'dead'")


def downgrade() -> None:
    """Drop the index."""
    op.execute("DROP INDEX ix_deliveries_died")
