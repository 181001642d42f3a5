"""A rotation of master keys ends: after the rewrap the old one opens nothing and is needed by nothing."""

import pytest
from sqlalchemy import LargeBinary

from config.policy import load_specs
from config.settings import ConfigurationError, load_settings
from delivery.inbound import Event
from ledger.accounts import Accounts
from ledger.credentials import PostgresCredentials
from ledger.endpoints import PostgresEndpoints
from ledger.inbound import Inbound
from ledger.producer_models import metadata
from ledger.rewrapping import rewrap, wrapped_by_others
from ledger.sealing import MasterKeys, Unreadable
from ledger.store import PostgresLedger
from ledger.vault import Vault
from tests.integration.conftest import claim, lead, new

OLD, NEW = bytes(32), bytes(range(32))
URL = "https://loja.exemplo.com.br/entrega"


def ledger_with(database, *keys):
    return PostgresLedger(database, Vault(database, MasterKeys(keys)))


def filled(ledger):
    """Let the ledger hold one of everything that a master key wraps; return the ids of two deliveries."""
    vault = ledger.vault
    accounts = Accounts(ledger.engine, vault.masters, load_settings({}), {"crm": load_specs()["crm"]})
    values = {"CRM_API_URL": "https://crm.exemplo.com.br", "CRM_API_KEY": "invented"}
    accounts.put("crm:vendas", values, actor="ana", reason="a test")
    PostgresCredentials(ledger.engine, vault).give(
        "crm:default", {"refresh_token": "invented"}, actor="ana", reason="a test"
    )
    said = Event("m1", "message", person="+5511999990001", content={"from": "+5511999990001"})

    Inbound(ledger).keep("whatsapp:default", [said])
    return [each.id for each in ledger.open([new(lead(1, key="k1", callback_url=URL)), new(lead(2))])]


def names_of_keys(sql, key):
    """Return the columns in which a value begins with the name of a master key."""
    name = MasterKeys([key]).first_name
    columns = [(t.name, c.name) for t in metadata.sorted_tables for c in t.columns if isinstance(c.type, LargeBinary)]
    return {
        f"{table}.{column}"
        for table, column in columns
        if sql(f"SELECT 1 FROM {table} WHERE substr({column}, 1, 4) = :name LIMIT 1", name=name)  # noqa: S608 - ours
    }


def test_statement_48_the_old_master_key_opens_until_the_rewrap_ends_and_nothing_afterwards(database, sql):
    first, second = filled(ledger_with(database, OLD))
    wrapped = names_of_keys(sql, OLD)
    rotating = ledger_with(database, NEW, OLD)
    before = claim(rotating, first)

    done = rewrap(rotating.vault)

    assert (len(before), done, wrapped_by_others(rotating.vault)) == (1, len(wrapped) + 2, 0)
    assert (names_of_keys(sql, OLD), names_of_keys(sql, NEW)) == (set(), wrapped)
    assert wrapped == {
        "vault.wrapped", "people.data_key", "accounts.settings", "credentials.sealed", "endpoints.url",
        "signing_secrets.secret",
    }  # fmt: skip
    alone = ledger_with(database, NEW)
    assert [each.order.delivery_id for each in claim(alone, second)] == [second]
    assert PostgresEndpoints(database, alone.vault).show_secret("tests", actor="ana")
    with pytest.raises(ConfigurationError, match="do not open this ledger"):
        _ = ledger_with(database, OLD).vault.index_key


def test_a_repeat_is_recognised_and_a_person_found_after_the_rewrap(database):
    first, _ = filled(ledger_with(database, OLD))
    working = ledger_with(database, NEW, OLD)
    working.open([new(lead(1, key="k2"))])  # this process remembers the person's key as it was wrapped before
    rewrap(ledger_with(database, NEW, OLD).vault)

    (again,) = working.open([new(lead(1, key="k1", callback_url=URL))])
    (third,) = working.open([new(lead(1, key="k3"))])

    assert (again.id, again.same_body, third.fresh) == (first, True, True)
    assert len(claim(ledger_with(database, NEW), third.id)) == 1


def test_a_rewrap_without_the_old_key_changes_nothing_and_says_why(database, sql):
    filled(ledger_with(database, OLD))
    before = names_of_keys(sql, OLD)

    with pytest.raises(Unreadable, match="not in ENTREGA_MASTER_KEYS"):
        rewrap(Vault(database, MasterKeys([NEW])))

    assert names_of_keys(sql, OLD) == before


def test_many_people_are_rewrapped_page_by_page_and_once(database, monkeypatch):
    monkeypatch.setattr("ledger.rewrapping._AT_ONCE", 2)
    ledger_with(database, OLD).open([new(lead(n)) for n in range(5)])
    vault = ledger_with(database, NEW, OLD).vault

    assert [rewrap(vault), rewrap(vault)] == [6, 0]
