"""API keys of producers."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE api_keys (
    id UUID NOT NULL,
    hash BYTEA NOT NULL,
    hint TEXT NOT NULL,
    producer TEXT NOT NULL,
    scopes TEXT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_by TEXT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT uq_api_keys UNIQUE (hash)
);
COMMENT ON COLUMN api_keys.hash IS 'SHA-256; the key itself is shown once and stored nowhere';
COMMENT ON COLUMN api_keys.hint IS 'how the key begins, for people to recognise it';
CREATE INDEX ix_deliveries_producer ON deliveries (producer, id);
"""


def upgrade() -> None:
    """Add them, and the index that a producer's own list is read by."""
    for statement in _UP.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_deliveries_producer", "deliveries")
    op.drop_table("api_keys")
