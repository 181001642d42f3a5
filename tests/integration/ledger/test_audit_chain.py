"""The audit trail is a chain: nothing of the past can be changed without a trace, and writers are not held up."""

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import event

from config.retention import Periods
from delivery.ids import new_id
from delivery.outcomes import Receipt, Succeeded
from delivery.ports import Settlement
from ledger.audit_chain import AuditChain, Head, head_of
from ledger.erasing import Eraser
from ledger.operating import Desk
from ledger.retention import Retention
from ledger.rewrapping import rewrap
from ledger.sealing import MasterKeys
from ledger.vault import Vault
from tests.integration.conftest import claim, lead, new

LONG_AGO_MS = round((time.time() - 500 * 86400) * 1000)
ANA = "ana.teste1@exemplo.com.br"


@pytest.fixture
def chain(ledger, monkeypatch):
    monkeypatch.setattr("ledger.audit_chain._BLOCK", 3)
    return AuditChain(ledger.vault)


@pytest.fixture
def acts(desk):
    """Write some rows, each with a reason of its own."""

    def write(most=8):
        for n in range(most):
            desk.note("looked", account="crm:default", reason=f"reason {n}")

    return write


def ids(sql):
    return [row.id for row in sql("SELECT id FROM audit ORDER BY id")]


def test_a_chain_of_what_was_written_is_whole(chain, acts, ledger):
    acts()
    ledger.open([new(lead())])

    end = chain.extend()

    assert (end.n, chain.faults(noted=end), chain.extend()) == (3, {}, None)
    assert head_of(str(end)) == end


TAMPERED = {
    "delete": "DELETE FROM audit WHERE id = :second",
    "edit": "UPDATE audit SET actor = 'somebody else' WHERE id = :second",
    "edit the time": "UPDATE audit SET at = at + interval '1 second' WHERE id = :second",
    "edit the reason": "UPDATE audit SET reason = 'harmless' WHERE id = :second",
    "take the reason away": "UPDATE audit SET reason = NULL WHERE id = :second",
    "take its hash from elsewhere": "UPDATE audit SET reason = NULL, reason_hash = '\\x00' WHERE id = :second",
    "reorder": (
        "UPDATE audit a SET reason = b.reason FROM audit b WHERE (a.id, b.id) IN ((:second, :third), (:third, :second))"
    ),
    "move": "UPDATE audit SET id = id + 1000000 WHERE id = :last",
    "add": "INSERT INTO audit (id, actor, action) VALUES (:second - 1000000, 'ana', 'looked')",
    "truncate": "DELETE FROM audit WHERE id >= :third",
    "truncate rows and blocks": (
        "WITH gone AS (DELETE FROM audit_chain WHERE n = 3)"
        " DELETE FROM audit WHERE id > (SELECT last_id FROM audit_chain WHERE n = 2)"
    ),
    "all of it": "WITH gone AS (DELETE FROM audit_chain) DELETE FROM audit",
    "a block": "DELETE FROM audit_chain WHERE n = 2",
    "the first block": "WITH gone AS (DELETE FROM audit_chain WHERE n = 1) DELETE FROM audit WHERE id <= :third",
    "the remembered end": "DELETE FROM vault WHERE name = 'audit_head'",
    "forge the end": "UPDATE vault SET wrapped = '\\x0011223344' WHERE name = 'audit_head'",
    "a purge that never was": (
        "WITH gone AS (DELETE FROM audit WHERE id <= :third) UPDATE audit_chain SET purged = '\\x00' WHERE n = 1"
    ),
}


@pytest.mark.parametrize("tampering", TAMPERED.values(), ids=TAMPERED.keys())
def test_statement_50_tampering_with_any_row_breaks_the_chain(chain, acts, sql, tampering):
    acts()
    chain.extend()
    _, second, third, *_, last = ids(sql)

    known = {"second": second, "third": third, "last": last}
    sql(tampering, **{name: value for name, value in known.items() if f":{name}" in tampering})

    assert chain.faults()


def test_whoever_cuts_the_end_off_and_puts_the_old_ledger_in_place_is_found_by_the_log(chain, acts, sql):
    acts(4)
    chain.extend()
    (before,) = sql("SELECT wrapped FROM vault WHERE name = 'audit_head'")
    last = ids(sql)[-1]
    acts(4)
    noted = chain.extend()

    sql("DELETE FROM audit WHERE id > :last", last=last)
    sql("DELETE FROM audit_chain WHERE last_id > :last", last=last)
    sql("UPDATE vault SET wrapped = :before WHERE name = 'audit_head'", before=before.wrapped)

    assert (chain.faults(), chain.faults(noted=noted)) == ({}, {"audit_ends_missing": 1})


def test_a_chain_made_with_another_key_is_no_chain(chain, acts, database, sql):
    acts()
    chain.extend()
    sql("DELETE FROM vault")
    other = AuditChain(Vault(database, MasterKeys([bytes(32)])))

    assert other.faults()["audit_blocks_changed"] == 3


def test_a_row_that_was_never_chained_is_told_after_an_hour(chain, acts, sql):
    acts(1)
    assert chain.faults() == {}

    sql("UPDATE audit SET at = now() - interval '2 hours'")

    assert chain.faults() == {"audit_rows_unchained": 1}


def test_a_row_that_commits_late_is_chained_in_its_place(chain, acts, database, monkeypatch):
    monkeypatch.setattr("ledger.audit_chain._PATIENCE_S", 60)
    ends = []
    with database.begin() as writer:
        writer.exec_driver_sql("INSERT INTO audit (actor, action) VALUES ('slow', 'looked')")
        acts(2)
        waiting = threading.Thread(target=lambda: ends.append(chain.extend()))
        waiting.start()
        waiting.join(0.3)
        still_waits = waiting.is_alive()
    waiting.join(60)

    assert (still_waits, [each.n for each in ends], chain.faults()) == (True, [1], {})
    acts(1)
    assert (chain.extend().n, chain.faults()) == (2, {})


def test_a_writer_that_takes_too_long_is_waited_for_no_further_and_nobody_is_held_up(
    chain, acts, database, monkeypatch, sql
):
    monkeypatch.setattr("ledger.audit_chain._PATIENCE_S", 0.1)
    with database.begin() as writer:
        writer.exec_driver_sql("INSERT INTO audit (actor, action) VALUES ('slow', 'looked')")
        acts(2)

        assert chain.extend() is None

    assert chain.extend().n == 1
    assert sql("SELECT rows FROM audit_chain") == [(3,)]


def test_many_who_write_and_chain_at_once_make_one_whole_chain(chain, ledger, database, sql):
    def write():
        for n in range(15):
            Desk(database, actor=threading.current_thread().name).note("looked", reason=str(n))

    def extend():
        for _ in range(15):
            AuditChain(ledger.vault).extend()

    threads = [threading.Thread(target=each) for each in (write, write, write, extend, extend)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    chain.extend()

    assert (chain.faults(), sql("SELECT sum(rows) FROM audit_chain")) == ({}, [(45,)])


def test_an_erased_reason_leaves_the_chain_whole(chain, ledger, letters, archive, sql):
    ledger.open([new(lead(1))])
    sql("UPDATE deliveries SET state = 'dead', settled_at = now(), reason = 'Zefirina desistiu'")
    letters.discard([archive.search()[0].id], reason="Zefirina ligou")
    chain.extend()
    letters.view(archive.search()[0].id, reason="Zefirina again")

    Eraser(ledger.vault, "ana").erase([ANA], reason="asked for")
    chain.extend()

    rows = sql("SELECT a::text FROM audit a UNION ALL SELECT d::text FROM deliveries d")
    assert "Zefirina" not in "".join(row[0] for row in rows)
    assert chain.faults() == {}
    assert archive.verify().faults == {}


def test_the_purge_of_old_records_leaves_the_chain_and_the_books_whole(chain, ledger, database, archive, acts, sql):
    old = ledger.open([new(lead(n), id=new_id(now_ms=LONG_AGO_MS)) for n in range(4)])
    for each in claim(ledger, *(each.id for each in old)):
        ledger.settle([Settlement(each, Succeeded(Receipt("LEAD-1")))])
    sql("UPDATE audit SET at = now() - interval '500 days'")
    chain.extend()
    sql("UPDATE audit_chain SET at = now() - interval '500 days'")
    sql("UPDATE deliveries SET settled_at = now() - interval '500 days'")
    acts(3)
    chain.extend()
    before = archive.verify()

    held = chain.purge(timedelta(days=400))
    Retention(database, Periods()).purge()
    balanced = archive.verify().faults == {}
    gone = chain.purge(timedelta(days=400))

    assert (held, balanced, gone, len(ids(sql))) == (0, True, 4, 3)
    assert (chain.faults(), archive.verify().faults) == ({}, {})
    assert (archive.verify().accepted, archive.verify().states) == (before.accepted, before.states)
    acts(2)
    assert (chain.extend() is not None, chain.faults()) == (True, {})


@pytest.fixture
def meanwhile(database):
    """Do something, once, just before the ledger is asked for what begins with these words."""
    left = []

    def before(_connection, _cursor, statement, *_):
        if left and statement.strip().startswith(left[0][0]):
            left.pop()[1]()

    event.listen(database, "before_cursor_execute", before)
    yield lambda words, work: left.append((words, work))
    event.remove(database, "before_cursor_execute", before)
    assert not left  # else the words are out of date


def test_a_block_that_is_added_during_the_check_is_no_fault(chain, acts, meanwhile):
    acts()
    chain.extend()
    acts(3)
    meanwhile("SELECT count(*) FROM audit WHERE id", chain.extend)

    assert (chain.faults(), chain.extend(), chain.faults()) == ({}, None, {})


def test_the_first_block_ever_that_is_added_during_the_check_is_no_fault(chain, acts, meanwhile):
    acts()
    meanwhile("SELECT n, last_id, rows, digest", chain.extend)

    assert (chain.faults(), chain.extend()) == ({}, None)


def test_a_block_that_is_purged_during_the_check_is_no_fault(chain, acts, meanwhile, sql):
    acts()
    sql("UPDATE audit SET at = now() - interval '500 days'")
    chain.extend()
    sql("UPDATE audit_chain SET at = now() - interval '500 days'")
    meanwhile("SELECT id, at, actor", lambda: chain.purge(timedelta(days=400)))

    assert (chain.faults(), ids(sql), chain.faults()) == ({}, [], {})


def test_the_chain_survives_new_master_keys(chain, acts, ledger, database):
    acts()
    end = chain.extend()
    rewrap(Vault(database, MasterKeys([bytes(range(32)), bytes(32)])))

    assert AuditChain(Vault(database, MasterKeys([bytes(range(32))]))).faults(noted=end) == {}


def test_an_empty_ledger_has_a_whole_chain_and_knows_no_end(chain):
    assert (chain.extend(), chain.faults()) == (None, {})
    assert chain.faults(noted=Head(1, b"x")) == {"audit_ends_missing": 1}
