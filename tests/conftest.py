"""Real servers for the tests that need them: one Postgres and one Valkey for the whole run, empty for each test."""

import functools
import logging
import signal
import sys
import threading

import pytest
import structlog
from hypothesis import HealthCheck, settings

from sandbox.postgres import temporary_postgres
from sandbox.valkey import ValkeyServer

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


_configure_structlog = structlog.configure


@functools.wraps(_configure_structlog)
def _configure_without_cache(*args, **kwargs):
    """A cached logger keeps for all later tests what the test that used it first had configured."""
    _configure_structlog(*args, **(kwargs | {"cache_logger_on_first_use": False}))


structlog.configure = _configure_without_cache


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """A test that configures logging, itself or by what it calls, changes it for no other test."""
    root = logging.getLogger()
    kept = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    details = logging.logThreads, logging.logProcesses, logging.logMultiprocessing, logging._srcfile
    names = list(root.manager.loggerDict)
    levels = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in names}
    yield
    if not structlog.is_configured():
        return
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = kept
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing, logging._srcfile = details
    for name, (level, propagate) in levels.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = propagate
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


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
