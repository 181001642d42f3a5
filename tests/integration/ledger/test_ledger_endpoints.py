"""Endpoints and their secrets on the real Postgres: sealed, shown once, two at a time while one takes over."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from ledger.endpoints import PostgresEndpoints
from ledger.sealing import MasterKeys, Unreadable
from ledger.vault import Vault

URL = "https://loja.exemplo.com.br/retorno?token=inventado"
DAY = timedelta(days=1)


@pytest.fixture
def endpoints(ledger):
    return ledger.endpoints


def test_a_url_is_one_endpoint_for_each_producer(endpoints):
    first, again, other = (endpoints.register(name, URL) for name in ("loja", "loja", "site"))

    assert first == again
    assert other != first
    assert [each.account for each in endpoints.search()] == ["callback:loja.exemplo.com.br"] * 2


def test_processes_that_meet_a_url_at_once_agree_on_its_endpoint(database):
    processes = [PostgresEndpoints(database, Vault(database, MasterKeys([bytes(32)]))) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda each: each.register("loja", URL), processes))

    assert len(found) == 1


def test_neither_the_url_nor_the_secret_stands_in_the_ledger_in_clear(endpoints, sql):
    secret = endpoints.find(endpoints.register("loja", URL)).secrets[0]

    rows = [*sql("SELECT url, address FROM endpoints"), *sql("SELECT secret, secret FROM signing_secrets")]

    assert not any(text in bytes(value) for row in rows for value in row for text in (b"exemplo", b"inventado", secret))


def test_a_sealed_url_cannot_be_moved_to_another_endpoint(endpoints, sql):
    first, second = endpoints.register("loja", URL), endpoints.register("site", URL + "2")
    sql("UPDATE endpoints SET url = (SELECT url FROM endpoints WHERE id = :a) WHERE id = :b", a=first, b=second)

    with pytest.raises(Unreadable):
        endpoints.find(second)


def test_the_first_endpoint_of_a_producer_makes_its_secret_and_the_second_shares_it(endpoints):
    first, second = (endpoints.find(endpoints.register("loja", URL + each)) for each in ("1", "2"))

    assert len(first.secrets[0]) == 32
    assert first.secrets == second.secrets


def test_a_secret_is_shown_once(endpoints, sql):
    used = endpoints.find(endpoints.register("loja", URL)).secrets[0]

    shown, again = (endpoints.show_secret("loja", actor="ana") for _ in range(2))

    assert (shown, again) == (used, None)
    assert sql("SELECT actor, action, reason FROM audit") == [("ana", "secret_shown", "loja")]


def test_a_producer_may_ask_for_its_secret_before_its_first_callback(endpoints):
    shown = endpoints.show_secret("loja", actor="ana")

    assert endpoints.find(endpoints.register("loja", URL)).secrets == (shown,)


def test_after_a_rotation_both_secrets_sign_until_the_old_one_ends(endpoints, sql):
    endpoint = endpoints.register("loja", URL)
    (old,) = endpoints.find(endpoint).secrets

    fresh = endpoints.rotate_secret("loja", keep=DAY, actor="ana")
    both = endpoints.find(endpoint).secrets
    sql("UPDATE signing_secrets SET ends_at = now() WHERE ends_at IS NOT NULL")

    assert both == (fresh, old)
    assert endpoints.find(endpoint).secrets == (fresh,)
    assert endpoints.show_secret("loja", actor="ana") is None


def test_rotations_at_once_leave_one_current_secret(endpoints, sql):
    endpoints.register("loja", URL)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: endpoints.rotate_secret("loja", keep=DAY, actor="ana"), range(6)))

    assert sql("SELECT count(*) FROM signing_secrets WHERE ends_at IS NULL")[0].count == 1


def test_a_disabled_endpoint_stays_so_until_an_operator_enables_it(endpoints, sql):
    endpoint = endpoints.register("loja", URL)

    first, again = (endpoints.disable(endpoint, actor="callbacks", reason="it answered 410") for _ in range(2))
    shut = endpoints.find(endpoint).disabled
    opened = endpoints.enable(endpoint, actor="ana", reason="moved")

    assert (first, again, shut, opened) == (True, False, "it answered 410", True)
    assert endpoints.find(endpoint).disabled is None
    assert [row.action for row in sql("SELECT action FROM audit ORDER BY id")] == [
        "endpoint_disabled", "endpoint_enabled",
    ]  # fmt: skip


def test_endpoints_are_searched_by_producer_and_by_what_is_wrong(endpoints):
    first, second, third = (endpoints.register(*each) for each in (("loja", URL), ("loja", URL + "2"), ("site", URL)))
    endpoints.disable(first, actor="ana", reason="pediram")

    assert [each.id for each in endpoints.search(producer="loja")] == [second, first]
    assert [each.id for each in endpoints.search(disabled=True)] == [first]
    assert [each.id for each in endpoints.search(most=1)] == [third]
    assert endpoints.knows("callback:loja.exemplo.com.br")
    assert not endpoints.knows("callback:outra.exemplo.com.br")


def test_an_unknown_endpoint_is_none(endpoints, ledger):
    endpoint = endpoints.register("loja", URL)

    assert endpoints.find(endpoint.__class__(int=1)) is None
