"""The providers of a worker: built once for each account, again when it is changed, honest while the ledger is away."""

import pytest

from config.policy import load_specs
from config.settings import load_settings
from delivery.errors import LedgerUnavailable, Permanent, Retryable
from ledger.accounts import Accounts
from ledger.sealing import MasterKeys
from worker.accounts import Providers

NAME = "email:reserva"
VALUES = {"SMTP_HOST": "127.0.0.1", "FROM_EMAIL": "reserva@exemplo.com.br"}


class Built:
    def __init__(self, name, settings):
        self.name = name
        self.host = settings.smtp_host


@pytest.fixture
def accounts(database):
    specs = {name: spec for name, spec in load_specs().items() if name != "callback"}
    return lambda: Accounts(database, MasterKeys([bytes(32)]), load_settings({}), specs)


@pytest.fixture
def alarms():
    return []


@pytest.fixture
def providers(accounts, alarms):
    return Providers(accounts(), load_settings({}), Built, alarm=alarms.append)


def test_an_account_added_by_another_process_is_known_when_it_is_needed(accounts, providers):
    assert NAME not in providers

    accounts().put(NAME, VALUES, actor="ana", reason="spare")

    assert (providers[NAME].name, providers[NAME].host) == (NAME, "127.0.0.1")
    assert providers[NAME] is providers[NAME]
    assert sorted(providers) == ["callback", "crm:default", "email:default", NAME, "whatsapp:default"]
    assert len(providers) == 5


def test_a_change_makes_a_new_provider_and_a_removal_none(accounts, providers):
    book = providers._accounts
    book.put(NAME, VALUES, actor="ana", reason="spare")
    before = providers[NAME]

    book.put(NAME, {"SMTP_HOST": "localhost"}, actor="ana", reason="moved")
    after = providers[NAME]
    book.remove(NAME, actor="ana", reason="over")

    assert (before.host, after.host) == ("127.0.0.1", "localhost")
    assert providers.get(NAME) is None


def test_the_hosts_of_callbacks_share_one_and_never_ask_the_ledger(providers, monkeypatch):
    monkeypatch.setattr(providers._accounts, "added", lambda **_: pytest.fail("asked"))

    assert providers["callback:hooks.example.com"] is providers["callback"]
    assert providers["crm:default"].name == "crm:default"


def test_an_account_never_needed_before_waits_for_the_ledger(providers, monkeypatch):
    def away(**_):
        raise LedgerUnavailable("away")

    monkeypatch.setattr(providers._accounts, "added", away)

    with pytest.raises(Retryable):
        providers[NAME]


@pytest.mark.parametrize("fault", [KeyError("crm"), LookupError("CRM_URL is not set"), Permanent("no key")])
def test_an_account_that_cannot_be_built_is_told_and_takes_no_other_with_it(accounts, alarms, fault):
    def build(name, settings):
        if name == "crm:default":
            raise fault
        return Built(name, settings)

    providers = Providers(accounts(), load_settings({}), build, alarm=alarms.append)

    assert (providers["email:default"].name, providers["callback"].name) == ("email:default", "callback")
    with pytest.raises(Permanent, match=r"crm:default is not set up: .*entrega resume crm:default"):
        providers["crm:default"].probe()
    assert [(each.severity, each.account, each.code) for each in alarms] == [("P1", "crm:default", "misconfigured")]


def test_an_added_account_that_cannot_be_built_is_told_as_well(accounts, alarms):
    def build(name, settings):
        return dict.fromkeys(["crm:default", "email:default", "whatsapp:default", "callback"], settings)[name]

    accounts().put(NAME, VALUES, actor="ana", reason="spare")
    providers = Providers(accounts(), load_settings({}), build, alarm=alarms.append)

    with pytest.raises(Permanent, match="KeyError"):
        providers[NAME].probe()
    assert [each.account for each in alarms] == [NAME]


def test_values_that_cannot_be_used_hold_the_account_with_advice(providers, alarms, sql):
    sql("INSERT INTO accounts (name, settings) VALUES (:name, 'rubbish')", name=NAME)

    with pytest.raises(Permanent, match=r"master key missing.*accounts add email:reserva.*entrega resume") as raised:
        providers[NAME].probe()
    assert raised.value.code == "misconfigured"
    assert [(each.severity, each.account) for each in alarms] == [("P1", NAME)]
