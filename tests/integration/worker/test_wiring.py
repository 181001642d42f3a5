"""What a worker's engine is put together from, seen by what it does: gates, limiter, alarm, counters, TLS.

Each test fails when its part is left out of `worker/wiring.py`. Real Postgres and Valkey, providers on this machine.
"""

import contextlib
import socket
import ssl
import threading

import pytest
import redis
import responses
import trustme

from config.policy import Limits
from config.settings import load_settings
from delivery.errors import ProviderError
from ledger.alerts import Alerts
from tasks.app import Entrega
from tests.integration.conftest import lead, letter, new
from worker.metrics import PrometheusRecorder, render_metrics
from worker.wiring import build_engine

CRM = "https://crm.example.com"


@pytest.fixture
def worker(tmp_path, database, ledger, redis_url):
    """Return a function that puts an engine together; `change` is made to the specs first."""
    redis.Redis.from_url(redis_url).flushdb()

    def made(change=lambda specs: None, **settings):
        app = Entrega("wiring")
        basis = {"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": redis_url, "entrega_data": tmp_path}
        crm = {"crm_api_url": "http://127.0.0.1:9", "crm_api_key": "invented"}
        app.__dict__ |= {"settings": load_settings(basis | crm | settings), "database": database, "ledger": ledger}
        app.__dict__["specs"] = dict(app.specs)
        change(app.specs)
        return build_engine(app, PrometheusRecorder())

    return made


def opened(ledger, commands):
    return [each.id for each in ledger.open([new(each) for each in commands])]


def codes(settlements):
    return [each.outcome.code for each in settlements]


def test_a_provider_that_fails_is_left_alone_and_an_operator_hears_of_it(worker, ledger, database):
    engine, ids = worker(), opened(ledger, [lead(n) for n in range(11)])

    before = codes(engine.deliver(ids[:10]))
    after = codes(engine.deliver(ids[10:]))

    assert (set(before), after) == ({"not_sent"}, ["breaker_open"])
    (alert,) = Alerts(database).open()
    assert (alert.severity, alert.account, alert.code) == ("P0", "crm:default", "breaker_open")
    assert alert.next_step == "Check that the API is up; entrega breaker list"


def test_calls_stay_within_the_limit_of_the_spec(worker, ledger):
    def one_a_minute(specs):
        excess = specs["crm"].limits.on_excess
        specs["crm"] = specs["crm"].model_copy(update={"limits": Limits(per_minute=1, on_excess=excess)})

    engine, (first, second) = worker(one_a_minute), opened(ledger, [lead(1), lead(2)])

    assert codes(engine.deliver([first])) == ["not_sent"]
    assert codes(engine.deliver([second])) == ["limited"]


def test_an_account_that_is_held_is_told_to_an_operator(worker, ledger, database):
    engine, ids = worker(), opened(ledger, [letter(1)])

    assert codes(engine.deliver(ids)) == ["misconfigured"]
    assert [(each.severity, each.account, each.code) for each in Alerts(database).open()] == [
        ("P1", "email:default", "misconfigured")
    ]


@responses.activate
def test_a_renewed_token_is_counted(worker):
    responses.add("POST", f"{CRM}/oauth/token", json={"access_token": "invented", "expires_in": 7200})
    responses.add("GET", f"{CRM}/api/v1/leads", json={"items": []})
    login = {"crm_client_id": "us", "crm_client_secret": "invented"}
    engine = worker(crm_api_url=CRM, crm_api_key=None, **login)

    assert engine.providers["crm:default"].probe() == "token accepted"
    assert 'entrega_token_renewals_total{service="crm"} 1.0' in render_metrics(recorder=recorder_of(engine)).decode()


def recorder_of(engine):
    return engine.teller._recorder


@responses.activate
def test_a_fixed_key_travels_as_the_spec_says(worker):
    responses.add("GET", f"{CRM}/api/v1/leads", json={"items": []})

    def bearer(specs):
        way = specs["crm"].authentication.alternatives[0]
        way = way.model_copy(update={"header": "Authorization", "format": "Bearer {api_key}"})
        authentication = specs["crm"].authentication.model_copy(update={"alternatives": (way,)})
        specs["crm"] = specs["crm"].model_copy(update={"authentication": authentication})

    worker(bearer, crm_api_url=CRM).providers["crm:default"].probe()

    assert responses.calls[0].request.headers["Authorization"] == "Bearer invented"
    assert "X-API-Key" not in responses.calls[0].request.headers


@pytest.fixture(scope="module")
def old_server():
    """Return the port of a server that speaks no newer TLS than 1.2, under a certificate that nobody here trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                    pass

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.mark.parametrize("account", ["crm:default", "email:default"])
@pytest.mark.parametrize(("oldest", "code"), [("1.2", "certificate"), ("1.3", "not_sent")])
def test_no_older_tls_is_spoken_than_the_spec_says(worker, old_server, account, oldest, code):
    def minimum(specs):
        for name, spec in specs.items():
            specs[name] = spec.model_copy(update={"security": spec.security.model_copy(update={"minimum_tls": oldest})})

    mail = {"smtp_host": "localhost", "smtp_port": old_server, "smtp_use_ssl": True, "from_email": "a@exemplo.com.br"}
    engine = worker(minimum, crm_api_url=f"https://localhost:{old_server}", **mail)

    with pytest.raises(ProviderError) as refused:
        engine.providers[account].probe()

    assert refused.value.code == code
