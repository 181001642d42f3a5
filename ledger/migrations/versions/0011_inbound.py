"""Webhooks: whole inbound events, names and windows of people, opt-outs, and what providers tell of themselves."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_UP = """
ALTER TABLE deliveries ADD COLUMN marketing SMALLINT DEFAULT '0' NOT NULL;
ALTER TABLE deliveries ADD COLUMN cancel_on_reply SMALLINT DEFAULT '0' NOT NULL;
ALTER TABLE accounts ADD COLUMN told TEXT;
ALTER TABLE accounts ADD COLUMN told_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE inbound_events ADD COLUMN kind TEXT DEFAULT 'status' NOT NULL;
ALTER TABLE inbound_events ADD COLUMN occurred_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE inbound_events ADD COLUMN provider_code TEXT;
ALTER TABLE inbound_events ADD COLUMN person BYTEA;
ALTER TABLE inbound_events ADD COLUMN alias BYTEA;
ALTER TABLE inbound_events ADD COLUMN window_until TIMESTAMP WITH TIME ZONE;
ALTER TABLE inbound_events ADD COLUMN consent TEXT;
ALTER TABLE inbound_events ADD COLUMN body BYTEA;
ALTER TABLE inbound_events ADD COLUMN facts JSONB;
CREATE TABLE aliases (
    alias BYTEA NOT NULL,
    person BYTEA NOT NULL,
    CONSTRAINT pk_aliases PRIMARY KEY (alias)
);
CREATE INDEX ix_aliases_person ON aliases (person);
CREATE TABLE windows (
    account TEXT NOT NULL,
    person BYTEA NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_windows PRIMARY KEY (account, person)
);
CREATE TABLE opt_outs (
    person BYTEA NOT NULL,
    stopped BOOLEAN NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_opt_outs PRIMARY KEY (person)
);
CREATE TABLE templates (
    account TEXT NOT NULL,
    name TEXT NOT NULL,
    language TEXT NOT NULL,
    status TEXT,
    category TEXT,
    quality TEXT,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_templates PRIMARY KEY (account, name, language)
);
COMMENT ON COLUMN deliveries.marketing IS '1 asks for the person''s consent';
COMMENT ON COLUMN deliveries.cancel_on_reply IS '1 ends when the person writes';
COMMENT ON COLUMN accounts.told IS 'what the provider last told of this account by itself';
COMMENT ON COLUMN inbound_events.kind IS 'see `delivery.inbound.Kind`';
COMMENT ON COLUMN inbound_events.at IS 'when it was stored';
COMMENT ON COLUMN inbound_events.occurred_at IS 'when it happened, by the provider''s clock';
COMMENT ON COLUMN inbound_events.person IS 'keyed hash of who it is about';
COMMENT ON COLUMN inbound_events.alias IS 'keyed hash of the same person''s other name';
COMMENT ON COLUMN inbound_events.consent IS 'stop or resume';
COMMENT ON COLUMN inbound_events.body IS 'what was said, sealed with the person''s data key';
COMMENT ON COLUMN inbound_events.facts IS 'what was said where it concerns nobody';
COMMENT ON COLUMN aliases.alias IS 'keyed hash of a name that a provider gave a person';
COMMENT ON COLUMN aliases.person IS 'keyed hash of the name that our commands use';
COMMENT ON COLUMN windows.until IS 'until then free text may be sent';
COMMENT ON COLUMN opt_outs.stopped IS 'false once the person allowed marketing again';
COMMENT ON COLUMN opt_outs.at IS 'when the person said so';
COMMENT ON COLUMN templates.at IS 'newest news';
"""


def upgrade() -> None:
    """Add them."""
    for statement in _UP.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    for table in ("templates", "opt_outs", "windows", "aliases"):
        op.drop_table(table)
    for name in (
        "facts", "body", "consent", "window_until", "alias", "person", "provider_code", "occurred_at", "kind",
    ):  # fmt: skip
        op.drop_column("inbound_events", name)
    for name in ("told_at", "told"):
        op.drop_column("accounts", name)
    for name in ("cancel_on_reply", "marketing"):
        op.drop_column("deliveries", name)
