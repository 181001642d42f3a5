"""Providers' ids that name a person, and producers' keys, are keyed hashes; `ledger.hashing` hashes the old ones."""

from ledger.migrations.script import run

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_RECEIPT = "the provider''s own id; the keyed hash of one that names a person"
# A key that is no longer recognised has no use.
_UP = f"""
DELETE FROM idempotency WHERE kept_until <= now();
COMMENT ON COLUMN deliveries.receipt IS '{_RECEIPT}';
COMMENT ON COLUMN inbound_events.receipt IS '{_RECEIPT}';
COMMENT ON COLUMN callback_events.receipt IS '{_RECEIPT}';
COMMENT ON COLUMN idempotency.key IS 'keyed hash, with the sort of key in front';
"""  # noqa: S608 - a comment of our own


def upgrade() -> None:
    """Forget keys that ran out, and say what the columns hold now."""
    run(_UP)


def downgrade() -> None:
    """Do nothing: an older version reads hashed ids as they are, and recognises no earlier key."""
