"""Tokens among real processes: one request for all, a family that lives, and what is left of it after a SIGKILL."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis

from ledger.credentials import PostgresCredentials
from ledger.sealing import MasterKeys
from ledger.vault import Vault
from sandbox.crm import CrmCredentials
from sandbox.standins import Standins

ACCOUNT = "crm:default"
GRANTED = ("POST /oauth/token", "200")
REFUSED = ("POST /oauth/token", "400")


class Process:
    """One refresher, driven line by line."""

    def __init__(self, how, place, token_url):
        program = Path(__file__).with_name("refresher.py")
        self.child = subprocess.Popen(
            [sys.executable, str(program), how, place, token_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def go(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()

    def line(self):
        return self.child.stdout.readline().strip()


@pytest.fixture
def crm():
    with Standins() as standins:
        yield standins


@pytest.fixture
def store(database):
    found = PostgresCredentials(database, Vault(database, MasterKeys([bytes(32)])))
    found.give(ACCOUNT, {"refresh_token": CrmCredentials().refresh_token}, actor="ana", reason="first")
    return found


@pytest.fixture
def start(crm):
    started = []

    def _start(how, place, times=1):
        new = [Process(how, place, f"{crm.crm_url}/oauth/token") for _ in range(times)]
        started.extend(new)
        assert [each.line() for each in new] == ["ready"] * times
        return new

    yield _start
    for each in started:
        each.child.stdin.close()
        each.child.wait(timeout=60)
        each.child.stdout.close()


def ask_all(processes):
    for each in processes:
        each.go()
    return [each.line() for each in processes]


def ask_until(condition, processes):
    found, end = set(), time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        found.update(ask_all(processes))
    return found


def requests(crm, route):
    return crm.crm.counters().get(route[0], {}).get(route[1], 0)


def test_four_processes_race_on_expiry_and_the_family_lives(crm, store, start, postgres_url):
    crm.control("crm").configure({"expires_in": 1, "latency_s": 0.05})  # half of its life is margin
    workers = start("ask", postgres_url, times=4)

    found = ask_until(lambda: store.find(ACCOUNT).version > 6, workers)

    assert {each for each in found if ": " in each} == set()
    assert requests(crm, REFUSED) == 0
    assert requests(crm, GRANTED) == store.find(ACCOUNT).version - 1 >= 5


def test_a_storm_of_refusals_over_four_processes_makes_one_token_request(crm, store, start, postgres_url):
    workers = start("storm", postgres_url, times=4)
    first = set(ask_all(workers))

    found = set(ask_all(workers))

    assert (len(first), len(found), first & found) == (1, 1, set())
    assert requests(crm, GRANTED) == 2


def test_a_storm_makes_one_request_where_redis_shares_the_token_too(crm, start, redis_url):
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    workers = start("storm", redis_url, times=4)
    first = set(ask_all(workers))

    found = set(ask_all(workers))

    assert (len(first), len(found), first & found) == (1, 1, set())
    assert requests(crm, GRANTED) == 2


def test_killed_between_answer_and_store_the_loss_is_told_and_a_new_credential_goes_on(
    crm, store, start, postgres_url, sql
):
    (victim,) = start("die", postgres_url)
    victim.go()
    killed = victim.child.wait(timeout=60)
    sql("UPDATE credentials SET renewing_until = now()")  # as the time of its lease passes
    workers = start("ask", postgres_url, times=4)

    told = ask_all(workers)
    crm.control("crm").configure({"refresh_token": "authorised-again"})
    store.give(ACCOUNT, {"refresh_token": "authorised-again"}, actor="ana", reason="authorised again")
    after = set(ask_all(workers))

    assert killed == -9
    assert all(each.startswith("unauthorized: ") for each in told)
    assert all("was never stored and may have replaced it" in each for each in told)
    assert len(after) == 1
    assert ": " not in after.pop()


def test_killed_before_its_request_nothing_is_lost(crm, store, start, postgres_url, sql):
    store.begin_renewal(ACCOUNT, keep_for=timedelta(seconds=30))
    sql("UPDATE credentials SET renewing_until = now()")
    (worker,) = start("ask", postgres_url)

    found = ask_all([worker])

    assert found == [store.find(ACCOUNT).secrets["access_token"]]
    assert store.find(ACCOUNT).unproven_since is None


def test_a_wiped_redis_changes_nothing_for_a_credential_of_the_ledger(crm, store, start, postgres_url, redis_url):
    (worker,) = start("ask", postgres_url)
    before = ask_all([worker])
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
    (other,) = start("ask", postgres_url)

    after = ask_all([worker, other])

    assert set(after) == set(before)
    assert requests(crm, GRANTED) == 1
