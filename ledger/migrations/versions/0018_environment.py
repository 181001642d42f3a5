"""Deliveries remember the environment that accepted them."""

from alembic import context, op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give what is there to the environment that migrates; a program of an earlier version goes on adding to it."""
    environment = context.config.attributes["environment"]
    op.execute(f"ALTER TABLE deliveries ADD COLUMN environment TEXT NOT NULL DEFAULT '{environment}'")
    op.execute("COMMENT ON COLUMN deliveries.environment IS 'where it was accepted; no other environment sends it'")


def downgrade() -> None:
    """Forget it."""
    op.drop_column("deliveries", "environment")
