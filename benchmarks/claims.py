"""What a claim costs behind 1,000 waiting deliveries and behind 1,000,000: real Postgres, one server, one run.

Two databases on one server are filled alike: nine of ten deliveries wait for later, a tenth is due, some have an order
key, some are in the fallback queue, and a quarter as many were delivered long ago. Then every step is done in turn on
the small one and on the large one, so that whatever else the machine does meets both. The goal: the p99 of a claim
behind the many is at most 1.5 times the p99 behind the few. `make bench-claims` prints the figures and keeps them.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from delivery.commands import CreateLead
from delivery.ids import new_id
from delivery.ports import NewDelivery
from ledger.database import connect
from ledger.schema import migrate
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault
from sandbox.postgres import temporary_postgres

GOAL = 1.5
_RESULTS = Path(__file__).parent / "results"
_LEASES = {kind: timedelta(seconds=45) for kind in ("create_lead", "send_whatsapp", "send_email")}
_STALE, _MOST, _CHUNKS = timedelta(seconds=8), 1000, 10

# Filler is never claimed, so its payload is as long as a sealed lead and cannot be opened.
_FILL = text("""
    WITH made AS (
      INSERT INTO deliveries (id, kind, account, producer, state, priority, fence, attempts, tries, parks, next_at,
                              expires_at, created_at, settled_at, hold_uncertain, order_key, stuck_since, person,
                              recipient, code)
      SELECT uuidv7(), lane.kind, lane.account, 'bench',
             CASE WHEN n % 5 = 0 THEN 'succeeded' ELSE 'waiting' END,
             CASE n % 10 WHEN 7 THEN 0 WHEN 8 THEN 2 ELSE 1 END,
             n % 3, n % 3, CASE WHEN n % 3 = 0 THEN '{}'::jsonb ELSE '{"unavailable": 1}' END,
             CASE WHEN n % 4 = 1 THEN 1 ELSE 0 END,
             now() + (random() - 0.1) * interval '10 hours', now() + interval '24 hours',
             now() - random() * interval '12 hours', CASE WHEN n % 5 = 0 THEN now() END, 0,
             CASE WHEN n % 20 = 3 THEN md5((n / 1000)::text) END,
             CASE WHEN n % 4 = 1 THEN now() - random() * interval '12 hours' END,
             sha256(n::text::bytea), 'a***@exemplo.com.br', CASE WHEN n % 3 <> 0 THEN 'unavailable' END
      FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n
      JOIN (VALUES (0, 'create_lead', 'crm:default'), (1, 'send_whatsapp', 'whatsapp:default'),
                   (2, 'send_email', 'email:default')) lane (place, kind, account) ON lane.place = n % 7 % 3
      RETURNING id, fence, created_at
    ), sealed AS (
      INSERT INTO payloads (delivery_id, body) SELECT id, decode(repeat(md5(id::text), 14), 'hex') FROM made
    )
    INSERT INTO attempts (delivery_id, n, fence, worker, started_at, ended_at, outcome)
    SELECT id, 1, fence, 'bench:1', created_at, created_at, 'deferred' FROM made WHERE fence > 0
""")


@dataclass(frozen=True)
class Figures:
    """One step at one size, in milliseconds."""

    step: str
    waiting: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Ground:
    """One filled database and the deliveries in it that are claimed."""

    waiting: int
    engine: Engine
    ledger: PostgresLedger
    ids: list[UUID]


def main() -> int:
    """Fill, measure, print, keep; return 0 when the goal is met."""
    parser = argparse.ArgumentParser(description="What a claim costs behind few and behind many waiting deliveries.")
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--claims", type=int, default=1_000)
    options = parser.parse_args()
    with temporary_postgres() as server:
        grounds = [_fill(server.url, n, options.claims) for n in (options.few, options.many)]
        figures = _measure(grounds)
        for each in grounds:
            each.engine.dispose()
    ratio = _ratios(figures)["claim"]
    _print(figures)
    _keep(figures)
    return 0 if ratio <= GOAL else 1


def _fill(url: str, waiting: int, claims: int) -> Ground:
    name = f"bench_{waiting}"
    admin = connect(url, name="bench").execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    engine = connect(f"{url.rpartition('/')[0]}/{name}", name="bench")
    migrate(engine)
    ledger = PostgresLedger(engine, Vault(engine, MasterKeys([bytes(32)])))
    rows, ids = waiting * 5 // 4, list[UUID]()
    for chunk in range(_CHUNKS):  # those that are claimed lie everywhere among the others
        with engine.begin() as connection:
            # Half the time of filling would go into foreign keys that hold anyhow.
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            values = {"first": rows * chunk // _CHUNKS + 1, "last": rows * (chunk + 1) // _CHUNKS}
            connection.execute(_FILL, values)
        ids += [
            each.id for each in ledger.open([_lead(n) for n in range(claims * chunk, claims * (chunk + 1), _CHUNKS)])
        ]
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
    engine.dispose()
    return Ground(waiting, engine, ledger, ids)


def _lead(n: int) -> NewDelivery:
    command = CreateLead(nome=f"Ana Teste {n}", email=f"ana.teste{n}@exemplo.com.br", interesse="produto_a")
    keep = timedelta(days=7)
    return NewDelivery(
        id=new_id(), command=command, account="crm:default", producer="bench", recipient="a***@exemplo.com.br",
        key=str(n), origin=None, key_kept=keep, same_within=keep, expires_in=keep, hold_uncertain=False,
    )  # fmt: skip


def _measure(grounds: list[Ground]) -> list[Figures]:
    steps: Mapping[str, tuple[Callable[[Ground, int], object], int]] = {
        "claim": (lambda g, n: g.ledger.claim([g.ids[n]], worker="bench:1", leases=_LEASES), len(grounds[0].ids)),
        "backlogs": (lambda g, _: g.ledger.backlogs(stale=_STALE, most=_MOST), 60),
        "due": (lambda g, _: [g.ledger.due(e, stale=_STALE, waits=[timedelta()] * 20) for e in _backlogs(g)], 60),
        "sweep": (lambda g, _: g.ledger.sweep(idempotent=["create_lead"], lease_retries=3), 60),
    }
    figures = []
    for name, (step, times) in steps.items():
        spent: dict[int, list[float]] = {each.waiting: [] for each in grounds}
        for n in range(times):
            for each in grounds if n % 2 else reversed(grounds):
                began = time.perf_counter()
                step(each, n)
                spent[each.waiting].append((time.perf_counter() - began) * 1000)
        figures += [_figures(name, waiting, ms) for waiting, ms in spent.items()]
    return figures


def _backlogs(ground: Ground) -> list[object]:
    return list(ground.ledger.backlogs(stale=_STALE, most=_MOST))


def _figures(step: str, waiting: int, ms: list[float]) -> Figures:
    ordered = sorted(ms[len(ms) // 20 :])  # the first ones warm up
    return Figures(step, waiting, round(ordered[len(ordered) // 2], 2), round(ordered[int(len(ordered) * 0.99)], 2))


def _ratios(figures: list[Figures]) -> dict[str, float]:
    pairs = zip(figures[::2], figures[1::2], strict=True)
    return {few.step: round(many.p99_ms / few.p99_ms, 2) for few, many in pairs}


def _print(figures: list[Figures]) -> None:
    table = Table("step", "waiting", "p50 ms", "p99 ms", "ratio of the p99", box=None, header_style="dim")
    for n, each in enumerate(figures):
        ratio = f"{_ratios(figures)[each.step]}" if n % 2 else ""
        table.add_row(each.step, f"{each.waiting:,}", f"{each.p50_ms}", f"{each.p99_ms}", ratio)
    Console(width=100).print(table)


def _keep(figures: list[Figures]) -> None:
    _RESULTS.mkdir(exist_ok=True)
    kept = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": psutil.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "goal": GOAL,
        "ratios": _ratios(figures),
        "figures": [asdict(each) for each in figures],
    }
    (_RESULTS / "claims.json").write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
