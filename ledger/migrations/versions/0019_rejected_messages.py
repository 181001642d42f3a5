"""Broker messages that were refused: masked copies of the newest ones."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make room for the copies."""
    op.execute("""
        CREATE TABLE rejected_messages (
          id UUID PRIMARY KEY,
          at TIMESTAMPTZ NOT NULL DEFAULT now(),
          reason TEXT NOT NULL,
          queue TEXT NOT NULL,
          task TEXT NOT NULL,
          message_id TEXT NOT NULL,
          issues JSONB NOT NULL,
          size INTEGER NOT NULL,
          copy TEXT NOT NULL
        )
    """)
    op.execute(
        "COMMENT ON TABLE rejected_messages IS 'broker messages that no task could take, the newest ones; no content'"
    )
    op.execute("COMMENT ON COLUMN rejected_messages.issues IS 'which fields are wrong and how, never a value'")
    op.execute("COMMENT ON COLUMN rejected_messages.size IS 'bytes'")
    op.execute("COMMENT ON COLUMN rejected_messages.copy IS 'the shape of the message: names and sizes'")


def downgrade() -> None:
    """Forget the copies."""
    op.drop_table("rejected_messages")
