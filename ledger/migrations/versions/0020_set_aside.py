"""Events that cannot be worked on are set aside, so that they hold up no other."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_TABLES = ("inbound_events", "callback_events")


def upgrade() -> None:
    """Make room for how often an event failed, and when it was set aside."""
    for table in _TABLES:
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN tries SMALLINT NOT NULL DEFAULT 0, ADD COLUMN try_at TIMESTAMPTZ,"
            " ADD COLUMN set_aside_at TIMESTAMPTZ, ADD COLUMN fault TEXT"
        )
        op.execute(f"COMMENT ON COLUMN {table}.tries IS 'how often working on it failed'")
        op.execute(f"COMMENT ON COLUMN {table}.try_at IS 'not before; null: now'")
        op.execute(f"COMMENT ON COLUMN {table}.set_aside_at IS 'it failed too often and waits for a person'")
        op.execute(f"COMMENT ON COLUMN {table}.fault IS 'what failed, as the name of an exception'")
        op.execute(f"CREATE INDEX ix_{table}_set_aside ON {table} (set_aside_at) WHERE set_aside_at IS NOT NULL")


def downgrade() -> None:
    """Let every event be tried again and again."""
    for table in _TABLES:
        op.execute(f"DROP INDEX ix_{table}_set_aside")
        for name in ("fault", "set_aside_at", "try_at", "tries"):
            op.drop_column(table, name)
