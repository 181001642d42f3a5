"""Credentials in Postgres: sealed, replaced by who read them last, renewed by one at a time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

from ledger.credentials import PostgresCredentials
from ledger.sealing import MasterKeys, Unreadable
from ledger.vault import Vault

ACCOUNT = "crm:default"
HALF_A_MINUTE = timedelta(seconds=30)


@pytest.fixture
def store(database):
    found = PostgresCredentials(database, Vault(database, MasterKeys([bytes(32)])))
    found.give(ACCOUNT, {"refresh_token": "refresh-1"}, actor="ana", reason="first")
    return found


def test_statement_49_what_was_given_is_found_again_and_stands_sealed(store, sql):
    found = store.find(ACCOUNT)

    assert (found.version, found.secrets) == (1, {"refresh_token": "refresh-1"})
    assert b"refresh-1" not in bytes(sql("SELECT sealed FROM credentials")[0].sealed)
    assert [tuple(row) for row in sql("SELECT actor, action, account, reason FROM audit")] == [
        ("ana", "credential given", ACCOUNT, "first")
    ]


def test_an_account_without_one_has_none(store):
    assert store.find("crm:other") is None
    assert store.begin_renewal("crm:other", keep_for=HALF_A_MINUTE) is None


def test_one_of_many_may_renew(store):
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: store.begin_renewal(ACCOUNT, keep_for=HALF_A_MINUTE), range(16)))

    assert len([each for each in found if each]) == 1


def test_a_renewal_ends_with_the_new_secrets_for_good(store):
    begun = store.begin_renewal(ACCOUNT, keep_for=HALF_A_MINUTE)

    stored = store.replace(ACCOUNT, begun.version, {"refresh_token": "refresh-2"})

    found = store.find(ACCOUNT)
    assert stored is True
    assert (found.version, found.secrets["refresh_token"], found.unproven_since) == (2, "refresh-2", None)
    assert store.begin_renewal(ACCOUNT, keep_for=HALF_A_MINUTE) is not None


def test_who_read_an_older_version_changes_nothing(store):
    begun = store.begin_renewal(ACCOUNT, keep_for=HALF_A_MINUTE)
    store.give(ACCOUNT, {"refresh_token": "from-ana"}, actor="ana", reason="authorised again")

    stored = store.replace(ACCOUNT, begun.version, {"refresh_token": "late"})

    assert stored is False
    assert store.find(ACCOUNT).secrets == {"refresh_token": "from-ana"}


def test_the_lease_of_a_dead_worker_ends_and_the_next_learns_of_the_unfinished_renewal(store):
    first = store.begin_renewal(ACCOUNT, keep_for=timedelta(0))

    second = store.begin_renewal(ACCOUNT, keep_for=HALF_A_MINUTE)

    assert first.unproven_since is None
    assert second.unproven_since is not None


@pytest.mark.parametrize("doubtful", [False, True])
def test_a_renewal_that_was_given_back_leaves_the_way_free_and_a_doubt_stays(store, doubtful):
    begun = store.begin_renewal(ACCOUNT, keep_for=HALF_A_MINUTE)

    store.end_renewal(ACCOUNT, begun, doubtful=doubtful)

    again = store.begin_renewal(ACCOUNT, keep_for=HALF_A_MINUTE)
    assert again is not None
    assert (again.unproven_since is not None) is doubtful


def test_secrets_open_with_their_key_and_at_their_account_only(store, database):
    stranger = PostgresCredentials(database, Vault(database, MasterKeys([b"x" * 32])))
    with pytest.raises(Unreadable):
        stranger.find(ACCOUNT)

    with database.begin() as connection:
        connection.execute(text("UPDATE credentials SET account = 'crm:moved'"))

    with pytest.raises(Unreadable):
        store.find("crm:moved")
