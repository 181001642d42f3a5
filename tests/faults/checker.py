"""The books compared after a run: what producers were told, what the ledger holds, what the providers really did."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any
from uuid import UUID

from ledger.audit_chain import AuditChain
from tests.faults import secrecy
from tests.faults.ground import WORKERS, Ground
from tests.faults.load import Answers
from tests.faults.pace import Pace

_FINAL = {"succeeded", "dead", "held", "canceled", "expired"}
_ROWS = "SELECT id, state, code, attempts, order_key, fallback_id, fallback_of, producer FROM deliveries ORDER BY id"
# Our own word for "nothing proves it": whoever decides then may cause a second copy, the ledger does not.
_NOBODY_KNOWS = {"unconfirmed"}


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
    """The books, read once.

    Attributes:
        rows: The ledger's deliveries by id.
        effects: How often each delivery took effect.
        places: The place of each delivery's first effect in the order of arrival at its provider.
        flower: Flower's pages after the load.
    """

    answers: Answers
    rows: Mapping[str, Any]
    effects: Counter[str]
    places: Mapping[str, int]
    paces: Sequence[Pace]
    flower: Mapping[str, str]

    @property
    def states(self) -> dict[str, str]:
        """Each delivery's state."""
        return {id_: row.state for id_, row in self.rows.items()}


def read_books(ground: Ground, answers: Answers, paces: Sequence[Pace], flower: Mapping[str, str]) -> Books:
    """Read ledger and effects; for a system at rest."""
    rows = {str(row.id): row for row in ground.sql(_ROWS)}
    effects: Counter[str] = Counter()
    places: dict[str, int] = {}
    for each in ground.control.values():
        keys = [str(effect["key"]) for effect in each.effects()]
        effects.update(keys)
        places |= {key: place for place, key in reversed(list(enumerate(keys)))}
    return Books(answers, rows, effects, places, paces, flower)


def check(ground: Ground, books: Books) -> list[Promise]:
    """Return how every promise stands."""
    promises = [
        *_acceptance_promises(books),
        *_effect_promises(books),
        *_ledger_promises(ground),
        _promise("calls stay within every window of the limits", (w for each in books.paces for w in each.broken)),
        _promise("a wrong certificate gets no message, and an error is told", _certificates(ground)),
        _promise("no personal data in Redis or its files", secrecy.in_redis(ground)),
        _promise("no personal data in logs", secrecy.in_logs(ground)),
        _promise("no personal data in plain columns", secrecy.in_postgres(ground)),
        _promise("no personal data in Flower", secrecy.in_flower(books.flower)),
    ]
    return [replace(each, examples=tuple(_timeline(ground, id_) for id_ in each.examples)) for each in promises]


def _acceptance_promises(books: Books) -> list[Promise]:
    states, answers = books.states, books.answers
    return [
        _promise("a promised delivery has its row", (id_ for id_ in answers.promised.values() if id_ not in states)),
        _promise("one row for each promised command", _surplus(books)),
        _promise("a repeated command gets the same id", map(str, answers.disagreed)),
        _promise("producers see an id or LedgerUnavailable, nothing else", answers.unexpected),
        _promise("every delivery came to an end", (i for i, state in states.items() if state not in _FINAL)),
        _promise("no delivery is left held", (i for i, state in states.items() if state == "held")),
        _promise("a confirmed cancellation stays", (i for i in answers.canceled if states.get(i) != "canceled")),
    ]


def _effect_promises(books: Books) -> list[Promise]:
    effects, states = books.effects, books.states
    return [
        _promise(
            "succeeded: one effect", (i for i, state in states.items() if state == "succeeded" and effects[i] != 1)
        ),
        _promise("never two effects", (id_ for id_, n in effects.items() if n > 1)),
        _promise("no effect without an accepted delivery", (id_ for id_ in effects if id_ not in states)),
        _promise("canceled: no effect", (i for i in effects if states.get(i) == "canceled")),
        _promise("expired: no effect", (i for i in effects if states.get(i) == "expired")),
        _promise("effects of one order key come in order", out_of_order(books)),
        _promise("never both a command and its fallback", (i for i in _both(books) if _is_known(books.rows[i]))),
    ]


def out_of_order(books: Books) -> list[str]:
    """Return deliveries that took effect before an earlier one of their order key."""
    keyed = sorted(((row.order_key, id_) for id_, row in books.rows.items() if row.order_key and id_ in books.places))
    return [
        later
        for _, group in groupby(keyed, key=lambda each: each[0])
        for (_, earlier), (_, later) in pairwise(group)
        if books.places[later] < books.places[earlier]
    ]


def _both(books: Books) -> list[str]:
    """Return commands that took effect although their fallback did too."""
    return [
        id_ for id_, row in books.rows.items()
        if row.fallback_id and books.effects[id_] and books.effects[str(row.fallback_id)]
    ]  # fmt: skip


def both_unproved(books: Books) -> int:
    """Return how many fallbacks took effect for a command of which nobody could know that it had."""
    return sum(not _is_known(books.rows[id_]) for id_ in _both(books))


def _is_known(row: Any) -> bool:
    return row.code not in _NOBODY_KNOWS


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
    ours = sum(row.producer == "faults" and row.fallback_of is None for row in books.rows.values())
    distinct = len(set(books.answers.promised.values()))
    counts = {"commands": len(books.answers.promised), "ids": distinct, "rows": ours}
    return [] if len(set(counts.values())) == 1 else [json.dumps(counts)]


def _ledger_promises(ground: Ground) -> list[Promise]:
    verdict = ground.app.archive.verify()
    sums = [] if verdict.accepted == sum(verdict.states.values()) else ["accepted and states differ"]
    return [
        _promise("the ledger's own audit is clean", [*sums, *(f"{k}: {n}" for k, n in verdict.faults.items())]),
        _promise("the audit trail's chain is whole", map(str, AuditChain(ground.app.ledger.vault).faults().items())),
        _promise("attempts stay within the policy's budget", _over_budget(ground)),
    ]


def _certificates(ground: Ground) -> list[str]:
    """Return what went wrong while a server with a wrong certificate answered: an alert of P1 is a line of an error."""
    logs = [(ground.system.data / "logs" / f"{name}.log").read_text(errors="replace") for name in WORKERS]
    told = any(
        '"level": "error"' in line and '"code": "certificate"' in line for log in logs for line in log.splitlines()
    )
    silent = ["no error was told"] if ground.held and not told else []
    return silent + (["the impostor got a message"] if ground.impostor_mails else [])


def _over_budget(ground: Ground) -> list[str]:
    """Return deliveries that were tried again more often than their error's rule and their parkings allow."""
    rules = {kind: spec for spec in ground.app.specs.values() for kind in spec.operations}
    rows = ground.sql(
        "SELECT d.id, d.kind, d.parks, a.code, count(*) AS n FROM deliveries d JOIN attempts a ON a.delivery_id = d.id"
        " WHERE a.outcome = 'deferred' GROUP BY d.id, d.kind, d.parks, a.code HAVING count(*) > 1"
    )
    over = [row for row in rows if row.n > rules[row.kind].rule(row.code).retries + row.parks]
    counted = ground.sql(
        "SELECT d.id FROM deliveries d LEFT JOIN (SELECT delivery_id, count(*) AS n FROM attempts GROUP BY delivery_id)"
        " a ON a.delivery_id = d.id WHERE d.attempts <> coalesce(a.n, 0)"
    )
    return [
        *(f"{row.id} {row.code} {row.n}" for row in over),
        *(f"{row.id} attempts are not counted rightly" for row in counted),
    ]
