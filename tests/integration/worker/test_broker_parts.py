"""Beat and Flower outside the sandbox: with the broker's address alone, as docker compose gives it to them."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

HOME = Path(__file__).parents[3]
WITHIN_S = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def celery(folder, redis_url, *command, **variables):
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(HOME),
        "ENTREGA_ENV": "staging",
        "REDIS_URL": redis_url,
    }
    log = folder / "out.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", *command],
            cwd=folder, env=environment | variables, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield process, log
    finally:
        process.terminate()
        process.wait(timeout=60)


def comes(process, look):
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            if look():
                return True
        time.sleep(0.1)
    return False


def test_beat_ticks_with_the_brokers_address_alone(tmp_path, redis_url):
    with celery(tmp_path, redis_url, "beat", "--loglevel=INFO", "--pidfile=") as (process, log):
        ticked = comes(process, lambda: "Sending due task" in log.read_text())

    assert ticked, log.read_text()


def test_flower_answers_with_the_brokers_address_and_its_login_alone(tmp_path, redis_url):
    port = free_port()
    variables = {"FLOWER_BASIC_AUTH": "operator:invented", "FLOWER_PORT": str(port)}

    with celery(tmp_path, redis_url, "flower", **variables) as (process, log):
        url = f"http://127.0.0.1:{port}/healthcheck"
        answered = comes(process, lambda: urllib.request.urlopen(url, timeout=5).status == 200)

    assert answered, log.read_text()


@pytest.mark.parametrize("command", ["worker", "status"])
def test_whatever_opens_the_ledger_still_demands_what_it_needs(tmp_path, redis_url, command):
    with celery(tmp_path, redis_url, command) as (process, log):
        code = process.wait(timeout=WITHIN_S)

    assert code != 0
    assert "DATABASE_URL: required outside sandbox" in log.read_text()
    assert "ENTREGA_MASTER_KEYS: required outside sandbox" in log.read_text()
