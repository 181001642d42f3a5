"""Brings the schema of a database up to what this code needs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from delivery.errors import LedgerUnavailable
from ledger.database import transaction

# Any number: it only has to be the same for everybody who migrates this schema.
_ADVISORY_LOCK = 0x456E7472


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Apply the missing steps; safe when several processes start at once.

    Returns:
        The revision before (None for an empty database) and after.

    Raises:
        LedgerUnavailable: Postgres is away, or another migration holds the schema for longer than the lock time-out.
    """
    with transaction(engine) as connection:
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        before = MigrationContext.configure(connection).get_current_revision()
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        after = MigrationContext.configure(connection).get_current_revision()
    return before, str(after)


def check_schema(engine: Engine) -> None:
    """Make sure the database has the schema this code was written for.

    Raises:
        LedgerUnavailable: Postgres is away, or the schema is behind or ahead; the message says what to run.
    """
    with transaction(engine) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    if found != wanted:
        raise LedgerUnavailable(
            f"the ledger's schema is at revision {found or 'none'}, this version needs {wanted}; run: entrega migrate"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
