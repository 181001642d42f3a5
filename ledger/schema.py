"""Brings the schema of a database up to what this code needs."""

from collections.abc import Collection
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text

from delivery.errors import LedgerUnavailable, LedgerUnusable
from ledger.database import require_session, transaction

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent / "migrations"
# Any number: it only has to be the same for everybody who migrates this schema.
_ADVISORY_LOCK = 0x456E7472


def migrate(engine: Engine, environment: str = "sandbox") -> tuple[str | None, str]:
    """Apply the missing steps; safe when several processes start at once.

    Args:
        environment: What deliveries that were accepted before they remembered it belong to.

    Returns:
        The revision before (None for an empty database) and after.

    Raises:
        LedgerUnavailable: Postgres is away, or another migration holds the schema for longer than the lock time-out.
        LedgerUnusable: A newer version of this program has migrated the ledger, or the database is not UTF-8.
    """
    with transaction(engine) as connection:
        before = lock_schema(connection)
        upgrade(connection, "head", environment)
        after = _revision(connection)
    return before, str(after)


def lock_schema(connection: Connection) -> str | None:
    """Keep every other migration out until this transaction ends, and return the revision; None when empty.

    The rest of the transaction may take as long as it needs: an index on a large table takes minutes. It waits for the
    lock of a table for a short time only, because everything else queues behind it.

    Raises:
        LedgerUnusable: As `migrate`.
    """
    require_session(connection)
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL lock_timeout = '60s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    connection.execute(text("SET LOCAL lock_timeout = '15s'"))
    _require_utf8(connection)
    return _known_revision(connection)


def upgrade(connection: Connection, revision: str, environment: str) -> None:
    """Apply the missing steps up to a revision, in the caller's transaction."""
    from alembic import command  # most processes only check, and start a tenth of a second sooner without it

    command.upgrade(_config(connection, environment), revision)


def drop_all(connection: Connection) -> None:
    """Undo every step, in the caller's transaction: the tables go, with all they hold."""
    from alembic import command

    command.downgrade(_config(connection), "base")


def load_migrations() -> None:
    """Load what `migrate` needs: for a process that has time now and none later."""
    import_module("alembic.command")


def check_schema(engine: Engine) -> None:
    """Make sure the database has the schema this code was written for.

    Raises:
        LedgerUnavailable: Postgres is away, or the schema is behind; the message says what to run.
        LedgerUnusable: A newer version of this program has migrated the ledger.
    """
    with transaction(engine) as connection:
        require_session(connection)
        found = _known_revision(connection)
    wanted = max(revisions())
    if found != wanted:
        raise LedgerUnavailable(
            f"the ledger's schema is at revision {found or 'none'}, this version needs {wanted}; run: entrega migrate"
        )


def _known_revision(connection: Connection) -> str | None:
    found = _revision(connection)
    if found is not None and found not in revisions():
        ours = version("entrega")
        raise LedgerUnusable(
            f"this ledger is newer than this program: its schema is at revision {found}, Entrega {ours} knows"
            f" {max(revisions())}; install the version of Entrega that was used with this ledger last, or a newer one"
        )
    return found


def revisions() -> Collection[str]:
    """Return the revisions that this program knows."""
    return {step.name[:4] for step in (_MIGRATIONS / "versions").glob("[0-9]*.py")}


def _require_utf8(connection: Connection) -> None:
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise LedgerUnusable(
            f"the database has the encoding {encoding}, and the ledger needs UTF8; make another one with:"
            " CREATE DATABASE entrega ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL"
        )


def _revision(connection: Connection) -> str | None:
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _config(connection: Connection, environment: str = "") -> "Config":
    from alembic.config import Config

    config = Config()
    config.attributes |= {"connection": connection, "environment": environment}
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config
