"""A worker is woken over the real broker, and nobody waits for one that is away."""

import pytest
from redis import Redis

from config.settings import load_settings
from tasks.app import UPKEEP_QUEUE, Entrega


def hints_over(url):
    app = Entrega("tests")
    app.settings = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": url})
    return app.hints


@pytest.fixture
def broker(redis_url):
    client = Redis.from_url(redis_url)
    client.flushall()
    yield client
    client.close()


def test_a_worker_is_woken_by_a_message_without_arguments(broker, redis_url):
    assert hints_over(redis_url).wake("absorb", queue=UPKEEP_QUEUE)

    (message,) = broker.lrange(UPKEEP_QUEUE, 0, -1)
    assert b'"absorb"' in message


def test_a_broker_that_is_away_costs_no_error():
    assert not hints_over("redis://127.0.0.1:1/0").wake("absorb", queue=UPKEEP_QUEUE)
