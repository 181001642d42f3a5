"""No statistics of tables that are still tiny: a plan made by them is kept, and reads all of a table that grows."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TABLES = ("deliveries", "people", "payloads", "idempotency", "attempts")


def upgrade() -> None:
    """Analyze only after thousands of rows; until then the planner expects ten pages, and takes the index."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} SET (autovacuum_analyze_threshold = 5000)")


def downgrade() -> None:
    """Analyze after fifty rows again."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_analyze_threshold)")
