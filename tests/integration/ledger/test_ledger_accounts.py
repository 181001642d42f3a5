"""Added accounts in a real ledger: sealed, known to other processes, removed only when nothing of theirs is open."""

import pytest

from config.policy import load_specs
from config.settings import ConfigurationError, load_settings
from delivery.errors import LedgerUnavailable
from ledger.accounts import FRESH_S, Accounts
from ledger.sealing import MasterKeys
from tests.integration.conftest import claim, letter, new

NAME = "email:reserva"
VALUES = {
    "SMTP_HOST": "127.0.0.1",
    "FROM_EMAIL": "reserva@exemplo.com.br",
    "SMTP_USER": "eu",
    "SMTP_PASSWORD": "invented",
}
SPECS = {name: spec for name, spec in load_specs().items() if name != "callback"}


@pytest.fixture
def clock():
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def accounts(database, clock):
    return lambda keys=(bytes(32),): Accounts(database, MasterKeys(keys), load_settings({}), SPECS, ticks=clock)


def test_an_added_account_is_sealed_and_known_to_another_process_seconds_later(accounts, clock, sql):
    here, there = accounts(), accounts()
    assert NAME not in there

    assert here.put(NAME, VALUES, actor="ana", reason="spare") is True
    known_at_once = NAME in there
    clock.now += FRESH_S

    assert (known_at_once, NAME in there) == (False, True)
    assert list(there) == [*(f"{each}:default" for each in SPECS), NAME]
    assert len(there) == len(SPECS) + 1
    assert there.settings(NAME).smtp_password.get_secret_value() == "invented"
    ((sealed,),) = sql("SELECT settings FROM accounts WHERE name = :name", name=NAME)
    assert b"invented" not in bytes(sealed)


def test_a_change_keeps_what_it_does_not_name_and_gives_new_settings(accounts):
    book = accounts()
    book.put(NAME, VALUES, actor="ana", reason="spare")
    before = book.added()[NAME]

    assert book.put(NAME, {"SMTP_PASSWORD": "rotated"}, actor="ana", reason="rotation") is False

    after = book.added()[NAME]
    assert (after.settings.smtp_password.get_secret_value(), after.settings.smtp_user) == ("rotated", "eu")
    assert after.version == before.version + 1
    assert book.added(fresh=True)[NAME] is after, "what did not change is not built again"


def test_what_is_wrong_is_refused_and_nothing_written(accounts, sql):
    with pytest.raises(ConfigurationError):
        accounts().put(NAME, {"SMTP_HOST": "127.0.0.1"}, actor="ana", reason="spare")

    assert sql("SELECT count(*) FROM accounts")[0][0] == sql("SELECT count(*) FROM audit")[0][0] == 0


def test_values_that_cannot_be_opened_leave_a_name_that_says_why(accounts):
    accounts().put(NAME, VALUES, actor="ana", reason="spare")

    stranger = accounts((bytes([1]) * 32,))

    assert NAME in stranger
    with pytest.raises(LookupError, match="master key"):
        stranger.settings(NAME)
    with pytest.raises(LookupError):
        stranger.settings("email:nobody")


def test_it_is_not_removed_while_a_delivery_of_it_is_open(accounts, ledger, sql):
    book = accounts()
    book.put(NAME, VALUES, actor="ana", reason="spare")
    (opened,) = ledger.open([new(letter(), account=NAME)])

    kept = book.remove(NAME, actor="ana", reason="over")
    sql("UPDATE deliveries SET state = 'canceled'")
    gone = book.remove(NAME, actor="ana", reason="over")

    assert (kept, gone, NAME in book) == (False, True, False)
    assert [row.action for row in sql("SELECT action FROM audit WHERE account = :a ORDER BY id", a=NAME)] == [
        "account added",
        "account removed",
    ]
    assert claim(ledger, opened.id) == []


def test_a_ledger_that_goes_away_takes_no_account_along(accounts, clock, monkeypatch):
    book = accounts()
    book.put(NAME, VALUES, actor="ana", reason="spare")
    clock.now += FRESH_S

    def away():
        raise LedgerUnavailable("away")

    monkeypatch.setattr(book, "_read", away)

    assert NAME in book
    with pytest.raises(LedgerUnavailable):
        book.added(fresh=True)
    monkeypatch.setattr(never_read := accounts(), "_read", away)
    assert "crm:default" in never_read
    with pytest.raises(LedgerUnavailable):
        list(never_read)
