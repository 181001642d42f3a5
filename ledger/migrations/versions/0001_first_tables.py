"""The first tables: deliveries with their payloads, attempts, keys, accounts and audit.

The steps are frozen here, apart from `ledger.models`, so that later changes of the models do not change history.
"""

from alembic import op

from ledger.migrations.script import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = ("audit", "ticks", "accounts", "idempotency", "attempts", "vault", "people", "payloads", "deliveries")

_UP = """
CREATE TABLE accounts (
    name TEXT NOT NULL,
    held_reason TEXT,
    held_at TIMESTAMP WITH TIME ZONE,
    health TEXT,
    health_note TEXT,
    probed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_accounts PRIMARY KEY (name)
);

CREATE TABLE audit (
    id BIGSERIAL NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    delivery_id UUID,
    account TEXT,
    reason TEXT,
    CONSTRAINT pk_audit PRIMARY KEY (id)
);

CREATE INDEX ix_audit_delivery_id ON audit (delivery_id);

CREATE TABLE deliveries (
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    account TEXT NOT NULL,
    producer TEXT NOT NULL,
    state TEXT NOT NULL,
    priority SMALLINT NOT NULL,
    fence INTEGER DEFAULT '0' NOT NULL,
    attempts INTEGER DEFAULT '0' NOT NULL,
    tries JSONB DEFAULT '{}' NOT NULL,
    parks SMALLINT DEFAULT '0' NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    next_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    hinted_at TIMESTAMP WITH TIME ZONE,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    settled_at TIMESTAMP WITH TIME ZONE,
    uncertain_since TIMESTAMP WITH TIME ZONE,
    hold_uncertain SMALLINT NOT NULL,
    order_key TEXT,
    person BYTEA NOT NULL,
    recipient TEXT NOT NULL,
    progress TEXT,
    receipt TEXT,
    code TEXT,
    reason TEXT,
    replay_of UUID,
    CONSTRAINT pk_deliveries PRIMARY KEY (id),
    CONSTRAINT ck_deliveries_state CHECK (state in ('ready','attempting','waiting','uncertain','held','succeeded','dead','canceled','expired')),
    CONSTRAINT ck_deliveries_lease CHECK ((state = 'attempting') = (lease_until is not null))
)
 WITH (fillfactor = 75);

CREATE INDEX ix_deliveries_asks_person ON deliveries (account, id) WHERE state in ('dead', 'held');

CREATE INDEX ix_deliveries_due ON deliveries (priority, next_at) WHERE state in ('ready', 'waiting');

CREATE INDEX ix_deliveries_expiry ON deliveries (expires_at) WHERE state in ('ready', 'waiting');

CREATE INDEX ix_deliveries_lease ON deliveries (lease_until) WHERE state = 'attempting';

CREATE INDEX ix_deliveries_person ON deliveries (person);

CREATE INDEX ix_deliveries_uncertain ON deliveries (uncertain_since) WHERE state = 'uncertain';

CREATE TABLE idempotency (
    producer TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash BYTEA NOT NULL,
    delivery_id UUID NOT NULL,
    kept_until TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_idempotency PRIMARY KEY (producer, key)
);

CREATE TABLE people (
    person BYTEA NOT NULL,
    data_key BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_people PRIMARY KEY (person)
);

CREATE TABLE ticks (
    name TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_ticks PRIMARY KEY (name)
);

CREATE TABLE vault (
    name TEXT NOT NULL,
    wrapped BYTEA NOT NULL,
    CONSTRAINT pk_vault PRIMARY KEY (name)
);

CREATE TABLE attempts (
    delivery_id UUID NOT NULL,
    n INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    worker TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    outcome TEXT,
    code TEXT,
    http_status SMALLINT,
    provider_code TEXT,
    duration_ms INTEGER,
    wait_s INTEGER,
    CONSTRAINT pk_attempts PRIMARY KEY (delivery_id, n),
    CONSTRAINT fk_attempts_delivery_id FOREIGN KEY(delivery_id) REFERENCES deliveries (id) ON DELETE CASCADE
);

CREATE TABLE payloads (
    delivery_id UUID NOT NULL,
    body BYTEA NOT NULL,
    CONSTRAINT pk_payloads PRIMARY KEY (delivery_id),
    CONSTRAINT fk_payloads_delivery_id FOREIGN KEY(delivery_id) REFERENCES deliveries (id) ON DELETE CASCADE
);

COMMENT ON COLUMN accounts.held_reason IS 'why deliveries of this account wait for a person; null when it works';
COMMENT ON COLUMN accounts.health IS 'ok or the error code of the last probe';
COMMENT ON COLUMN deliveries.priority IS 'position in PRIORITIES; 0 is the most urgent';
COMMENT ON COLUMN deliveries.tries IS 'attempts spent, by error code';
COMMENT ON COLUMN deliveries.parks IS 'times in the fallback queue';
COMMENT ON COLUMN deliveries.hinted_at IS 'when a worker was, or will be, told to look';
COMMENT ON COLUMN deliveries.hold_uncertain IS '1 holds an uncertain delivery for a person';
COMMENT ON COLUMN deliveries.person IS 'keyed hash of the recipient';
COMMENT ON COLUMN deliveries.recipient IS 'masked, for people to read';
COMMENT ON COLUMN deliveries.receipt IS 'the provider''s own id';
COMMENT ON COLUMN deliveries.code IS 'stable word for the last outcome';
COMMENT ON COLUMN people.person IS 'keyed hash of the recipient';
COMMENT ON COLUMN people.data_key IS 'wrapped by a master key; deleting it erases the person';
COMMENT ON COLUMN ticks.at IS 'when the task last ran to its end';
COMMENT ON COLUMN vault.wrapped IS 'wrapped by a master key';
COMMENT ON COLUMN attempts.wait_s IS 'seconds until the next attempt';
COMMENT ON COLUMN payloads.body IS 'the command, sealed with the person''s data key';
"""


def upgrade() -> None:
    """Create the tables."""
    run(_UP)


def downgrade() -> None:
    """Drop the tables and all they hold."""
    for table in _TABLES:
        op.drop_table(table)
