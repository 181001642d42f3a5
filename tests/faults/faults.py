"""The kinds of faults: each strikes once, is bounded in time, and takes its own choices from a seeded generator.

A fault returns what it struck, for the report; None when there was nothing to strike.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from uuid import UUID

from kombu import Producer

from delivery.errors import LedgerUnavailable
from delivery.ports import Hint
from sandbox.proxy import Hurt
from tests.faults import processes
from tests.faults.commands import foreign_lead
from tests.faults.ground import Ground
from tests.faults.points import ACCEPT_POINTS, WORKER_POINTS, at_point, producer_deceived
from tests.faults.shapes import SHAPES
from tests.faults.wires import SERVERS, cut_at_commit, show_wrong_certificate, wire
from worker.failpoints import Point

Strike = Callable[[Ground, random.Random], str | None]


def end_backends(ground: Ground, rng: random.Random) -> str:
    """End database connections of workers and producers, several times, so that some are in the midst of a commit."""

    def some() -> None:
        with suppress(LedgerUnavailable):
            ground.sql(
                "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE application_name ="
                " 'entrega' AND pid <> pg_backend_pid()"
                " ORDER BY md5(CAST(pid AS text) || CAST(:salt AS text)) LIMIT 6) AS picked",
                salt=str(rng.random()),
            )

    for n in range(10):
        ground.later(n * 0.2, some)
    return "postgres"


def repeat_hints(ground: Ground, rng: random.Random) -> str | None:
    """Hint open deliveries ten times each, in random order."""
    with suppress(LedgerUnavailable):
        rows = ground.sql(
            "SELECT id, kind FROM deliveries WHERE state IN ('ready', 'attempting', 'waiting', 'uncertain') LIMIT 150"
        )
        hints = [Hint(UUID(str(row.id)), row.kind, "normal") for row in rows] * 10
        rng.shuffle(hints)
        ground.app.hints.send(hints)
        return f"{len(rows)} deliveries"
    return None


def forge_messages(ground: Ground, rng: random.Random) -> str:
    raw: tuple[bytes, ...] = (
        b"garbage",
        b"{}",
        b"[1, 2]",
        b"\xff\x00",
        b'{"body": "x"}',
        b"\x80\x04N.",
        b"9" * 2_000_000,
    )
    with suppress(Exception):  # Redis may be away by an earlier fault
        for queue in ("celery", "crm", "whatsapp", "email", "upkeep"):
            ground.redis.lpush(queue, *rng.sample(raw, 3))
        ground.redis.lpush("celery", *SHAPES.values())
        with ground.foreign.connection_for_write() as connection:
            for name, arguments in (
                ("no_such_task", []), ("create_lead", ["not-an-id"]), ("create_lead", ["one", "two", "three"]),
                ("send_email", [{"to": "nobody"}]), ("sweep", ["x"]),
                ("create_lead", [str(UUID(int=rng.getrandbits(128), version=4))]),
            ):  # fmt: skip
                ground.foreign.send_task(name, args=arguments, connection=connection)
            ground.foreign.send_task("create_lead", args=["x" * 1_000_000], connection=connection)
            with connection.channel() as channel:
                Producer(channel).publish({"not": "a task"}, routing_key="celery", headers={})
                Producer(channel).publish(
                    b"\x80\x04N.", routing_key="celery", headers={"task": "create_lead", "id": "1"},
                    content_type="application/x-python-serialize", content_encoding="binary",
                )  # fmt: skip
    return "redis"


def foreign_clients(ground: Ground, rng: random.Random) -> str:
    """Let plain Celery clients send leads, each message twice with one id."""
    seed = rng.randrange(2**32)
    with suppress(Exception), ground.foreign.connection_for_write() as connection:  # Redis may be away
        for n in range(10):
            for _ in range(2):
                ground.foreign.send_task(
                    "create_lead", kwargs=foreign_lead(seed, n), task_id=f"foreign-{seed}-{n}", connection=connection
                )
            ground.foreign_sent += 1
    return "redis"


def _provider(*faults: Mapping[str, object], times: int = 6) -> Strike:
    def strike(ground: Ground, _: random.Random) -> str:
        for fault in faults:
            ground.control["crm"].plan({**fault, "times": times})
            ground.control["graph"].plan({**fault, "times": max(1, times // 3)})
        return "crm, whatsapp"

    return strike


def _storm(**fault: object) -> Strike:
    def strike(ground: Ground, _: random.Random) -> str:
        for name in ("crm", "graph"):
            ground.control[name].plan({**fault, "times": None})
        ground.later(4.0, lambda: [ground.control[name].clear_faults() for name in ("crm", "graph")])
        return "crm, whatsapp"

    return strike


def refuse_recipients(ground: Ground, _: random.Random) -> str:
    """Let WhatsApp refuse some recipients for good, so that fallback commands have to start."""
    ground.control["graph"].plan({"graph_error": 131026, "match": "messages", "times": 20})
    return "whatsapp"


def slow_answers(ground: Ground, rng: random.Random) -> str:
    for name in ("crm", "graph"):
        ground.control[name].configure({"latency_s": rng.uniform(0.5, 1.5)})
        ground.later(4.0, lambda name=name: ground.control[name].configure({"latency_s": 0}))
    return "crm, whatsapp"


def _mail(**fault: object) -> Strike:
    def strike(ground: Ground, _: random.Random) -> str:
        ground.control["smtp"].plan({"times": 5, **fault})
        return "email"

    return strike


def _told_late(point: Point) -> Strike:
    """Let the worker that accepts a foreign client's command end at a point, and send such commands."""

    def strike(ground: Ground, rng: random.Random) -> str:
        ground.arm(ground.failpoints, point, "exit")
        foreign_clients(ground, rng)
        return point

    return strike


_WIRES = {
    "slow": Hurt("latency", seconds=0.3), "reset": Hurt("reset"), "swallows all": Hurt("black_hole"),
    "half open": Hurt("half_open"), "loses answers": Hurt("lose_answer"), "cuts answers": Hurt("cut", size=60),
    "drips": Hurt("slow_bytes", seconds=0.05),
}  # fmt: skip

# The order is part of the plan of a seed: append, do not sort.
KINDS: Mapping[str, Strike] = {
    "worker killed": processes.kill_worker,
    "Redis wiped": processes.wipe_redis,
    "worker stopped 3 s": processes.stop_worker_shortly,
    "worker stopped past its lease": processes.stop_worker_past_its_lease,
    "Redis restarted empty": processes.restart_redis_empty,
    "Redis restarted from its file": processes.restart_redis_from_its_file,
    "Redis frozen 5 s": processes.freeze_redis,
    "Postgres crashed": processes.crash_postgres,
    "database connections ended": end_backends,
    "beat killed": processes.kill_beat,
    "two beats": processes.run_two_beats,
    "hints repeated ten times": repeat_hints,
    "messages forged": forge_messages,
    "foreign clients": foreign_clients,
    "provider hangs up before": _provider({"close": "before"}),
    "provider acts and hangs up": _provider({"close": "after"}),
    "provider acts and is silent": _provider({"hang_s": 3.0, "effect": True}, times=4),
    "provider answers half": _provider({"truncate": True}),
    # With an effect only behind a page of a gateway: a Graph error body of code 131000 counts as "not sent", because
    # Meta says to try again, so a stand-in that sends and answers 131000 gets a second copy. A limit, not tested here.
    "provider says 500, 502": _provider(
        {"status": 500}, {"html": 500, "effect": True}, {"html": 502}, {"html": 502, "effect": True}, times=3
    ),
    "provider storm of 503": _storm(status=503),
    "provider storm of 429": _storm(status=429, retry_after="1"),
    "provider slow": slow_answers,
    "recipients refused": refuse_recipients,
    "mail accepted, answer lost": _mail(phase="after_dot", action="accept_then_drop"),
    "mail refused with 451": _mail(phase="after_dot", action="reply", code=451),
    "mail cut in the body": _mail(phase="body", action="drop"),
    "both workers killed": processes.kill_both_workers,
    "everything killed": processes.kill_everything,
    "Redis restarted from an old file": processes.restart_redis_from_an_old_file,
    "worker's clock wrong": processes.shift_clock,
    "wrong certificate": show_wrong_certificate,
    "cut at COMMIT, not carried out": cut_at_commit(carried_out=False),
    "cut at COMMIT, carried out": cut_at_commit(carried_out=True),
    **{f"wire to provider {name}": wire(how) for name, how in _WIRES.items()},
    **{f"wire to server {name}": wire(how, SERVERS) for name, how in _WIRES.items()},
    **{f"exit {point}": at_point(point, "exit") for point in WORKER_POINTS},
    **{f"failure told {point}": at_point(point, "fail") for point in WORKER_POINTS},
    **{f"exit {point}": _told_late(point) for point in ACCEPT_POINTS},
    **{f"failure told {point}": producer_deceived(point) for point in ACCEPT_POINTS},
}
WIPES = frozenset({"Redis wiped", "Redis restarted empty"})
# Redis comes back without what it last knew.
LOSSES = WIPES | {"Redis restarted from its file", "Redis restarted from an old file", "everything killed"}
