"""Refresh tokens that rotate: stored before use, asked for by one at a time, never lost in silence."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
import responses
from pydantic import SecretStr

from config.policy import Timeouts
from delivery.credentials import Credential
from delivery.errors import LedgerUnavailable, Permanent, ProviderError, Retryable
from providers.grant_shelf import GrantShelf
from providers.http import HttpClient
from providers.oauth import ClientCredentials, TokenSource

TOKEN_URL = "https://auth.example.com/oauth/token"
HTTP = HttpClient()


@dataclass
class Store:
    """The ledger's credentials in memory; `away` names the methods that fail."""

    kept: Credential | None = None
    renewing: bool = False
    doubtful: bool | None = None
    away: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    def _reach(self, method: str) -> None:
        self.done.append(method)
        {False: lambda: None, True: self._fail}[method in self.away]()

    def _fail(self) -> None:
        raise LedgerUnavailable("away")

    def find(self, account: str) -> Credential | None:
        self._reach("find")
        return self.kept

    def begin_renewal(self, account: str, *, keep_for: timedelta) -> Credential | None:
        self._reach("begin")
        assert self.kept is not None
        found = None if self.renewing else self.kept
        self.renewing = True
        return found

    def replace(self, account: str, version: int, secrets: Mapping[str, str]) -> bool:
        self._reach("replace")
        assert self.kept is not None
        same = self.kept.version == version
        self.kept = Credential(version + 1, secrets) if same else self.kept
        self.renewing = self.renewing and not same
        return same

    def end_renewal(self, account: str, begun: Credential, *, doubtful: bool) -> None:
        self._reach("end")
        self.doubtful = doubtful
        self.renewing = False


def source(store: Store) -> TokenSource:
    return TokenSource(
        credentials=ClientCredentials(TOKEN_URL, "our-id", SecretStr("invented"), None, timedelta(hours=1)),
        shelf=GrantShelf(store, "crm:default"),
        http=HTTP,
        timeouts=Timeouts(connect_s=1, read_s=1, total_s=1),
        margin=lambda life: life * 0.2,
        wall=lambda: 1_700_000_000.0,
        ticks=lambda: 1_000.0,
        pause=lambda _: None,
        chance=lambda: 0.0,
    )


def given(refresh_token: str = "refresh-1", **more: object) -> Store:  # noqa: S107 - invented
    return Store(replace(Credential(1, {"refresh_token": refresh_token}), **more))


def grant(access: str = "access-2", **more: object) -> None:
    responses.post(TOKEN_URL, json={"access_token": access, "expires_in": 3600, **more})


@responses.activate
def test_the_new_pair_is_stored_before_the_token_is_given_out() -> None:
    grant("access-2", refresh_token="refresh-2")
    store = given()

    found = source(store).token()

    assert found == "access-2"
    assert parse_qs(str(responses.calls[0].request.body))["refresh_token"] == ["refresh-1"]
    assert store.kept is not None
    assert (store.kept.secrets["refresh_token"], store.kept.secrets["access_token"]) == ("refresh-2", "access-2")


@responses.activate
def test_an_answer_without_a_new_refresh_token_leaves_the_old_one() -> None:
    grant("access-2")
    store = given()

    source(store).token()

    assert store.kept is not None
    assert store.kept.secrets["refresh_token"] == "refresh-1"


@responses.activate
def test_a_second_process_works_with_the_stored_token_and_asks_nobody() -> None:
    grant("access-2", refresh_token="refresh-2")
    store = given()
    source(store).token()

    found = source(store).token()

    assert (found, len(responses.calls)) == ("access-2", 1)


@responses.activate
def test_a_pair_that_could_not_be_stored_is_used_by_nobody_and_stored_first_when_the_ledger_is_back() -> None:
    grant("access-2", refresh_token="refresh-2")
    store = given()
    store.away = {"replace"}
    tokens = source(store)
    with pytest.raises(Retryable) as caught:
        tokens.token()

    store.away = set()
    found = tokens.token()

    assert caught.value.code == "temporary"
    assert (found, len(responses.calls)) == ("access-2", 1)
    assert store.kept is not None
    assert store.kept.secrets["refresh_token"] == "refresh-2"


@responses.activate
def test_nobody_is_asked_while_the_ledger_is_away() -> None:
    store = given()
    store.away = {"find", "begin"}

    with pytest.raises(Retryable, match="away"):
        source(store).token()

    assert len(responses.calls) == 0


@responses.activate
def test_nobody_renews_beside_another_however_long_that_one_takes() -> None:
    store = given()
    store.renewing = True

    with pytest.raises(Retryable, match="another worker") as caught:
        source(store).token()

    assert caught.value.code == "temporary"
    assert len(responses.calls) == 0


@responses.activate
def test_a_credential_that_an_operator_gave_meanwhile_is_not_overwritten() -> None:
    store = given()
    grant("access-2", refresh_token="refresh-2")
    responses.replace(
        responses.CallbackResponse("POST", TOKEN_URL, callback=lambda _: _during(store))  # the operator is quicker
    )

    with pytest.raises(Retryable, match="changed during a renewal"):
        source(store).token()

    assert store.kept == Credential(7, {"refresh_token": "from-the-operator"})


def _during(store: Store) -> tuple[int, dict[str, str], str]:
    store.kept = Credential(7, {"refresh_token": "from-the-operator"})
    return 200, {}, '{"access_token": "access-2", "refresh_token": "refresh-2"}'


@responses.activate
@pytest.mark.parametrize(
    ("since", "told"),
    [
        pytest.param(None, "authorise again, then: entrega accounts set crm:default", id="revoked"),
        pytest.param(
            datetime(2026, 11, 22, 10, 2, tzinfo=UTC), "begun at 2026-11-22 10:02:00 UTC was never stored", id="a crash"
        ),
    ],
)
def test_a_refused_refresh_token_says_what_to_do_and_what_may_have_used_it_up(since: object, told: str) -> None:
    responses.post(TOKEN_URL, status=400, json={"error": "invalid_grant"})
    store = given(unproven_since=since)

    with pytest.raises(Permanent, match=told) as caught:
        source(store).token()

    assert (caught.value.code, caught.value.provider_code) == ("unauthorized", "invalid_grant")
    assert "refresh-1" not in str(caught.value)
    assert store.renewing is False


@responses.activate
@pytest.mark.parametrize(
    ("reply", "doubtful"),
    [
        pytest.param({"status": 400, "json": {"error": "invalid_grant"}}, False, id="refused: nothing was replaced"),
        pytest.param({"status": 500}, True, id="failed: who knows"),
        pytest.param({"body": requests.ReadTimeout("late")}, True, id="the answer was lost"),
    ],
)
def test_a_renewal_is_in_doubt_unless_the_endpoint_refused_it(reply: dict[str, Any], doubtful: object) -> None:
    responses.post(TOKEN_URL, **reply)
    store = given()

    with pytest.raises(ProviderError):
        source(store).token()

    assert (store.renewing, store.doubtful) == (False, doubtful)


@responses.activate
@pytest.mark.parametrize("kept", [None, Credential(1, {}), Credential(1, {"refresh_token": "a b"})])
def test_an_account_without_a_refresh_token_says_how_to_enter_one(kept: Credential | None) -> None:
    with pytest.raises(Permanent, match="enter it with: entrega accounts set crm:default") as caught:
        source(Store(kept)).token()

    assert caught.value.code == "misconfigured"


def test_a_credential_does_not_show_its_secrets() -> None:
    assert "refresh-1" not in repr(Credential(1, {"refresh_token": "refresh-1"}))
