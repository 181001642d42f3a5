"""How long a promise lasts, so that every replay gets the same time again and not what is left plus what was used."""

from alembic import op

from ledger.migrations.script import run

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# A constant default is no rewrite of the table. One day is what the forms say; older rows get it when they are replayed.
_UP = """
ALTER TABLE deliveries ADD COLUMN lifetime INTERVAL DEFAULT '1 day' NOT NULL;
COMMENT ON COLUMN deliveries.lifetime IS 'from the first due instant until it expires; a replay gets it again';
"""


def upgrade() -> None:
    """Add it."""
    run(_UP)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("deliveries", "lifetime")
