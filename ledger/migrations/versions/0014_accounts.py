"""Accounts that operators add: what each is set up with, sealed."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make room for the values of added accounts."""
    op.execute("ALTER TABLE accounts ADD COLUMN settings BYTEA, ADD COLUMN version INTEGER NOT NULL DEFAULT 1")
    op.execute(
        "COMMENT ON COLUMN accounts.settings IS"
        " 'an added account''s variables as JSON, sealed with a master key; null: the environment''s'"
    )
    op.execute("COMMENT ON COLUMN accounts.version IS 'grows with each change of the settings'")


def downgrade() -> None:
    """Forget added accounts."""
    for name in ("version", "settings"):
        op.drop_column("accounts", name)
