"""What a person approved, what was counted against a producer's caps, and further rules for producers."""

from alembic import op

from ledger.migrations.script import run

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_UP = """
ALTER TABLE deliveries ADD COLUMN approved BYTEA;
COMMENT ON COLUMN deliveries.approved IS 'keyed hash of the content that a person approved; nothing else is sent';
ALTER TABLE deliveries ADD COLUMN counted INTEGER;
COMMENT ON COLUMN deliveries.counted IS 'people counted against its producer''s caps; null: nothing was counted';
ALTER TABLE producers ADD COLUMN recipients_per_mail INTEGER;
ALTER TABLE producers ADD COLUMN senders TEXT[];
COMMENT ON COLUMN producers.senders IS 'addresses and @domains it may send mail from; null: those of the account';
ALTER TABLE producers ADD COLUMN most_open INTEGER;
COMMENT ON COLUMN producers.most_open IS 'deliveries that may wait, scheduled ones included; null: the common number';
ALTER TABLE producers ADD COLUMN most_open_mb INTEGER;
"""


def upgrade() -> None:
    """Add the columns."""
    run(_UP)


def downgrade() -> None:
    """Drop them."""
    for name in ("most_open_mb", "most_open", "senders", "recipients_per_mail"):
        op.drop_column("producers", name)
    for name in ("counted", "approved"):
        op.drop_column("deliveries", name)
