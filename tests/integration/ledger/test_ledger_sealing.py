"""What lies in the database tells nothing about a person, and cannot be moved, changed or opened elsewhere."""

import json

import pytest
from sqlalchemy import text

from ledger.sealing import MasterKeys, Unreadable, keyed_hash, seal, unseal
from ledger.store import PostgresLedger
from ledger.vault import Vault
from tests.integration.conftest import claim, lead, new

KEY = bytes(range(32))


def test_a_sealed_value_opens_with_its_key_at_its_place():
    assert unseal(KEY, seal(KEY, b"Ana", "payloads.body/1"), "payloads.body/1") == b"Ana"


def test_sealing_twice_gives_different_bytes():
    assert seal(KEY, b"Ana", "p") != seal(KEY, b"Ana", "p")


@pytest.mark.parametrize(
    ("key", "place", "spoil"),
    [(bytes(32), "a", 0), (KEY, "b", 0), (KEY, "a", 1)],
    ids=["another key", "another place", "changed bytes"],
)
def test_statement_48_a_sealed_value_opens_nowhere_else(key, place, spoil):
    sealed = bytearray(seal(KEY, b"Ana", "a"))
    sealed[-1] ^= spoil

    with pytest.raises(Unreadable):
        unseal(key, bytes(sealed), place)


def test_statement_48_no_nonce_comes_twice():
    nonces = {seal(KEY, b"", "p")[:12] for _ in range(200_000)}

    assert len(nonces) == 200_000


def test_statement_48_a_wrapped_key_moved_to_another_person_opens_nothing(ledger, archive, sql):
    first, second = ledger.open([new(lead(1)), new(lead(2))])
    sql(
        "UPDATE people SET data_key = (SELECT data_key FROM people WHERE person = (SELECT person FROM deliveries"
        " WHERE id = :a)) WHERE person = (SELECT person FROM deliveries WHERE id = :b)", a=first.id, b=second.id,
    )  # fmt: skip

    assert [each.order.delivery_id for each in claim(ledger, first.id, second.id)] == [first.id]
    assert archive.find(second.id).code == "unreadable"


def test_a_truncated_value_is_unreadable():
    with pytest.raises(Unreadable):
        unseal(KEY, b"short", "a")


def test_old_master_keys_still_open_and_the_first_one_seals():
    old, fresh = bytes(32), KEY
    wrapped = MasterKeys([old]).wrap(b"k" * 32, "p")

    rotated = MasterKeys([fresh, old])

    assert rotated.unwrap(wrapped, "p") == b"k" * 32
    assert MasterKeys([fresh]).unwrap(rotated.wrap(b"k" * 32, "p"), "p") == b"k" * 32
    with pytest.raises(Unreadable):
        MasterKeys([fresh]).unwrap(wrapped, "p")


def test_keys_do_not_show_themselves():
    assert repr(MasterKeys([KEY])) == "MasterKeys(1 keys)"


def test_a_keyed_hash_needs_its_key():
    assert keyed_hash(KEY, "a") != keyed_hash(bytes(32), "a")


def test_nothing_readable_about_a_person_lies_in_the_database(ledger, sql):
    ledger.open([new(lead(7, key="k1"))])

    tables = ("deliveries", "payloads", "people", "idempotency", "audit", "vault")
    values = [value for name in tables for row in sql(f"SELECT * FROM {name}") for value in row]  # noqa: S608 - our names

    everything = json.dumps([str(value) for value in values])
    raw = b"".join(bytes(value) for value in values if isinstance(value, bytes | memoryview))
    assert "Ana Teste 7" not in everything
    assert "ana.teste7" not in everything
    assert b"Teste" not in raw


def test_statement_48_a_payload_moved_to_another_row_is_a_dead_letter(ledger, archive, sql):
    first, second = ledger.open([new(lead(1)), new(lead(2))])
    sql("UPDATE payloads SET body = (SELECT body FROM payloads WHERE delivery_id = :a) WHERE delivery_id = :b",
        a=first.id, b=second.id)  # fmt: skip

    claimed = claim(ledger, first.id, second.id)

    assert [each.order.delivery_id for each in claimed] == [first.id]
    found = archive.find(second.id)
    assert (found.state, found.code) == ("dead", "unreadable")


def test_an_erased_person_cannot_be_read_any_more(ledger, archive, sql):
    (opened,) = ledger.open([new()])
    sql("DELETE FROM people")

    assert claim(ledger, opened.id) == []
    assert archive.find(opened.id).code == "unreadable"


def test_people_are_found_again_after_the_master_key_was_rotated(ledger, database):
    (first,) = ledger.open([new(lead(key="k1"))])
    rotated = PostgresLedger(database, Vault(database, MasterKeys([KEY, bytes(32)])))

    (again,) = rotated.open([new(lead(key="k1"))])

    assert again.id == first.id
    assert len(claim(rotated, first.id)) == 1


def test_two_processes_that_start_at_once_share_one_index_key(database):
    masters = MasterKeys([KEY])

    first, second = Vault(database, masters), Vault(database, masters)

    assert first.index_key == second.index_key
    with database.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM vault")) == 1
