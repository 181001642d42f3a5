"""One token for all workers, on a real Valkey and a token endpoint that takes its time."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.policy import Timeouts
from providers.http import HttpClient
from providers.oauth import ClientCredentials, TokenSource
from providers.token_shelf import TokenShelf


class TokenEndpoint(ThreadingHTTPServer):
    """Grants token-1, token-2, ... each after a moment, and counts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Grant)
        self.granted = 0
        self.counting = threading.Lock()


class _Grant(BaseHTTPRequestHandler):
    server: TokenEndpoint

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.2)
        with self.server.counting:
            self.server.granted += 1
            body = json.dumps({"access_token": f"token-{self.server.granted}", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    server = TokenEndpoint()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    client = Redis.from_url(redis_url)
    client.delete("api:crm:token", "api:crm:token:lock")
    yield client
    client.close()


@pytest.fixture
def http() -> Iterator[HttpClient]:
    client = HttpClient()
    yield client
    client.close()


def worker(endpoint: TokenEndpoint, redis: Redis, http: HttpClient) -> TokenSource:
    """Build a source of its own, as another process would have; only Valkey is shared."""
    credentials = ClientCredentials(
        f"http://127.0.0.1:{endpoint.server_port}/oauth/token", "our-id", SecretStr("invented")
    )
    shelf = TokenShelf(
        redis=redis,
        service="crm",
        mark=credentials.mark(),
        seal=lambda plain: plain[::-1],
        unseal=lambda sealed: sealed[::-1],
    )
    return TokenSource(
        credentials=credentials,
        shelf=shelf,
        http=http,
        timeouts=Timeouts(connect_s=1, read_s=2, total_s=3),
        margin=lambda life: life * 0.2,
    )


def test_twenty_threads_of_five_workers_make_one_token_request(
    endpoint: TokenEndpoint, redis: Redis, http: HttpClient
) -> None:
    workers = [worker(endpoint, redis, http) for _ in range(5)]

    with ThreadPoolExecutor(20) as pool:
        found = set(pool.map(lambda place: workers[place % 5].token(), range(20)))

    assert (found, endpoint.granted) == ({"token-1"}, 1)


def test_a_refused_token_is_renewed_once_for_all_workers(
    endpoint: TokenEndpoint, redis: Redis, http: HttpClient
) -> None:
    workers = [worker(endpoint, redis, http) for _ in range(5)]
    used = [each.headers() for each in workers]

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda place: workers[place % 5].refused(used[place % 5]), range(20)))

    assert {each.token() for each in workers} == {"token-2"}
    assert endpoint.granted == 2


def test_valkey_forgets_the_token_before_it_dies_and_the_lock_at_once(
    endpoint: TokenEndpoint, redis: Redis, http: HttpClient
) -> None:
    worker(endpoint, redis, http).token()

    left = timedelta(milliseconds=int(str(redis.pttl("api:crm:token"))))
    assert timedelta(seconds=2_870) < left <= timedelta(seconds=2_880)
    assert redis.exists("api:crm:token:lock") == 0


def test_without_valkey_each_worker_has_its_own_token(endpoint: TokenEndpoint, http: HttpClient) -> None:
    away = Redis(port=9, socket_connect_timeout=0.2, retry=Retry(NoBackoff(), 0))
    first, second = worker(endpoint, away, http), worker(endpoint, away, http)

    found = first.token(), first.token(), second.token()

    assert found == ("token-1", "token-1", "token-2")
    away.close()
