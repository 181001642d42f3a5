"""A backup holds the whole ledger, is restored all or nothing, and nothing of it is sent again without a person."""

import hashlib
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from config.settings import ConfigurationError
from delivery.outcomes import Deferred, Receipt, Rejected, Succeeded, Uncertain
from delivery.ports import Settlement
from ledger.approvals import Approvals, Approver
from ledger.backup import BackupUnusable, open_backup, write_backup
from ledger.canceling import NotCancelable, cancel
from ledger.database import connect, transaction
from ledger.letters import LetterFilter, Letters, Signed
from ledger.operating import Desk
from ledger.reading import Archive
from ledger.schema import check_schema, drop_all, migrate, upgrade
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault
from tests.integration.conftest import claim, due, lead, letter, new

LATER = datetime.now(UTC) + timedelta(days=2)


@pytest.fixture
def other(migrated, postgres_url):
    """An empty database to restore into."""
    with migrated.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE IF EXISTS restored WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE restored"))
    engine = connect(postgres_url.rsplit("/", 1)[0] + "/restored")
    yield engine
    engine.dispose()


@pytest.fixture
def restored(other):
    """Restore a file there: `restored(file)` returns how many deliveries are held."""
    vault = Vault(other, MasterKeys([bytes(32)]))

    def restore(file, *, replace=False, vault=vault):
        with open_backup(file) as backup:
            return backup.restore(
                other, environment="sandbox", actor="ana", replace=replace, opens=vault.open_index_key
            )

    return restore


@pytest.fixture
def ends(ledger):
    """Open a delivery and end its first attempt."""

    def end(command, outcome):
        id_ = ledger.open([new(command)])[0].id
        (claimed,) = claim(ledger, id_)
        ledger.settle([Settlement(claimed, outcome)])
        return id_

    return end


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ledger.backup"


def rows_of(engine, table):
    with transaction(engine) as connection:
        return sorted(connection.execute(text(f"SELECT t::text FROM {table} t")).scalars())  # noqa: S608 - our own


def tables_of(engine):
    with transaction(engine) as connection:
        named = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        return set(connection.execute(text(named)).scalars())


def rewritten(file, change):
    """Write the archive again after `change` had its members, by name."""
    with zipfile.ZipFile(file) as found:
        members = {name: found.read(name) for name in found.namelist()}
    change(members)
    with zipfile.ZipFile(file, "w") as again:
        for name, content in members.items():
            again.writestr(name, content)


def test_every_table_of_the_ledger_is_in_it_and_only_its_owner_can_read_it(database, ends, file):
    ends(lead(), Succeeded(Receipt("LEAD-1")))

    made = write_backup(database, file, key=None)

    assert set(made.tables) == tables_of(database)
    assert made.tables["deliveries"].rows == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_restored_ledger_holds_the_same_rows(database, ledger, ends, other, restored, file):
    ends(lead(1), Succeeded(Receipt("LEAD-1\tcom tabulação \\ e\nlinhas")))
    ends(lead(2), Rejected("invalid", "wrong"))
    ledger.open([new(lead(3, key="k-1", send_at=LATER))])

    write_backup(database, file, key=None)
    held = restored(file)

    assert held == 0
    same = tables_of(database) - {"audit", "ticks"}
    assert {each: rows_of(other, each) for each in same} == {each: rows_of(database, each) for each in same}
    verdict = Archive(other).verify()
    assert (verdict.accepted, verdict.faults) == (3, {})
    check_schema(other)


def test_what_was_open_is_held_and_what_is_scheduled_or_waits_for_approval_stays(
    database, ledger, ends, other, restored, file
):
    ready = ledger.open([new(lead(1))])[0].id
    retried = ends(lead(2), Deferred("busy", timedelta(hours=1), "later"))
    lost = ends(letter(3), Uncertain("answer_lost", "no answer"))
    attempting = ledger.open([new(lead(4))])[0].id
    claim(ledger, attempting)
    scheduled = ledger.open([new(lead(5, send_at=LATER))])[0].id
    asked = ledger.open([new(lead(6), held_code="needs_approval")])[0].id
    Desk(database, actor="ana").pause("email:default", reason="test")
    paused = ledger.open([new(letter(7))])[0].id
    claim(ledger, paused)
    write_backup(database, file, key=None)

    held = restored(file)

    archive = Archive(other)
    codes = {id_: archive.find(id_).code for id_ in (ready, retried, lost, attempting, paused)}
    assert (held, set(codes.values())) == (5, {"restored"})
    assert {archive.find(id_).state for id_ in codes} == {"held"}
    assert archive.find(scheduled).state == "waiting"
    assert archive.find(asked).code == "needs_approval"
    assert "it may have been sent since" in archive.find(ready).reason
    assert archive.verify().faults == {}


def test_nothing_restored_is_claimed_freed_or_canceled_and_a_replay_looks_first(
    database, ledger, other, restored, file
):
    id_ = ledger.open([new(lead(1))])[0].id
    write_backup(database, file, key=None)
    restored(file)
    there = PostgresLedger(other, Vault(other, MasterKeys([bytes(32)])))

    claimed, due_now = claim(there, id_), due(there)
    freed = Desk(other, actor="ana").resume("crm:default", reason="test")
    with pytest.raises(NotCancelable):
        cancel(other, id_, actor="ana", reason="test")
    Letters(there, actor="ana").replay([id_], reason="it is missing at the CRM")

    assert (claimed, due_now, freed) == ([], [], [])
    assert Archive(other).find(id_).state == "uncertain"


def test_a_fallback_that_was_about_to_start_waits_for_a_person_too(database, ledger, ends, other, restored, file):
    spare = {"kind": "send_email", "to": ["ana.teste@exemplo.com.br"], "subject": "Teste", "text": "Olá"}
    died = ends(lead(fallback=spare), Rejected("invalid", "wrong"))
    write_backup(database, file, key=None)

    restored(file)

    assert Archive(other).find(died).code == "restored"


def test_a_restored_ledger_works_on(database, ledger, ends, other, restored, file):
    ends(lead(1), Succeeded(Receipt("LEAD-1")))
    write_backup(database, file, key=None)
    restored(file)
    there = PostgresLedger(other, Vault(other, MasterKeys([bytes(32)])))

    again = there.open([new(lead(1))])[0]
    fresh = there.open([new(lead(2))])[0]

    assert not again.fresh
    assert [each.order.delivery_id for each in claim(there, fresh.id)] == [fresh.id]


def test_a_ledger_that_is_not_empty_is_left_alone_unless_it_may_go(database, ledger, other, restored, file):
    kept = ledger.open([new(lead(1))])[0].id
    write_backup(database, file, key=None)
    migrate(other)
    there = PostgresLedger(other, Vault(other, MasterKeys([bytes(32)])))
    lost = there.open([new(lead(2))])[0].id

    with pytest.raises(BackupUnusable, match="not empty; give --replace"):
        restored(file)
    before = Archive(other).find(lost)
    restored(file, replace=True)

    assert before is not None
    assert Archive(other).find(lost) is None
    assert Archive(other).find(kept) is not None


def test_an_empty_ledger_that_was_migrated_is_filled(database, ledger, other, restored, file):
    ledger.open([new(lead(1))])
    write_backup(database, file, key=None)
    migrate(other)

    assert restored(file) == 1


def test_a_ledger_that_a_system_works_on_is_left_alone(database, ledger, other, restored, file):
    write_backup(database, file, key=None)
    migrate(other)
    with transaction(other) as connection:
        connection.execute(text("INSERT INTO ticks (name, at) VALUES ('sweep', now())"))

    with pytest.raises(BackupUnusable, match="a system works on this ledger"):
        restored(file, replace=True)


def test_other_master_keys_restore_nothing(database, ledger, other, restored, file):
    ledger.open([new(lead(1))])
    write_backup(database, file, key=None)

    with pytest.raises(ConfigurationError, match="do not open this ledger"):
        restored(file, vault=Vault(other, MasterKeys([bytes(range(32))])))

    assert tables_of(other) == set()


def test_the_keys_are_in_it_only_where_that_is_wanted(database, tmp_path):
    write_backup(database, tmp_path / "without", key=None)
    write_backup(database, tmp_path / "with", key="the keys")

    with open_backup(tmp_path / "without") as without, open_backup(tmp_path / "with") as found:
        assert (without.key, found.key) == (None, "the keys")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda members: members.pop("tables/attempts"), "does not hold the tables"),
        (lambda members: members.update({"tables/vault": b""}), "table vault is not as it was saved"),
        (lambda members: members.pop("manifest.json"), "not a whole backup"),
        (lambda members: members.update({"manifest.json": b"{}"}), "not a whole backup"),
    ],
)
def test_a_damaged_backup_is_refused(database, ledger, file, damage, words):
    ledger.open([new(lead(1))])
    write_backup(database, file, key=None)
    rewritten(file, damage)

    with pytest.raises(BackupUnusable, match=words), open_backup(file):
        pass


@pytest.mark.parametrize("left", [0, 100, -1])
def test_half_a_backup_is_refused(database, file, left):
    write_backup(database, file, key=None)
    file.write_bytes(file.read_bytes()[:left])

    with pytest.raises(BackupUnusable, match="not a whole backup"), open_backup(file):
        pass


def test_a_backup_with_broken_bytes_in_the_middle_is_refused(database, ledger, file):
    ledger.open([new(lead(n)) for n in range(50)])
    write_backup(database, file, key=None)
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo("tables/payloads").header_offset + 100
    content = bytearray(file.read_bytes())
    content[start : start + 8] = b"\xff" * 8
    file.write_bytes(content)

    with pytest.raises(BackupUnusable, match="not a whole backup"), open_backup(file):
        pass


def test_an_error_while_a_backup_is_used_is_no_damage_of_the_backup(database, file):
    write_backup(database, file, key=None)

    with pytest.raises(KeyError), open_backup(file):
        raise KeyError("of the caller")


def test_a_backup_of_a_newer_version_is_refused(database, file):
    write_backup(database, file, key=None)

    def newer(members):
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | {"revision": "9999"}).encode()

    rewritten(file, newer)

    with pytest.raises(BackupUnusable, match="newer than this program"), open_backup(file):
        pass


def test_an_existing_file_is_never_overwritten(database, file):
    file.write_text("mine", encoding="utf-8")

    with pytest.raises(BackupUnusable, match="exists already"):
        write_backup(database, file, key=None)

    assert file.read_text(encoding="utf-8") == "mine"


def test_a_ledger_of_an_older_schema_says_what_to_run_first(other, file):
    with pytest.raises(BackupUnusable, match="run: entrega migrate"):
        write_backup(other, file, key=None)

    assert not file.exists()


def test_every_step_of_the_schema_can_be_undone_and_done_again(other):
    migrate(other)
    with transaction(other) as connection:
        drop_all(connection)

    assert tables_of(other) == set()
    migrate(other)
    check_schema(other)


def test_an_approval_still_lets_a_restored_delivery_go(database, ledger, other, restored, file):
    asked = ledger.open([new(lead(1), held_code="needs_approval")])[0].id
    write_backup(database, file, key=None)
    restored(file)

    Approvals(replace(ledger, engine=other)).approve([asked], Approver(Signed("ana", "test")))

    assert Archive(other).find(asked).state == "ready"


def test_dead_letters_that_were_restored_are_found_by_their_code(database, ledger, other, restored, file):
    id_ = ledger.open([new(lead(1))])[0].id
    write_backup(database, file, key=None)
    restored(file)

    there = Letters(replace(ledger, engine=other), actor="ana")

    assert [each.id for each in there.search(LetterFilter(code="restored"))] == [id_]


def columns_of(engine):
    """Return the columns of each table."""
    with transaction(engine) as connection:
        found = connection.execute(
            text("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'")
        ).all()
    return {table: {row.column_name for row in found if row.table_name == table} for table, _ in found}


def without_new_columns(members, known, revision):
    """Rewrite an archive's members to what a program of an earlier revision would have saved."""
    found = json.loads(members["manifest.json"])
    for name in set(found["tables"]) - set(known):
        del found["tables"][name], members[f"tables/{name}"]
    for name, part in found["tables"].items():
        places = [place for place, column in enumerate(part["columns"]) if column in known[name]]
        rows = [row.split("\t") for row in members[f"tables/{name}"].decode().splitlines()]
        content = "".join("\t".join(row[place] for place in places) + "\n" for row in rows).encode()
        members[f"tables/{name}"] = content
        part["columns"] = [part["columns"][place] for place in places]
        part["sha256"] = hashlib.sha256(content).hexdigest()
    members["manifest.json"] = json.dumps(found | {"revision": revision}).encode()


def test_a_backup_from_before_a_migration_is_brought_up_to_date(database, ledger, other, restored, file):
    id_ = ledger.open([new(lead(1))])[0].id
    write_backup(database, file, key=None)
    with transaction(other) as connection:
        upgrade(connection, "0017", "sandbox")
    known = columns_of(other)

    rewritten(file, lambda members: without_new_columns(members, known, "0017"))
    restored(file)

    assert Archive(other).find(id_).environment == "sandbox"
    check_schema(other)
