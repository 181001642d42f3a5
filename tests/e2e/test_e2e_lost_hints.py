"""Hints that are gone with Redis: sent again within fifteen seconds, and by the workers alone when beat is dead."""

import psutil


def test_after_a_wiped_redis_every_lost_hint_is_sent_again_within_fifteen_seconds(running):
    ids, wiped_at = lose_hints(running, "apagado")

    running.until(ids, "succeeded")

    assert last_start(running, ids, wiped_at) <= 15
    assert running.effects("crm") == {str(each): 1 for each in ids}


def test_when_beat_is_dead_the_workers_find_what_waits_by_themselves(running):
    running.kill("beat")
    ids, _ = lose_hints(running, "semrelogio")

    for each in ids:
        running.until_alone(each, "succeeded")

    assert not running.system.parts["beat"].running
    assert "beat_missed" in running.log("worker1")


def lose_hints(running, name):
    """Hand leads over to a worker that stands still, and wipe Redis; return them and when that was."""
    worker = psutil.Process(running.system.parts["worker1"].pid)
    worker.suspend()
    ids = [running.lead(f"{name}{n}") for n in range(20)]
    running.redis.flushall()
    worker.resume()
    return ids, running.sql("SELECT now()")[0][0]


def last_start(running, ids, since):
    """Return how many seconds after a moment the last of the deliveries was attempted for the first time."""
    statement = "SELECT max(started_at) FROM attempts WHERE n = 1 AND delivery_id = ANY(:ids)"
    return (running.sql(statement, ids=ids)[0][0] - since).total_seconds()
