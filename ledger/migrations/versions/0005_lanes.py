"""What is due, by account and kind: a closed gate of one must not hold up the others."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UP = """
DROP INDEX ix_deliveries_due;
DROP INDEX ix_deliveries_keyed_due;
CREATE INDEX ix_deliveries_due ON deliveries (account, kind, priority, next_at)
    WHERE order_key is null and state in ('ready', 'waiting');
CREATE INDEX ix_deliveries_keyed_due ON deliveries (account, kind, priority, next_at)
    WHERE order_key is not null and state in ('ready', 'waiting');
"""

_DOWN = """
DROP INDEX ix_deliveries_due;
DROP INDEX ix_deliveries_keyed_due;
CREATE INDEX ix_deliveries_due ON deliveries (priority, next_at) WHERE state in ('ready', 'waiting');
CREATE INDEX ix_deliveries_keyed_due ON deliveries (priority, next_at)
    WHERE order_key is not null and state in ('ready', 'waiting');
"""


def upgrade() -> None:
    """Make the indexes anew."""
    _run(_UP)


def downgrade() -> None:
    """Make the old ones again."""
    _run(_DOWN)


def _run(statements: str) -> None:
    for each in statements.split(";\n"):
        if each.strip():
            op.execute(each)
