"""The purge: how many deliveries it removed, so that the books still balance."""

from ledger.migrations.script import run

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE purged (
    what TEXT NOT NULL,
    n BIGINT NOT NULL,
    CONSTRAINT pk_purged PRIMARY KEY (what)
);
COMMENT ON COLUMN purged.what IS 'a state: deliveries that ended so and are gone; accepted: their audit rows';
"""


def upgrade() -> None:
    """Make room for the counts."""
    run(_UP)


def downgrade() -> None:
    """Forget them."""
    run("DROP TABLE purged")
