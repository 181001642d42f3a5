"""`entrega backup` and `entrega restore`: the whole ledger in one file, and back."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from config.operator import operator_name
from ingress.shell import NOT_WELL, REFUSED, WRONG_USE, Json, fail, print_json

if TYPE_CHECKING:
    from config.settings import Settings
    from ledger.backup import Backup
    from ledger.database import Engine

File = Annotated[Path, typer.Argument(dir_okay=False, help="The backup.")]
Sandbox = Annotated[
    bool, typer.Option("--sandbox", help="The embedded ledger of `entrega up --sandbox`, where nothing runs now.")
]
_NAME = "entrega backup"


def backup(
    file: File,
    with_key: Annotated[
        bool, typer.Option("--with-key", help="Keep the master keys in it too: whoever has it can read everything.")
    ] = False,
    sandbox: Sandbox = False,
    as_json: Json = False,
) -> None:
    """Write the whole ledger into a new file, while the system runs or while it is stopped.

    Example: entrega backup entrega-2026-12-01.backup
    """
    from config.settings import load_settings
    from ingress.printing import say
    from ledger.backup import BackupUnusable, write_backup

    settings = load_settings()
    keys = _keys_of(settings) if with_key else None
    if with_key and keys is None:
        fail("Nothing was written: there is no master key here to keep in it.", WRONG_USE)
    try:
        with _ledger(settings, sandbox=sandbox) as engine:
            made = write_backup(engine, file, key=keys)
    except BackupUnusable as err:
        fail(f"Nothing was written: {err}.", REFUSED)
    except OSError as err:
        fail(f"Nothing was written: {file} cannot be made ({type(err).__name__}).", NOT_WELL)
    rows = {table: part.rows for table, part in made.tables.items()}
    if as_json:
        print_json({"file": str(file), "revision": made.revision, "with_key": with_key, "rows": rows})
        return
    say(f"{file} holds {rows['deliveries']} deliveries and all else in the ledger, readable by you alone.")
    if with_key:
        say("It holds the master keys too. Whoever has the file can read everything in it.")
    else:
        say("The master keys are not in it. Keep them apart: without them nothing in it can be read.")


def restore(
    file: File,
    replace: Annotated[bool, typer.Option("--replace", help="Lose what the ledger holds now.")] = False,
    sandbox: Sandbox = False,
    as_json: Json = False,
) -> None:
    """Fill an empty ledger from a backup, while no system runs on it.

    What was open may have been sent after the backup was made, so it is held until you let it go.

    Example: entrega restore entrega-2026-12-01.backup
    """
    from config.settings import load_settings
    from ledger.backup import BackupUnusable, open_backup

    settings = load_settings()
    try:
        with open_backup(file) as found:
            held = _restored(settings, found, replace=replace, sandbox=sandbox)
            rows = {table: part.rows for table, part in found.manifest.tables.items()}
            made_at = found.manifest.made_at
    except BackupUnusable as err:
        fail(f"Nothing was restored: {err}.", REFUSED)
    if as_json:
        print_json({"file": str(file), "made_at": made_at, "held": held, "rows": rows})
    else:
        _say_restored(rows["deliveries"], held)


def _restored(settings: "Settings", found: "Backup", *, replace: bool, sandbox: bool) -> int:
    """Restore, and return how many deliveries are held."""
    from config.kept_text import kept_text
    from config.master_keys import decoded_keys
    from ledger.erasing import Eraser
    from ledger.hashing import hash_clear
    from ledger.sealing import MasterKeys
    from ledger.vault import Vault

    own = _keys_of(settings)
    keys = own or found.key
    if keys is None:
        fail("Nothing was restored: there is no master key here; put the one of the backup into master.key.", WRONG_USE)
    with _own_folder(settings) as data, _ledger(settings, sandbox=sandbox, new=True) as engine:
        vault = Vault(engine, MasterKeys(decoded_keys(keys)))
        environment = _environment(settings, sandbox=sandbox)
        eraser = Eraser(vault, operator_name())
        stones = eraser.tombstones()
        held = found.restore(
            engine, environment=environment, actor=operator_name(), replace=replace, opens=vault.open_index_key
        )
        eraser.replay(stones, reason="erased before the restore")  # first: nothing else knows these people any more
        hash_clear(vault)
        if own is None:
            kept_text(data / "master.key", lambda: keys)
    return held


def _say_restored(deliveries: int, held: int) -> None:
    from ingress.printing import say

    say(f"Restored: {deliveries} deliveries, and all else that the backup holds.")
    if held:
        say(f"{held} that were open are held (code `restored`): each may have been sent after the backup was made.")
        say("  Look:               entrega dead-letters list --code restored")
        say("  Send what is missing, looked up first where the provider can tell:")
        say('                      entrega dead-letters replay --code restored --reason "..."')
        say('  Give one up:        entrega dead-letters discard ID --reason "..."')
    say("What was accepted after the backup is not in it: a producer that repeats it has it sent again.")


def _keys_of(settings: "Settings") -> str | None:
    """Return the master keys that this machine has, as they are written; None where there are none. Makes none."""
    if settings.entrega_master_keys is None and not (settings.entrega_data / "master.key").exists():
        return None
    return ",".join(b64encode(each).decode() for each in settings.master_keys())


def _environment(settings: "Settings", *, sandbox: bool) -> str:
    from config.settings import STANDINS

    return STANDINS if sandbox else settings.delivery_environment


@contextmanager
def _own_folder(settings: "Settings") -> Iterator[Path]:
    """Have the data folder for this command alone.

    Raises:
        AlreadyRunning: A system runs there.
    """
    from config.running import occupy
    from sandbox.doors import make_folder

    data = settings.entrega_data.resolve()
    make_folder(data)
    occupied = occupy(data)
    try:
        yield data
    finally:
        occupied.leave()


@contextmanager
def _ledger(settings: "Settings", *, sandbox: bool, new: bool = False) -> Iterator["Engine"]:
    """Lend the ledger: the one that DATABASE_URL or the running system names, else the embedded one, started for this.

    Args:
        new: The folder is this command's own, and its embedded ledger may be a new one.
    """
    from ledger.database import connect

    with ExitStack() as stack:
        url = settings.ledger_url()
        if url is None:
            data = settings.entrega_data.resolve() if new else stack.enter_context(_own_folder(settings))
            url = stack.enter_context(_embedded(data, _environment(settings, sandbox=sandbox), new=new))
        engine = connect(url, pool_size=1, name=_NAME)
        stack.callback(engine.dispose)
        yield engine


@contextmanager
def _embedded(data: Path, environment: str, *, new: bool) -> Iterator[str]:
    from config.running import servers_folder
    from sandbox.postgres import PostgresServer

    folder = servers_folder(data, environment)
    if not new and not (folder / "postgres.json").exists():
        other = "give --sandbox" if environment != "standins" else "leave --sandbox out"
        fail(f"There is no embedded ledger in {folder}; name its folder with ENTREGA_DATA, or {other}.", WRONG_USE)
    server = PostgresServer(folder)
    try:
        yield server.start()
    finally:
        server.stop()
