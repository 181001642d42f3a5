"""What beat runs: the sweep, the fallback queue's drain, the health of accounts and rollouts, the purge.

Each may run twice, at once or not for a while: they only move rows that are due, by compare-and-set.
"""

import threading
from dataclasses import asdict
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import structlog
from celery import Task

from config.timetable import TIMETABLE
from delivery.confirming import Confirmer
from delivery.errors import InvalidCommand, ProviderError
from delivery.ports import Hint
from delivery.reach import fallback_of
from ledger.audit_chain import AuditChain
from ledger.fallbacks import Fallbacks, Stranded
from ledger.hashing import hash_clear
from ledger.operating import Desk
from ledger.replays import Replays
from ledger.retention import Retention
from tasks.app import app
from tasks.dead_letters import tell
from tasks.faults import apart
from tasks.rollouts import give_time, watch

if TYPE_CHECKING:
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)

# The ticks of sweep and drain send no events: in Flower they would bury the deliveries.

# A hint older than this with its delivery still due counts as lost; sooner where none waits for a worker, so that a
# wiped Redis costs little. One too many finds its delivery taken.
_STALE, _STALE_WITH_NONE_WAITING = timedelta(seconds=8), timedelta(seconds=3)
# With this many hints waiting for workers nothing is lost, only late: more hints would not help.
_ENOUGH_HINTS = 1000
_BATCH = 1000
# A process of an earlier version that was forgotten writes no longer than this after a migration unnoticed.
_OLD_PROCESS = timedelta(days=2)
# What is due is taken up so far ahead: until the next sweep.
_ROUND = next(tick.every for tick in TIMETABLE if tick.task == "sweep")


class UpkeepTask(Task):
    """A task of the timetable: each of its ticks is carried out once, whoever sent it and however often.

    Each holds at most one thread of this process. A look-up that hangs would otherwise take another one with each tick.
    """

    abstract = True
    app: "Entrega"

    def __call__(self) -> None:
        """Take the tick and do the work, unless somebody took it, or this process is still at an earlier one."""
        _ = self.app.lone_engine  # a worker that has none cannot deliver, and takes no tick: readiness goes by them
        every = next(tick.every for tick in TIMETABLE if tick.task == self.name)
        if not self._at_work.acquire(blocking=False):
            return
        try:
            if Desk(self.app.database, actor=self.name).begin_tick(self.name, every=every):
                self.run()
        finally:
            self._at_work.release()

    @cached_property
    def _at_work(self) -> threading.Lock:
        return threading.Lock()


@app.task(name="sweep", bind=True, shared=False, base=UpkeepTask, send_events=False)
def sweep(self: UpkeepTask) -> None:
    """Free expired leases, end what is overdue, stop failing replays, open callbacks, and take up what is due."""
    app = self.app
    done: dict[str, int] = {}
    with apart(app, "rollouts"):
        give_time(app)  # before anything is ended
    with apart(app, "leases"):
        done |= _free(app)
    with apart(app, "replays"):
        for each in Replays(app.database).watch():  # before hints are sent: what is stopped goes no further
            _log.info("replay_ended", replay=str(each.id), reason=each.reason)
    with apart(app, "fallbacks"):
        done["fallbacks"] = _start_fallbacks(app)
    with apart(app, "callbacks"):
        done["callbacks"] = app.hints.publish(app.callbacks.open_noted(most=_BATCH))
    with apart(app, "backlogs"):
        done["hinted"] = _take_up(app)
    if any(done.values()):
        _log.info("swept", **done)


def _free(app: "Entrega") -> dict[str, int]:
    operations = {kind: each for spec in app.specs.values() for kind, each in spec.operations.items()}
    idempotent = [kind for kind, each in operations.items() if each.idempotent]
    retries = max(spec.rule("lease_lost").retries for spec in app.specs.values())
    return asdict(app.ledger.sweep(idempotent=idempotent, lease_retries=retries))


def _start_fallbacks(app: "Entrega") -> int:
    """Start the fallback commands of deliveries that died or were not confirmed in time; return how many."""
    fallbacks, hints = Fallbacks(app.ledger), list[Hint]()
    for each in fallbacks.needed(most=_BATCH):
        with apart(app, "fallbacks", delivery_id=str(each.id)):
            hints += _start_fallback(app, fallbacks, each)
    app.hints.publish(hints)
    return len(hints)


def _start_fallback(app: "Entrega", fallbacks: Fallbacks, stranded: Stranded) -> list[Hint]:
    if stranded.command is None or stranded.command.options.fallback is None:
        fallbacks.refuse(stranded.id, reason="its payload was erased")
        return []
    kind, body = fallback_of(stranded.command.options.fallback)
    try:
        new = app.intake.prepare(kind, body, producer=stranded.producer)
        new = app.intake.admit_fallback(new, approved=stranded.approved)
    except InvalidCommand as err:  # it was right when it was accepted: its own time has run out, or a form changed
        fallbacks.refuse(stranded.id, reason=f"no longer acceptable: {', '.join(i.field for i in err.issues)}")
        return []
    second = fallbacks.start(stranded.id, new)
    if second is None or second.state == "held":
        return []
    return [Hint(second.id, kind, new.command.options.priority, account=new.account)]


@app.task(name="drain", bind=True, shared=False, base=UpkeepTask, send_events=False)
def drain(self: UpkeepTask) -> None:
    """Take up what is due, the fallback queue included, as fast as the providers take it."""
    drained = _take_up(self.app)
    if drained:
        _log.info("drained", hinted=drained)


def _take_up(app: "Entrega") -> int:
    """Send hints for what is due, for each account and kind as many as its gates let through until the next round.

    What one account's gates hold back takes nothing from another's, and each hint names the moment of its call, so that
    a backlog goes out evenly instead of being sent away and back.
    """
    waiting = app.hints.backlog()
    if waiting is None or waiting >= _ENOUGH_HINTS:
        return 0
    hinted, stale = 0, _STALE if waiting else _STALE_WITH_NONE_WAITING
    for each in app.ledger.backlogs(stale=stale, most=_BATCH):
        with apart(app, "backlogs", account=each.account):
            room = app.lone_engine.room(each.account, each.kind, within=_ROUND, most=each.live + each.due)
            hinted += app.hints.publish(app.ledger.due(each, stale=stale, waits=room[each.live :]))
    return hinted


@app.task(name="absorb", bind=True, shared=False, send_events=False)
def absorb(self: Task) -> None:
    """Work on what providers told, as soon as it is stored; `confirm` finds what no hint came for."""
    absorb_all(self.app)


def absorb_all(app: "Entrega") -> None:
    """Work on inbound events until none waits."""
    while True:
        done = app.inbound.absorb(most=_BATCH)
        app.hints.publish(done.hints)
        if done.worked < _BATCH:
            return


@app.task(name="confirm", bind=True, shared=False, base=UpkeepTask, send_events=False)
def confirm(self: UpkeepTask) -> None:
    """Look uncertain deliveries up, after what providers told has settled its own."""
    with apart(self.app, "inbound_events"):
        absorb_all(self.app)
    engine = self.app.engine
    for each in Confirmer(self.app.doubts, engine.providers, engine.specs).confirm():
        delivery_id = str(each.doubt.claimed.order.delivery_id)
        _log.info("looked_up", request_id=delivery_id, verdict=each.verdict, reason=each.reason)


@app.task(name="health", bind=True, shared=False, base=UpkeepTask)
def health(self: UpkeepTask) -> None:
    """Judge the rollouts, tell of what died, probe every account without side effects, and keep what was found."""
    with apart(self.app, "rollouts"):
        watch(self.app)
    with apart(self.app, "dead_letters"):
        tell(self.app)
    desk = Desk(self.app.database, actor="health")
    for account, provider in self.app.engine.providers.items():
        spec = self.app.specs[account.partition(":")[0]]
        if not desk.begin_tick(f"probe {account}", every=spec.probe.every):
            continue
        try:
            note, code = provider.probe(), "ok"
        except ProviderError as err:
            note, code = str(err), err.code
        except Exception as err:  # noqa: BLE001 - one account whose adapter is broken must not stop the others
            _log.exception("probe_failed", account=account)
            note, code = f"the adapter failed with {type(err).__name__}; see the worker's log", "unknown"
        desk.record_health(account, health=code, note=note)
        _log.info("health", account=account, code=code)


@app.task(name="chain", bind=True, shared=False, base=UpkeepTask, send_events=False)
def chain(self: UpkeepTask) -> None:
    """Chain the audit trail. `entrega verify --end` checks that the ends that the log remembers are still there."""
    end = AuditChain(self.app.ledger.vault).extend()
    if end is not None:
        _log.info("audit_chained", end=str(end))


@app.task(name="purge", bind=True, shared=False, base=UpkeepTask)
def purge(self: UpkeepTask) -> None:
    """Delete what the ledger no longer needs, and hash what an old process may have stored in clear."""
    with apart(self.app, "hashing"):
        hashed = hash_clear(self.app.ledger.vault, lately=_OLD_PROCESS)
        if hashed:
            _log.info("hashed", rows=hashed)
    with apart(self.app, "retention"):
        periods = self.app.settings.periods
        gone = Retention(self.app.database, periods).purge()
        audit = AuditChain(self.app.ledger.vault).purge(periods.records)
        if gone or audit:
            _log.info("purged", **gone, audit=audit)
