"""Attacks by whoever may publish on the broker, and by a program with the foreign user's URL."""

import shlex
import time

import psutil
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from tasks.messages import MOST_BYTES
from tests.attacks.target import Target, Verdict
from tests.faults.shapes import SHAPES, bomb, item

_REFUSED = '"event": "message_refused"'
_FORBIDDEN = (
    "FLUSHALL", "EVAL 'return 1' 0", "CONFIG GET *", "KEYS *", "LRANGE celery 0 -1", "RPOP celery", "GET api:crm:token",
    "HGETALL unacked", "LPUSH crm x", "PUBLISH /0.celery.pidbox x", "SUBSCRIBE /0.celeryev/x", "MONITOR", "SHUTDOWN",
    "ACL LIST", "CLIENT LIST", "SCRIPT FLUSH", "DEL celery",
)  # fmt: skip


def wrong_shapes(target: Target) -> Verdict:
    """Push every wrong shape that is known, several times over."""
    pid, rounds = target.pid(), 1 if target.short else 20
    sent = _send(target, *[each for _ in range(rounds) for each in SHAPES.values()])
    return Verdict(
        f"{len(SHAPES)} malformed messages, {rounds} times",
        f"{sent} refused, {_held(target)} left in Redis, worker {'the same' if _is_same(target, pid) else 'ended'}",
        "all refused, none left, the same worker",
        passed=sent == rounds * len(SHAPES) and not _held(target) and _is_same(target, pid),
    )


def bombs(target: Target) -> Verdict:
    """Push messages of 300 bytes that unpack to 200 MB each."""
    pid, worker = target.pid(), psutil.Process(target.pid())
    before = worker.memory_info().rss
    _send(target, *[bomb()] * 5)
    grown = (worker.memory_info().rss - before) / 1e6
    return Verdict(
        "5 compressed messages of 200 MB",
        f"worker grew by {grown:.0f} MB",
        "30 MB, the same worker",
        passed=grown < 30 and _is_same(target, pid),
    )


def oversized(target: Target) -> Verdict:
    """Push a message above the limit, one of ten million values, and one that the server should not take at all."""
    pid = target.pid()
    too_large = item(b"[" + b" " * MOST_BYTES + b"]")
    sent = _send(target, too_large, item(b"[[" + b"[]," * 4_000_000 + b"[]], {}, null]"))
    try:
        redis.Redis.from_url(target.broker_url("foreign")).lpush("celery", b"x" * 40_000_000)
        entered = "taken"
    except redis.RedisError:
        entered = "refused by the server"
    return Verdict(
        "messages of 33 MB, of 4 million values, of 40 MB",
        f"{sent} refused by the worker, the third {entered}",
        "2, refused; the same worker",
        passed=sent == 2 and entered != "taken" and _is_same(target, pid),
    )


def a_flood_of_garbage(target: Target) -> Verdict:
    """Push thousands of malformed messages, and see how long a lead waits behind them."""
    pid, many = target.pid(), 500 if target.short else 5000
    _broker(target).lpush("celery", *[SHAPES["body []"]] * many)
    started = time.perf_counter()
    arrived = target.works()
    waited = time.perf_counter() - started
    _broker_is_empty(target)
    return Verdict(
        f"{many} malformed messages at once",
        f"the next lead arrived after {waited:.1f} s",
        "10 s, the same worker",
        passed=arrived and waited < 10 and _is_same(target, pid),
    )


def the_foreign_user(target: Target) -> Verdict:
    """Try with the foreign user's URL what a full one could do."""
    client = redis.Redis.from_url(target.broker_url("foreign"))
    allowed = [each for each in _FORBIDDEN if not _is_refused(client, each)]
    return Verdict(
        f"{len(_FORBIDDEN)} commands as the foreign user: FLUSHALL, EVAL, LRANGE ...",
        f"allowed: {', '.join(allowed) or 'none'}",
        "none",
        passed=not allowed,
    )


def remote_shutdown(target: Target) -> Verdict:
    """Broadcast `shutdown`, as the foreign user and as a worker."""
    pid = target.pid()
    for user in ("foreign", "worker"):
        client = Celery("attacker", broker=target.broker_url(user), set_as_current=False)
        try:
            client.control.broadcast("shutdown")
        except (redis.RedisError, OperationalError):
            continue
        finally:
            client.close()
    answered = target.works()
    return Verdict(
        "shutdown by remote control",
        f"worker {'the same' if _is_same(target, pid) else 'ended'}",
        "the same",
        passed=answered and _is_same(target, pid),
    )


ATTACKS = (wrong_shapes, bombs, oversized, a_flood_of_garbage, the_foreign_user, remote_shutdown)


def _broker(target: Target) -> redis.Redis:
    return redis.Redis.from_url(target.redis_url)


def _send(target: Target, *items: bytes) -> int:
    """Push messages and return how many were refused within half a minute."""
    before = target.log().count(_REFUSED)
    _broker(target).lpush("celery", *items)
    target.until(lambda: target.log().count(_REFUSED) >= before + len(items), within_s=30)
    return target.log().count(_REFUSED) - before


def _held(target: Target) -> int:
    _broker_is_empty(target)
    return int(_broker(target).llen("celery")) + int(_broker(target).hlen("unacked"))


def _broker_is_empty(target: Target) -> bool:
    return bool(target.until(lambda: not _broker(target).exists("celery", "unacked"), within_s=30))


def _is_same(target: Target, pid: int) -> bool:
    return target.lives() and target.pid() == pid


def _is_refused(client: redis.Redis, command: str) -> bool:
    try:
        client.execute_command(*shlex.split(command))
    except redis.RedisError as err:
        return isinstance(err, redis.exceptions.NoPermissionError)
    return False
