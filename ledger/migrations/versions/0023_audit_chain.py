"""The audit trail as a chain of blocks, and who was erased, as keyed hashes."""

from ledger.migrations.script import run

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_UP = """
ALTER TABLE audit ADD COLUMN reason_hash BYTEA;
COMMENT ON COLUMN audit.reason_hash IS 'keyed hash of a reason that was erased, so that the chain still fits';
CREATE TABLE audit_chain (
    n BIGINT NOT NULL,
    last_id BIGINT NOT NULL,
    rows INTEGER NOT NULL,
    digest BYTEA NOT NULL,
    link BYTEA NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    purged BYTEA,
    CONSTRAINT pk_audit_chain PRIMARY KEY (n)
);
COMMENT ON COLUMN audit_chain.n IS 'number of the block, from 1 without a gap';
COMMENT ON COLUMN audit_chain.last_id IS 'its last audit row; the first one follows the block before';
COMMENT ON COLUMN audit_chain.digest IS 'keyed hash of its rows';
COMMENT ON COLUMN audit_chain.link IS 'keyed hash of this block and of the link before';
COMMENT ON COLUMN audit_chain.purged IS 'keyed proof that the purge removed the rows';
CREATE TABLE erased (
    person BYTEA NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    suppressed BOOLEAN NOT NULL,
    CONSTRAINT pk_erased PRIMARY KEY (person)
);
COMMENT ON COLUMN erased.person IS 'keyed hash of a name of the person';
COMMENT ON COLUMN erased.at IS 'what was told of the person before is not stored again';
COMMENT ON COLUMN erased.suppressed IS 'nothing is accepted for the person until an operator allows it';
"""


def upgrade() -> None:
    """Make room for both."""
    run(_UP)


def downgrade() -> None:
    """Forget them; erased reasons stay erased."""
    run("DROP TABLE erased;\nDROP TABLE audit_chain;\nALTER TABLE audit DROP COLUMN reason_hash")
