"""Personal data in places where none may be: Redis and its files, logs, Flower, plain columns."""

import base64
import re
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.faults.commands import CANARIES, FOREIGN_CANARIES
from tests.faults.ground import Ground
from worker.flower import USER, flower_password

_MESSAGE_KEYS = ("unacked", "celery", "crm", "whatsapp", "email", "retry", "upkeep")
_EVERY = (*CANARIES, *FOREIGN_CANARIES)
_FLOWER_PAGES = ("api/tasks?limit=5000", "api/workers?refresh=1", "tasks", "workers")


def leaks(text: str, words: tuple[str, ...]) -> bool:
    """Tell whether one of the words shows: plain, as hexadecimal bytes, or in any of its three base64 forms."""
    folded = text.casefold()
    return any(form in folded for form in _plain_forms(words)) or any(form in text for form in _base64_forms(words))


@cache
def _plain_forms(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(form for each in words for form in (each, each.encode().hex()))


@cache
def _base64_forms(words: tuple[str, ...]) -> tuple[str, ...]:
    cased = [form for each in words for form in (each, each.title())]
    shifted = [base64.b64encode(bytes(n) + each.encode()).decode() for each in cased for n in range(3)]
    return tuple(form[4:-4] for form in shifted if len(form) >= 14)  # shorter ones would be found by chance


def in_logs(ground: Ground) -> list[str]:
    """Return the names of logs that show a canary."""
    data = ground.system.data
    logs = [*data.glob("*.log"), *data.glob("logs/*.log")]
    return [each.name for each in logs if leaks(each.read_text(errors="replace"), _EVERY)]


def in_redis(ground: Ground) -> list[str]:
    """Return the keys and files that show a canary.

    What a foreign client put on the broker stays in the unacknowledged messages of a killed worker until it is seen
    again: that is the client's doing, and ours never carries more than an id.
    """
    client = ground.redis
    readers: dict[bytes, Callable[[bytes], object]] = {
        b"string": client.get, b"list": lambda key: client.lrange(key, 0, -1), b"hash": client.hgetall,
        b"set": client.smembers, b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }  # fmt: skip
    found = []
    for key in client.scan_iter(count=1000):
        words = CANARIES if key.decode(errors="replace").startswith(_MESSAGE_KEYS) else _EVERY
        kind = client.type(key)
        content = f"{key!r} {readers[kind](key)!r}" if kind in readers else repr(key)
        found += [repr(key)] if leaks(content, words) else []
    return found + _in_files(ground.system.data / "valkey")


def _in_files(folder: Path) -> list[str]:
    files = [each for each in folder.rglob("*") if each.is_file()]
    return [each.name for each in files if leaks(each.read_bytes().decode("latin-1"), CANARIES)]


def in_postgres(ground: Ground) -> list[str]:
    """Return the tables whose rows show a canary."""
    forms, encoded = "|".join(_plain_forms(_EVERY)), "|".join(map(re.escape, _base64_forms(_EVERY)))
    tables = ground.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    counts = {
        name: ground.sql(
            f'SELECT count(*) FROM "{name}" t WHERE lower(t::text) ~ :forms OR t::text ~ :encoded',  # noqa: S608 - ours
            forms=forms,
            encoded=encoded,
        )[0][0]
        for (name,) in tables
    }
    return [f"{name}: {n} rows" for name, n in counts.items() if n]


def has_heard(pages: Mapping[str, str]) -> bool:
    """Tell whether Flower shows a delivery's task at all."""
    return "create_lead" in pages.get(_FLOWER_PAGES[0], "")


def in_flower(pages: Mapping[str, str]) -> list[str]:
    """Return the pages of Flower that show a canary, or those that show nothing at all."""
    silent = [] if has_heard(pages) else ["Flower heard of no task"]
    return silent + [name for name, page in pages.items() if leaks(page, _EVERY)]


def flower_pages(ground: Ground) -> dict[str, str]:
    """Return what Flower shows an operator, by the page's path; nothing while it does not answer."""
    base = f"http://127.0.0.1:{ground.system.variables['FLOWER_PORT']}"
    login = base64.b64encode(f"{USER}:{flower_password(ground.system.data)}".encode()).decode()
    pages = {}
    with suppress(OSError):
        for path in _FLOWER_PAGES:
            request = urllib.request.Request(f"{base}/{path}", headers={"Authorization": f"Basic {login}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                pages[path] = answer.read().decode()
    return pages
