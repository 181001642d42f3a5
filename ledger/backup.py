"""Backups of the ledger: every table as it stood at one instant, in one file, and the way back.

The file is a ZIP archive: `manifest.json`, one `tables/NAME` in the text format of COPY for each table, and, where it
was asked for, `master.key`. Payloads are encrypted as they are in the ledger. What was open in a backup may have been
sent since it was made, so it is held until a person releases it.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Literal

import psycopg
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, Engine, text

from ledger.database import transaction
from ledger.order import AWAITS_APPROVAL
from ledger.producer_models import metadata
from ledger.schema import drop_all, lock_schema, revisions, upgrade

_MANIFEST, _KEY = "manifest.json", "master.key"
_BLOCK = 1 << 20
# A ledger that is in use was swept within this time.
_FRESH_S = 20
_IS_AT_WORK = text("SELECT EXISTS (SELECT FROM ticks WHERE at > now() - :fresh_s * interval '1 second')")
_IS_USED = text("SELECT EXISTS (SELECT FROM deliveries) OR EXISTS (SELECT FROM audit)")
_UNBOUNDED = text("""
    SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)
""")
_INDEX_KEY = text("SELECT wrapped FROM vault WHERE name = 'index'")

# What may have been sent since: all that was open, but for what is scheduled for later and was never attempted. What
# waits for approval stays there: a person decides anyway. The doubt that is left in `tries` keeps the others from being
# canceled as surely unsent, and has a replay look first.
_HOLD = text(f"""
    WITH picked AS (
      SELECT d.id FROM deliveries d
      WHERE d.state IN ('ready', 'attempting', 'uncertain') OR (d.state = 'held' AND NOT {AWAITS_APPROVAL})
         OR (d.state = 'waiting' AND NOT (d.attempts = 0 AND d.next_at > now()))
         OR (d.fallback = 1 AND (d.state IN ('dead', 'expired') OR d.progress IN ('failed', 'bounced')))
    ), held AS (
      UPDATE deliveries d
         SET state = 'held', code = 'restored', lease_until = NULL, hinted_at = NULL, settled_at = NULL,
             reason = 'restored from the backup of ' || CAST(:made_at AS text) || '; it may have been sent since',
             uncertain_since = coalesce(d.uncertain_since, now()), tries = d.tries || '{{"unknown": 0}}'
      FROM picked p WHERE d.id = p.id
      RETURNING d.id, d.reason
    ), noted AS (
      INSERT INTO audit (actor, action, delivery_id, reason) SELECT :actor, 'held', id, reason FROM held
    ), ended AS (
      UPDATE attempts SET ended_at = now(), outcome = 'uncertain', code = 'restored' WHERE ended_at IS NULL
    ), written AS (
      INSERT INTO audit (actor, action, reason) VALUES (:actor, 'restored', 'the backup of ' || CAST(:made_at AS text))
    ), free AS (
      DELETE FROM quarantine
    ), forgotten AS (
      DELETE FROM ticks
    )
    SELECT count(*) FROM held
""")  # noqa: S608 - a piece of `ledger.order`


class BackupUnusable(Exception):
    """A backup cannot be written or restored; nothing was changed, and the message says why."""


class Part(BaseModel):
    """One table in a backup."""

    columns: list[str]
    rows: int
    sha256: str


class Manifest(BaseModel):
    """What a backup holds.

    Attributes:
        entrega: The version that made it.
        revision: Of the ledger's schema.
        tables: In an order in which they can be filled.
    """

    format: Literal[1] = 1
    entrega: str
    revision: str
    made_at: datetime
    tables: dict[str, Part]


def write_backup(engine: Engine, file: Path, *, key: str | None) -> Manifest:
    """Write every table into a new file that only its owner can read; work on the ledger goes on meanwhile.

    Args:
        key: The master keys, to be kept in the file as well; None leaves them out.

    Raises:
        BackupUnusable: The file exists, or the ledger has no schema yet.
        LedgerUnavailable: Postgres is away.
        OSError: The file cannot be written.
    """
    if file.exists():
        raise BackupUnusable(f"{file} exists already; choose another name")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as out:
            made = _fill(engine, out, key)
            out.flush()
            os.fsync(out.fileno())
        os.link(draft, file)  # a link never replaces what came meanwhile
    except FileExistsError as err:
        raise BackupUnusable(f"{file} exists already; choose another name") from err
    finally:
        draft.unlink(missing_ok=True)
    return made


def _fill(engine: Engine, out: IO[bytes], key: str | None) -> Manifest:
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ")
    with transaction(snapshot) as connection, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        connection.execute(_UNBOUNDED)
        revision = lock_schema(connection)
        if revision != max(revisions()):
            raise BackupUnusable(f"the ledger's schema is at revision {revision or 'none'}; run: entrega migrate")
        tables = {each.name: _save(connection, file, each.name) for each in metadata.sorted_tables}
        made = Manifest(entrega=version("entrega"), revision=revision, made_at=datetime.now(UTC), tables=tables)
        if key is not None:
            file.writestr(_KEY, key)
        file.writestr(_MANIFEST, made.model_dump_json(indent=1))
    return made


def _save(connection: Connection, file: zipfile.ZipFile, table: str) -> Part:
    columns = [column.name for column in metadata.tables[table].columns]
    rows, digest = 0, hashlib.sha256()
    statement = f"COPY {table} ({_quoted(columns)}) TO STDOUT"
    with file.open(f"tables/{table}", "w", force_zip64=True) as out, _copying(connection, statement) as copy:
        for block in copy:
            out.write(block)
            digest.update(block)
            rows += bytes(block).count(b"\n")  # a line break in a value is written as two characters
    return Part(columns=columns, rows=rows, sha256=digest.hexdigest())


class Backup:
    """A backup that was read and is whole."""

    def __init__(self, file: zipfile.ZipFile, manifest: Manifest) -> None:
        self._file = file
        self.manifest = manifest

    @property
    def key(self) -> str | None:
        """The master keys that it holds, if any."""
        return self._file.read(_KEY).decode("ascii") if _KEY in self._file.namelist() else None

    def restore(
        self,
        engine: Engine,
        *,
        environment: str,
        actor: str,
        replace: bool,
        opens: Callable[[bytes], object],
    ) -> int:
        """Fill a ledger from the backup, all or nothing; return how many deliveries are held for a person.

        Args:
            environment: For deliveries of a backup from before they remembered theirs.
            replace: Whether what the ledger holds may go.
            opens: Called with the ledger's wrapped index key; raises where the master keys at hand do not open it.

        Raises:
            BackupUnusable: The ledger is in use, or it is not empty and `replace` is false.
            LedgerUnavailable: Postgres is away.
        """
        with transaction(engine) as connection:
            connection.execute(_UNBOUNDED)
            self._refuse_used(connection, replace=replace)
            upgrade(connection, self.manifest.revision, environment)
            connection.execute(text("ALTER TABLE deliveries DISABLE TRIGGER USER"))  # what happened was told then
            for table, part in self.manifest.tables.items():
                self._load(connection, table, part)
            upgrade(connection, "head", environment)
            if (wrapped := connection.scalar(_INDEX_KEY)) is not None:
                opens(bytes(wrapped))
            values = {"made_at": f"{self.manifest.made_at:%Y-%m-%d %H:%M} UTC", "actor": actor}
            held: int = connection.scalar(_HOLD, values) or 0
            connection.execute(text("ALTER TABLE deliveries ENABLE TRIGGER USER"))
            return held

    def _refuse_used(self, connection: Connection, *, replace: bool) -> None:
        if lock_schema(connection) is None:
            return
        upgrade(connection, "head", "")
        if connection.scalar(_IS_AT_WORK, {"fresh_s": _FRESH_S}):
            raise BackupUnusable(f"a system works on this ledger; stop it, and try again after {_FRESH_S} seconds")
        if connection.scalar(_IS_USED) and not replace:
            raise BackupUnusable("this ledger is not empty; give --replace to lose all that it holds")
        drop_all(connection)

    def _load(self, connection: Connection, table: str, part: Part) -> None:
        statement = f"COPY {table} ({_quoted(part.columns)}) FROM STDIN"
        with self._file.open(f"tables/{table}") as source, _copying(connection, statement) as copy:
            for block in iter(lambda: source.read(_BLOCK), b""):
                copy.write(block)
        if "id" in part.columns:  # the next number of a counted column; none for the others
            name = {"table": table}
            if (sequence := connection.scalar(text("SELECT pg_get_serial_sequence(:table, 'id')"), name)) is not None:
                connection.execute(
                    text(f"SELECT setval(:sequence, coalesce(max(id), 0) + 1, false) FROM {table}"),  # noqa: S608
                    {"sequence": sequence},
                )


@contextmanager
def open_backup(path: Path) -> Iterator[Backup]:
    """Read a backup and make sure that it is whole and that this program can restore it.

    Raises:
        BackupUnusable: It is not.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(zipfile.ZipFile(path))
            manifest = Manifest.model_validate_json(file.read(_MANIFEST))
            _check(path, file, manifest)
        except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, ValidationError) as err:
            raise BackupUnusable(f"{path} is not a whole backup ({type(err).__name__})") from err
        yield Backup(file, manifest)


def _check(path: Path, file: zipfile.ZipFile, manifest: Manifest) -> None:
    if manifest.revision not in revisions():
        raise BackupUnusable(f"{path} was made by Entrega {manifest.entrega}, which is newer than this program")
    unknown = {each for each in manifest.tables if not each.isidentifier()}
    if unknown or set(file.namelist()) - {_MANIFEST, _KEY} != {f"tables/{each}" for each in manifest.tables}:
        raise BackupUnusable(f"{path} does not hold the tables that it names")
    for table, part in manifest.tables.items():
        if _measured(file, table) != (part.rows, part.sha256):
            raise BackupUnusable(f"{path} is damaged: the table {table} is not as it was saved")


def _measured(file: zipfile.ZipFile, table: str) -> tuple[int, str]:
    rows, digest = 0, hashlib.sha256()
    with file.open(f"tables/{table}") as source:
        for block in iter(lambda: source.read(_BLOCK), b""):
            digest.update(block)
            rows += block.count(b"\n")
    return rows, digest.hexdigest()


def _quoted(columns: list[str]) -> str:
    return ", ".join('"{}"'.format(each.replace('"', '""')) for each in columns)


@contextmanager
def _copying(connection: Connection, statement: str) -> Iterator[psycopg.Copy]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - `connect` made it
    try:
        with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            yield copy
    except psycopg.Error as err:  # its message may quote a row
        raise BackupUnusable(
            f"Postgres did not carry out {statement.partition('(')[0].strip()} ({err.sqlstate})"
        ) from err
