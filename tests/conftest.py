"""Real servers for the tests that need them: one Postgres and one Valkey for the whole run, empty for each test."""

import signal

import pytest
from hypothesis import HealthCheck, settings

from sandbox.postgres import temporary_postgres
from sandbox.valkey import ValkeyServer

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def postgres_url():
    with temporary_postgres() as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url(servers_folder):
    server = ValkeyServer(servers_folder)
    yield server.start()
    server.stop()
