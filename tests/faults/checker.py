"""The books compared after a run: what producers were told, what the ledger holds, what the providers really did."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

from tests.faults.ground import Ground
from tests.faults.load import Answers
from tests.faults.plan import CANARIES, FOREIGN_CANARIES

_FINAL = {"succeeded", "dead", "held", "canceled", "expired"}
_MESSAGE_KEYS = ("unacked", "celery", "crm", "whatsapp", "email", "retry", "upkeep")


@dataclass(frozen=True)
class Promise:
    """One promise and how it stands.

    Attributes:
        broken: How many deliveries, keys or places break it; 0 when it was kept.
        examples: Some of them; ids and names only, never personal data.
    """

    name: str
    broken: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Books:
    """The two books and the answers, read once."""

    answers: Answers
    rows: dict[str, str]
    rows_of_ours: int
    effects: Counter[str]


def read_books(ground: Ground, answers: Answers) -> Books:
    """Read ledger and effects; for a system at rest."""
    rows = {str(row.id): row.state for row in ground.sql("SELECT id, state FROM deliveries")}
    ours = ground.sql("SELECT count(*) FROM deliveries WHERE producer = 'faults'")[0][0]
    effects: Counter[str] = sum((each.effects_per_key() for each in ground.control.values()), Counter())
    return Books(answers, rows, ours, effects)


def check(ground: Ground, books: Books) -> list[Promise]:
    """Return how every promise stands."""
    promised = books.answers.promised.values()
    succeeded = [id_ for id_, state in books.rows.items() if state == "succeeded"]
    promises = [
        _promise("a promised delivery has its row", (id_ for id_ in promised if id_ not in books.rows)),
        _promise("one row for each promised command", _surplus(books)),
        _promise("a repeated command gets the same id", map(str, books.answers.disagreed)),
        _promise("producers see an id or LedgerUnavailable, nothing else", books.answers.unexpected),
        _promise("every delivery came to an end", (i for i, state in books.rows.items() if state not in _FINAL)),
        _promise("no account was held", (i for i, state in books.rows.items() if state == "held")),
        _promise("succeeded: one effect", (id_ for id_ in succeeded if books.effects[id_] != 1)),
        _promise("never two effects", (id_ for id_, n in books.effects.items() if n > 1)),
        _promise("no effect without an accepted delivery", (id_ for id_ in books.effects if id_ not in books.rows)),
        *_ledger_promises(ground),
        *_secrecy_promises(ground),
    ]
    return [replace(each, examples=tuple(_timeline(ground, id_) for id_ in each.examples)) for each in promises]


def _timeline(ground: Ground, example: str) -> str:
    """Return a delivery's attempts behind its id, so that a broken promise can be understood; else the example."""
    with suppress(ValueError):
        found = ground.app.archive.find(UUID(example))
        if found is not None:
            steps = [f"{each.started_at:%H:%M:%S} {each.worker} {each.outcome} {each.code}" for each in found.timeline]
            return f"{example} {found.kind} {found.state} {found.code}: " + "; ".join(steps)
    return example


def _promise(name: str, broken: Iterable[str]) -> Promise:
    found = sorted(set(broken))
    return Promise(name, len(found), tuple(found[:5]))


def _surplus(books: Books) -> list[str]:
    distinct = len(set(books.answers.promised.values()))
    wrong = {"commands": len(books.answers.promised), "ids": distinct, "rows": books.rows_of_ours}
    return [] if len(set(wrong.values())) == 1 else [json.dumps(wrong)]


def _ledger_promises(ground: Ground) -> list[Promise]:
    verdict = ground.app.archive.verify()
    sums = [] if verdict.accepted == sum(verdict.states.values()) else ["accepted and states differ"]
    return [
        _promise("the ledger's own audit is clean", [*sums, *(f"{k}: {n}" for k, n in verdict.faults.items())]),
        _promise("attempts stay within the policy's budget", _over_budget(ground)),
    ]


def _over_budget(ground: Ground) -> list[str]:
    """Return deliveries that were tried again more often than their error's rule and their parkings allow."""
    rules = {kind: spec for spec in ground.app.specs.values() for kind in spec.operations}
    rows = ground.sql(
        "SELECT d.id, d.kind, d.parks, a.code, count(*) AS n FROM deliveries d JOIN attempts a ON a.delivery_id = d.id"
        " WHERE a.outcome = 'deferred' GROUP BY d.id, d.kind, d.parks, a.code HAVING count(*) > 1"
    )
    over = [row for row in rows if row.n > rules[row.kind].rule(row.code).retries + row.parks]
    counted = ground.sql(
        "SELECT d.id FROM deliveries d WHERE d.attempts <> (SELECT count(*) FROM attempts a WHERE a.delivery_id = d.id)"
    )
    return [
        *(f"{row.id} {row.code} {row.n}" for row in over),
        *(f"{row.id} attempts are not counted rightly" for row in counted),
    ]


def _secrecy_promises(ground: Ground) -> list[Promise]:
    every = (*CANARIES, *FOREIGN_CANARIES)
    logs = [*ground.system.data.glob("*.log"), *ground.system.data.glob("logs/*.log")]
    loud = [each.name for each in logs if leaks(each.read_text(errors="replace"), every)]
    return [
        _promise("no personal data in Redis", _in_redis(ground)),
        _promise("no personal data in logs", loud),
        _promise("no personal data in plain columns", _in_postgres(ground, every)),
    ]


def leaks(text: str, words: Iterable[str]) -> bool:
    """Tell whether one of the words shows: plain, as hexadecimal bytes, or in any of its three base64 forms."""
    folded = text.casefold()
    return any(form in folded for form in _plain_forms(words)) or any(form in text for form in _base64_forms(words))


def _plain_forms(words: Iterable[str]) -> list[str]:
    return [form for each in words for form in (each, each.encode().hex())]


def _base64_forms(words: Iterable[str]) -> list[str]:
    cased = [form for each in words for form in (each, each.title())]
    shifted = [base64.b64encode(bytes(n) + each.encode()).decode() for each in cased for n in range(3)]
    return [form[4:-4] for form in shifted if len(form) >= 14]  # shorter ones would be found by chance


def _in_redis(ground: Ground) -> list[str]:
    client = ground.redis
    readers: dict[bytes, Callable[[bytes], object]] = {
        b"string": client.get, b"list": lambda key: client.lrange(key, 0, -1), b"hash": client.hgetall,
        b"set": client.smembers, b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }  # fmt: skip
    found = []
    for key in client.scan_iter(count=1000):
        # What a foreign client put on the broker stays in the unacknowledged messages of a killed worker until it is
        # seen again: that is the client's doing, and ours never carries more than an id.
        is_message = key.decode(errors="replace").startswith(_MESSAGE_KEYS)
        words = CANARIES if is_message else (*CANARIES, *FOREIGN_CANARIES)
        kind = client.type(key)
        content = f"{key!r} {readers[kind](key)!r}" if kind in readers else repr(key)
        found += [repr(key)] if leaks(content, words) else []
    return found


def _in_postgres(ground: Ground, words: Iterable[str]) -> list[str]:
    forms = "|".join(_plain_forms(words))
    tables = ground.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    counts = {
        name: ground.sql(f'SELECT count(*) FROM "{name}" t WHERE t::text ~* :forms', forms=forms)[0][0]  # noqa: S608 - ours
        for (name,) in tables
    }
    return [f"{name}: {n} rows" for name, n in counts.items() if n]
