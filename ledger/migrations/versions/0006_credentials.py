"""Credentials that live in the ledger, why an account is held, and open alerts."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE credentials (
    account TEXT NOT NULL,
    version INTEGER DEFAULT '1' NOT NULL,
    sealed BYTEA NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    renewing_until TIMESTAMP WITH TIME ZONE,
    unproven_since TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_credentials PRIMARY KEY (account)
);
CREATE TABLE alerts (
    account TEXT NOT NULL,
    code TEXT NOT NULL,
    severity TEXT NOT NULL,
    reason TEXT NOT NULL,
    next_step TEXT NOT NULL,
    first_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    last_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_alerts PRIMARY KEY (account, code)
);
ALTER TABLE accounts ADD COLUMN held_code TEXT;
COMMENT ON COLUMN credentials.version IS 'grows with each change; who changes it names the one it read';
COMMENT ON COLUMN credentials.sealed IS 'the secrets as JSON, sealed with a master key';
COMMENT ON COLUMN credentials.renewing_until IS 'one process at a time renews it, and no longer than this';
COMMENT ON COLUMN credentials.unproven_since IS 'a renewal began then, and none was stored since';
COMMENT ON COLUMN alerts.last_at IS 'when it was last told; never more often than every few minutes';
COMMENT ON COLUMN accounts.held_code IS 'the error code when the system held it; null: a person did';
"""


def upgrade() -> None:
    """Add them."""
    for statement in _UP.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.drop_column("accounts", "held_code")
    op.drop_table("alerts")
    op.drop_table("credentials")
