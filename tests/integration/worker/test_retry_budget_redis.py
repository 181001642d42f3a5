"""The shared purse on a real Valkey keeps the rules of `delivery.retry_budget`; an absent one frees nobody."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.policy import load_specs
from delivery.commands import CreateLead
from delivery.ids import new_id
from delivery.ports import Claimed, Order
from worker.retry_budget import RetryBudgetGate

SPECS = load_specs()
LEAD = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
ALLOWED = SPECS["crm"].retry_budget.per_minute


@pytest.fixture
def redis(redis_url):
    client = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
    client.flushall()
    yield client
    client.close()


def claimed(attempt, account="crm:default"):
    return Claimed(Order(new_id(), account, LEAD, attempt, datetime(2026, 11, 22, tzinfo=UTC)), "t", 1, {}, 0)


def gate(redis, clock=lambda: 0.0):
    return RetryBudgetGate(SPECS, redis, rng=random.Random(1), clock=clock)


def passed(gate_, attempt, n, account="crm:default"):
    return sum(gate_.closed([claimed(attempt, account)])[0] is None for _ in range(n))


def test_first_attempts_always_go(redis):
    assert passed(gate(redis), 1, 200) == 200


def test_workers_share_one_purse(redis):
    gates = [gate(redis) for _ in range(4)]

    with ThreadPoolExecutor(8) as pool:
        went = sum(pool.map(lambda n: passed(gates[n % 4], 2, 10), range(16)))

    # A slow run earns a retry for each second it takes.
    assert ALLOWED <= went <= ALLOWED + 10


def test_accounts_do_not_spend_each_others_retries(redis):
    passed(gate(redis), 2, ALLOWED + 5)

    assert passed(gate(redis), 2, 5, account="crm:filial") == 5


def test_what_is_turned_back_burns_nothing_and_says_why(redis):
    shared = gate(redis)
    passed(shared, 2, ALLOWED + 5)

    shut = shared.closed([claimed(2)])[0]

    assert (shut.code, shut.burned) == ("retry_budget", False)
    assert 0 < shut.wait.total_seconds() <= 3
    assert shut.reason == "retries of crm:default are over 20% of its calls; this one waits for its turn"


def test_without_redis_each_process_keeps_a_purse_of_its_own():
    away = Redis(port=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))

    assert passed(gate(away), 2, ALLOWED + 20) == ALLOWED
    assert passed(gate(None), 2, ALLOWED + 20) == ALLOWED


def test_a_set_is_asked_for_in_one_round_trip_and_its_first_attempts_go(redis):
    shared = gate(redis)
    passed(shared, 2, ALLOWED - 2)
    mixed = [claimed(2), claimed(1), claimed(2), claimed(2), claimed(2), claimed(1), claimed(2, "crm:filial")]
    before = redis.info("stats")["total_commands_processed"]

    answers = shared.closed(mixed)
    asked = redis.info("stats")["total_commands_processed"] - before

    went = [answer is None for answer in answers]
    assert (went[1], went[5], went[6]) == (True, True, True)
    # A slow run earns a retry for each second it takes.
    assert went[:1] + went[2:5] in ([True, True, False, False], [True, True, True, False], [True] * 4)
    assert asked <= 2 * 5 + 1  # two accounts, four commands inside each script, and the question itself
