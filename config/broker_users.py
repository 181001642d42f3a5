"""Who may do what on the broker: the users of Redis or Valkey, each with its access control list.

The embedded Valkey, docker-compose.yml and docs/broker.md have the same lines; a test compares them. What each program
needs was read from MONITOR, for kombu 5.7, Celery 5.7 and redis-py 8.1.

Source: valkey.io, topics/acl, read 2026-11-30: a part in parentheses adds rights of its own to the others.
"""

from collections.abc import Mapping

_CONNECTION = "+ping +multi +exec +select +client|setinfo +client|setname"
_SCRIPTS = "+evalsha +script|load +script|exists"

RULES: Mapping[str, str] = {
    # Everything in its database that harms no other one: no CONFIG, FLUSHALL, KEYS, EVAL, ACL, SHUTDOWN.
    # The limiter's script asks which run of the server it meets, and nothing else that INFO tells.
    "worker": f"~* &* +@read +@write +@connection +@pubsub +@transaction +time {_SCRIPTS}"
    " -@admin -@dangerous +info|server",
    # Beat, the web page, and programs that import `tasks`: wake workers, read limits and breakers.
    "producer": f"{_CONNECTION} +time {_SCRIPTS}"
    " (~* +lpush +llen)"
    " (~_kombu.binding.* ~_kombu.binding_permanent.* +sadd)"
    f" (~entrega:* +@hash +@sortedset +lrange +get +exists +del +expire +pexpire +time {_SCRIPTS})",
    # Hears events, asks workers, counts what waits. It reads no message.
    "flower": f"&/0.celeryev/* &/0.celery.pidbox {_CONNECTION} +publish +psubscribe +punsubscribe"
    " (~* +llen)"
    " (~*.reply.celery.pidbox ~*.reply.celery.pidbox??[0-9] +brpop +del +pexpire)"
    f" (~_kombu.binding* +sadd +srem +smembers +zadd +zrem +zrangebyscore +exists +del +time {_SCRIPTS})",
    # A Celery client of somebody else: adds messages to the one queue, and reads nothing.
    "foreign": f"{_CONNECTION}"
    " (~celery ~celery??[0-9] +lpush +llen)"
    " (~_kombu.binding.celery ~_kombu.binding_permanent.celery +sadd)",
}
