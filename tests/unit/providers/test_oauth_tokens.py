"""Keys and tokens: when one is fetched, shared, renewed, and what the token endpoint's refusals mean."""

import base64
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast
from urllib.parse import parse_qs

import pytest
import requests
import responses
from pydantic import SecretStr
from redis import Redis, RedisError

from config.policy import Timeouts
from delivery.errors import Permanent, ProviderError, Retryable
from providers.http import HttpClient
from providers.oauth import ApiKey, ClientCredentials, TokenSource
from providers.token_shelf import TokenShelf

TOKEN_URL = "https://auth.example.com/oauth/token"
HTTP = HttpClient()
SECRET = "invented-secret-value"


@dataclass
class Clock:
    """Both clocks at once; they differ by a constant, as real ones do."""

    now: float = 1_000.0
    read: threading.Event = field(default_factory=threading.Event)

    def ticks(self) -> float:
        now = self.now
        self.read.set()
        return now

    def wall(self) -> float:
        return self.now + 1_700_000_000


@dataclass
class FakeRedis:
    """The three commands the token needs, in memory; `away` makes every one of them fail."""

    values: dict[str, Any] = field(default_factory=dict)
    lives: dict[str, timedelta] = field(default_factory=dict)
    away: bool = False

    def _reach(self) -> None:
        {False: lambda: None, True: self._fail}[self.away]()

    def _fail(self) -> None:
        raise RedisError("connection refused")

    def get(self, name: str) -> Any:
        self._reach()
        return self.values.get(name)

    def set(self, name: str, value: Any, *, px: timedelta, nx: bool = False) -> bool:
        self._reach()
        taken = nx and name in self.values
        self.values.update({} if taken else {name: value})
        self.lives[name] = px
        return not taken

    def register_script(self, _script: str) -> Callable[[list[str], list[str]], int]:
        return self._unlock

    def _unlock(self, keys: list[str], args: list[str]) -> int:
        self._reach()
        return int(self.values.get(keys[0]) == args[0] and self.values.pop(keys[0]) is not None)


def seal(plain: bytes) -> bytes:
    return b"sealed:" + plain[::-1]


def unseal(sealed: bytes) -> bytes:
    plain = sealed.removeprefix(b"sealed:")[::-1]
    return json.dumps(json.loads(plain)).encode()


def source(
    redis: FakeRedis | None = None,
    clock: Clock | None = None,
    pause: Callable[[float], object] = lambda _: None,
    scope: str | None = None,
    chance: float = 0.0,
) -> TokenSource:
    clock = clock or Clock()
    credentials = ClientCredentials(TOKEN_URL, "our-id", SecretStr(SECRET), scope, timedelta(hours=2))
    shelf = TokenShelf(
        redis=cast("Redis | None", redis),
        service="crm",
        mark=credentials.mark(),
        seal=seal,
        unseal=unseal,
        ticks=clock.ticks,
    )
    return TokenSource(
        credentials=credentials,
        shelf=shelf,
        http=HTTP,
        timeouts=Timeouts(connect_s=1, read_s=1, total_s=1),
        margin=lambda life: max(min(life * 0.2, timedelta(minutes=30)), timedelta(seconds=60)),
        wall=clock.wall,
        ticks=clock.ticks,
        pause=pause,
        chance=lambda: chance,
    )


def grant(token: str = "token-1", **more: object) -> None:  # noqa: S107 - invented
    responses.post(TOKEN_URL, json={"access_token": token, "token_type": "Bearer", "expires_in": 3600, **more})


@responses.activate
def test_the_form_asks_for_client_credentials_with_id_and_secret() -> None:
    grant()

    source(scope="leads.write").token()

    assert parse_qs(str(responses.calls[0].request.body)) == {
        "grant_type": ["client_credentials"],
        "client_id": ["our-id"],
        "client_secret": [SECRET],
        "scope": ["leads.write"],
    }


@responses.activate
def test_headers_carry_the_token_as_bearer() -> None:
    grant("token-1")

    assert source().headers() == {"Authorization": "Bearer token-1"}


@responses.activate
@pytest.mark.parametrize(
    ("answer", "fresh_s"),
    [
        pytest.param({"expires_in": 86_400}, 86_400 - 1_800, id="a day: half an hour before"),
        pytest.param({"expires_in": 1_800}, 1_800 - 360, id="half an hour: a fifth before"),
        pytest.param({"expires_in": 200}, 140, id="short: a minute before"),
        pytest.param({"expires_in": 60}, 30, id="a minute: half of it"),
        pytest.param({"expires_in": "7200"}, 7_200 - 1_440, id="a number in quotes"),
        pytest.param({"expires_in": None}, 7_200 - 1_440, id="absent: the spec's life"),
        pytest.param({"expires_in": "soon"}, 7_200 - 1_440, id="unreadable: the spec's life"),
        pytest.param({"expires_in": -5}, 7_200 - 1_440, id="negative: the spec's life"),
        pytest.param({"expires_in": 1e300}, 366 * 86_400 - 1_800, id="huge: a year"),
    ],
)
def test_a_token_is_renewed_ahead_of_its_end(answer: dict[str, object], fresh_s: float) -> None:
    grant("token-1", **answer)
    grant("token-2")
    clock, redis = Clock(), FakeRedis()
    tokens = source(redis, clock)

    first = tokens.token()
    clock.now += fresh_s - 1
    second = tokens.token()
    clock.now += 1
    third = tokens.token()

    assert (first, second, third) == ("token-1", "token-1", "token-2")


@responses.activate
def test_processes_begin_to_renew_at_different_moments_but_never_past_the_margin() -> None:
    grant("token-1", expires_in=1_000)
    grant("token-2", expires_in=1_000)
    clock, redis = Clock(), FakeRedis()
    early, late = source(redis, clock), source(redis, clock, chance=1.0)
    early.token()
    late.token()

    clock.now += 800
    redis.values.clear()  # as Redis does at the end of the time it was told
    first = late.token(), early.token()
    clock.now += 20
    second = late.token()

    assert (first, second, len(responses.calls)) == (("token-1", "token-2"), "token-2", 2)


@responses.activate
def test_life_counts_from_the_start_of_the_request() -> None:
    clock = Clock()

    def slow(_: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        clock.now += 1_000
        return 200, {}, json.dumps({"access_token": "token-1", "expires_in": 2_000})

    responses.add_callback("POST", TOKEN_URL, slow)
    tokens = source(clock=clock)

    tokens.token()
    clock.now += 599
    tokens.token()
    calls_before_the_margin = len(responses.calls)
    clock.now += 1
    tokens.token()

    assert (calls_before_the_margin, len(responses.calls)) == (1, 2)


@responses.activate
def test_workers_share_one_token_through_redis() -> None:
    grant()
    clock, redis = Clock(), FakeRedis()

    first = source(redis, clock).token()
    second = source(redis, Clock(now=clock.now)).token()

    assert (first, second, len(responses.calls)) == ("token-1", "token-1", 1)


@responses.activate
def test_redis_holds_the_token_sealed_and_for_less_than_its_life() -> None:
    grant("token-1", expires_in=3_600)
    redis = FakeRedis()

    source(redis).token()

    assert list(redis.values) == ["api:crm:token"]
    assert b"token-1" not in redis.values["api:crm:token"]
    assert redis.lives["api:crm:token"] == timedelta(seconds=3_600 - 720)


@responses.activate
@pytest.mark.parametrize(
    "kept",
    [
        b"garbage",
        "text that is no base64 \u20ac",
        base64.b64encode(b"sealed:" + b"{not json"[::-1]),
        base64.b64encode(seal(b'{"token": 3, "for": "x"}')),
        base64.b64encode(seal(b'{"token":"stolen","for":"another account","renew_at":9e12,"expires_at":9e12}')),
        base64.b64encode(seal(b"[]")),
    ],
)
def test_a_corrupted_or_foreign_value_in_redis_is_fetched_anew(kept: bytes | str) -> None:
    grant("token-1")
    redis = FakeRedis({"api:crm:token": kept})

    assert source(redis).token() == "token-1"


@responses.activate
def test_without_redis_the_process_keeps_its_own_token() -> None:
    grant()
    tokens = source(FakeRedis(away=True))

    first, second = tokens.token(), tokens.token()

    assert (first, second, len(responses.calls)) == ("token-1", "token-1", 1)


@responses.activate
def test_twenty_threads_make_one_token_request() -> None:
    together = threading.Barrier(20)
    grant()
    tokens = source(FakeRedis())

    def ask(_: int) -> str:
        together.wait(timeout=60)
        return tokens.token()

    with ThreadPoolExecutor(20) as pool:
        found = set(pool.map(ask, range(20)))

    assert (found, len(responses.calls)) == ({"token-1"}, 1)


@responses.activate
def test_who_waited_for_a_call_that_failed_shares_its_verdict() -> None:
    clock = Clock()
    tokens = source(clock=clock)
    waiting: list[BaseException | None] = []

    def ask() -> None:
        with pytest.raises(Retryable) as caught:
            tokens.token()
        waiting.append(caught.value)

    second = threading.Thread(target=ask)

    def fail(_: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        clock.read.clear()
        second.start()
        clock.read.wait(timeout=60)  # the second has asked before the clock moves on
        clock.now += 1
        return 503, {"Retry-After": "9"}, ""

    responses.add_callback("POST", TOKEN_URL, fail)
    with pytest.raises(Retryable):
        tokens.token()
    second.join(timeout=60)

    assert len(responses.calls) == 1
    assert [cast("ProviderError", each).retry_after for each in waiting] == [timedelta(seconds=9)]


@responses.activate
def test_another_worker_that_fetches_is_waited_for() -> None:
    clock, redis = Clock(), FakeRedis()
    grant("token-of-the-other")
    source(redis, clock).token()
    theirs = redis.values.pop("api:crm:token")
    redis.values["api:crm:token:lock"] = "the other worker"

    waiter = source(redis, clock, pause=lambda _: redis.values.update({"api:crm:token": theirs}))

    assert waiter.token() == "token-of-the-other"
    assert len(responses.calls) == 1


@responses.activate
def test_a_worker_that_died_with_the_lock_stops_nobody() -> None:
    grant("token-1")
    redis = FakeRedis({"api:crm:token:lock": "a dead worker"})
    waits: list[float] = []

    found = source(redis, pause=waits.append).token()

    assert found == "token-1"
    assert sum(waits) == pytest.approx(1.0)
    assert redis.values["api:crm:token:lock"] == "a dead worker"


@responses.activate
def test_a_refused_token_is_renewed_once_for_all_who_used_it() -> None:
    grant("token-1")
    grant("token-2")
    tokens = source(FakeRedis())
    used = tokens.headers()

    tokens.refused(used)
    tokens.refused(used)

    assert tokens.token() == "token-2"
    assert len(responses.calls) == 2


@responses.activate
def test_a_token_that_another_worker_renewed_is_taken_up_without_a_request() -> None:
    grant("token-1")
    grant("token-2")
    redis, clock = FakeRedis(), Clock()
    ours, theirs = source(redis, clock), source(redis, clock)
    ours.token()
    theirs.renew("token-1")

    found = ours.renew("token-1")

    assert (found, len(responses.calls)) == ("token-2", 2)


@responses.activate
def test_a_token_that_still_lives_serves_while_its_renewal_fails() -> None:
    grant("token-1", expires_in=1_000)
    responses.post(TOKEN_URL, status=503)
    clock = Clock()
    tokens = source(clock=clock)
    tokens.token()

    clock.now += 850
    during = tokens.token(), tokens.token()
    clock.now += 151
    with pytest.raises(Retryable):
        tokens.token()

    assert during == ("token-1", "token-1")
    assert len(responses.calls) == 3


@responses.activate
@pytest.mark.parametrize(
    ("reply", "verdict", "code"),
    [
        pytest.param({"status": 401, "json": {"error": "invalid_client"}}, Permanent, "unauthorized", id="client"),
        pytest.param({"status": 400, "json": {"error": "invalid_grant"}}, Permanent, "unauthorized", id="grant"),
        pytest.param({"status": 400, "json": {"error": "unauthorized_client"}}, Permanent, "unauthorized", id="rights"),
        pytest.param({"status": 403, "body": "<html>"}, Permanent, "unauthorized", id="403 without JSON"),
        pytest.param({"status": 404, "body": "<html>"}, Permanent, "misconfigured", id="wrong URL"),
        pytest.param({"status": 302, "body": ""}, Permanent, "misconfigured", id="redirect"),
        pytest.param({"status": 429, "body": ""}, Retryable, "rate_limited", id="429"),
        pytest.param({"status": 408, "body": ""}, Retryable, "unavailable", id="408"),
        pytest.param({"status": 500, "body": ""}, Retryable, "unavailable", id="500"),
        pytest.param({"status": 503, "json": {"error": "temporarily_unavailable"}}, Retryable, "unavailable", id="503"),
        pytest.param({"status": 200, "body": "<html>"}, Retryable, "unavailable", id="a page"),
        pytest.param({"status": 200, "json": {"access_token": "a b"}}, Retryable, "unavailable", id="no header token"),
        pytest.param(
            {"status": 200, "json": {"access_token": "t", "token_type": "mac"}},
            Retryable,
            "unavailable",
            id="no bearer",
        ),
        pytest.param({"body": requests.ReadTimeout("late")}, Retryable, "not_sent", id="answer lost"),
        pytest.param({"body": requests.ConnectTimeout("late")}, Retryable, "not_sent", id="no connection"),
    ],
)
def test_a_refusal_of_the_token_endpoint_proves_that_the_request_was_not_sent(
    reply: dict[str, Any], verdict: type[ProviderError], code: str
) -> None:
    responses.post(TOKEN_URL, **reply)

    with pytest.raises(verdict) as caught:
        source(FakeRedis()).token()

    assert caught.value.code == code
    assert SECRET not in repr(caught.value)


@responses.activate
def test_the_wait_that_the_token_endpoint_asks_for_is_passed_on() -> None:
    responses.post(TOKEN_URL, status=429, headers={"Retry-After": "30"})

    with pytest.raises(Retryable) as caught:
        source().token()

    assert caught.value.retry_after == timedelta(seconds=30)


@responses.activate
def test_the_lock_is_given_back_after_a_failure() -> None:
    responses.post(TOKEN_URL, status=500)
    redis = FakeRedis()

    with pytest.raises(Retryable):
        source(redis).token()

    assert redis.values == {}


def test_an_api_key_is_the_same_header_every_time() -> None:
    key = ApiKey(SecretStr("invented-key"))

    key.refused(key.headers())

    assert key.headers() == {"X-API-Key": "invented-key"}


@pytest.mark.parametrize("key", ["", "with space", "line\nbreak", "eur€"])
def test_a_key_that_no_header_carries_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(Permanent, match="set it again") as caught:
        ApiKey(key)

    assert caught.value.code == "unauthorized"
    assert key not in str(caught.value) or key == ""


def test_neither_credentials_nor_a_source_show_their_secret() -> None:
    credentials = ClientCredentials(TOKEN_URL, "our-id", SecretStr(SECRET))

    assert SECRET not in repr(credentials)
    assert SECRET not in repr(source())
