"""`entrega doctor`: is every part and provider reachable, and what to do where it is not."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from config.settings import ConfigurationError
from delivery.errors import LedgerUnavailable, LedgerUnusable, ProviderError
from delivery.ports import Provider
from delivery.rollout import view
from ledger.alerts import Alerts
from ledger.approvals import Approvals
from ledger.operating import pause_of_all
from ledger.retention import Retention
from ledger.rewrapping import wrapped_by_others
from ledger.rollouts import Rollouts
from ledger.roster import Roster
from ledger.setting_aside import SetAside
from worker.attendance import SIGN_EVERY_S, differences, facts
from worker.life import check_ledger
from worker.metrics import make_recorder
from worker.wiring import build_engine

if TYPE_CHECKING:
    from tasks.app import Entrega

_FRESH = timedelta(seconds=20)
_PRESENT = timedelta(seconds=3 * SIGN_EVERY_S)


@dataclass(frozen=True)
class Finding:
    """One part and how it is.

    Attributes:
        note: A fact when it is well; otherwise what is wrong and what to do.
    """

    part: str
    well: bool
    note: str


def examine(app: "Entrega") -> list[Finding]:
    """Look at every part once, now; provider accounts are probed without side effects."""
    ledger = _ledger(app)
    findings = [ledger, _broker(app)]
    if ledger.well:
        findings += [
            _work(app),
            *_machines(app),
            *_elsewhere(app),
            *_pause(app),
            *_set_aside(app),
            *_approvals(app),
            *_rollouts(app),
            *_accounts(app),
            *_alerts(app),
        ]
        findings += [_retention(app), *_master_keys(app)]
    return findings


def _ledger(app: "Entrega") -> Finding:
    try:
        check_ledger(app)
    except (LedgerUnavailable, LedgerUnusable, ConfigurationError) as err:
        return Finding("ledger", well=False, note=str(err))
    return Finding("ledger", well=True, note="Postgres answers, its schema is current, and the master keys open it")


def _broker(app: "Entrega") -> Finding:
    backlog = app.hints.backlog()
    if backlog is None:
        return Finding(
            "broker", well=False, note="Redis does not answer; check REDIS_URL. Accepted commands wait safely."
        )
    return Finding("broker", well=True, note=f"Redis answers; {backlog} hints wait for a worker")


def _work(app: "Entrega") -> Finding:
    tick = app.archive.last_tick("sweep")
    if tick is None or datetime.now(UTC) - tick > _FRESH:
        last = "never" if tick is None else f"last at {tick:%Y-%m-%d %H:%M:%S} UTC"
        advice = "start `celery -A worker worker` and `celery -A worker beat`, or `entrega up`"
        return Finding("work", well=False, note=f"no sweep for 20 s ({last}): {advice}")
    return Finding("work", well=True, note="worker and beat are at work")


def _machines(app: "Entrega") -> Iterator[Finding]:
    workers = Roster(app.database).present(within=_PRESENT)
    if not workers:
        return
    differing = differences(workers, facts(app))
    for name, told in differing.items():
        listed = "; ".join(f"{who}: {value}" for who, value in told.items())
        note = f"{name} must be equal in all processes of one ledger, and differs: {listed}. See docs/two-machines.md"
        yield Finding("machines", well=False, note=note)
    if not differing:
        yield Finding("machines", well=True, note=f"workers at work, all started alike: {len(workers)}")


def _elsewhere(app: "Entrega") -> Iterator[Finding]:
    here = app.settings.delivery_environment
    for environment, n in app.archive.elsewhere(here).items():
        note = (
            f"deliveries of another environment ({environment}) that are open: {n}. They are never sent from {here};"
            " each is held once it is due. Look: entrega deliveries; give one up: entrega cancel ID"
        )
        yield Finding("environment", well=False, note=note)


def _pause(app: "Entrega") -> Iterator[Finding]:
    pause = pause_of_all(app.database)
    if pause is not None:
        since = f"{pause.at:%Y-%m-%d %H:%M:%S} UTC by {pause.actor}: {pause.reason}"
        yield Finding("pause", well=False, note=f"everything is paused since {since}; go on with: entrega resume --all")


def _set_aside(app: "Entrega") -> Iterator[Finding]:
    found = SetAside(app.database).count()
    if found:
        note = f"{found} could not be worked on and wait for a person; the others go on. See: entrega set-aside list"
        yield Finding("events", well=False, note=note)


def _approvals(app: "Entrega") -> Iterator[Finding]:
    waiting = Approvals(app.ledger).waiting()
    if waiting.oldest_at is not None:
        since = f"the oldest since {waiting.oldest_at:%Y-%m-%d %H:%M:%S} UTC"
        yield Finding(
            "approvals", well=True, note=f"{waiting.count} wait for approval, {since}: entrega approvals list"
        )


def _rollouts(app: "Entrega") -> Iterator[Finding]:
    for each in Rollouts(app.database, actor="doctor").standing():
        spec = app.specs.get(each.account.partition(":")[0])
        if spec is None:
            continue
        found, name = view(spec.rollout, each), f"rollout {each.account}"
        since = f"{each.since:%Y-%m-%d %H:%M:%S} UTC by {each.actor}: {each.reason}"
        if each.is_back:
            advice = f"mend it, then: entrega rollout begin {each.account}, or: entrega rollout finish {each.account}"
            yield Finding(name, well=False, note=f"taken back at {since}; its deliveries wait. {advice}")
        else:
            stage = f"stage {found.stage} of {found.stages}"
            yield Finding(name, well=True, note=f"{found.share:.0%} of its deliveries go ({stage}); begun at {since}")


def probed(provider: Provider) -> tuple[str, bool]:
    """Ask a provider without side effects; return what it said, and whether it is well."""
    try:
        return provider.probe(), True
    except ProviderError as err:
        return f"{err.code}: {err}", False
    except Exception as err:  # noqa: BLE001 - one account whose adapter is broken must not hide the others
        return f"its adapter failed with {type(err).__name__}; the worker's log of the health task says where", False


def _accounts(app: "Entrega") -> Iterator[Finding]:
    held = {each.name: each for each in app.archive.accounts()}
    for account, provider in build_engine(app, make_recorder(enabled=False)).providers.items():
        standing = held.get(account)
        note, well = probed(provider)
        if standing and standing.held_reason:
            advice = f"; its deliveries are held. Once it is well: entrega resume {account}"
            note = note + advice if not well else f"held ({standing.held_reason}); it answers now{advice}"
            well = False
        if standing and standing.probed_at:
            note += f" (health task: {standing.health}, {standing.probed_at:%H:%M:%S} UTC)"
        yield Finding(account, well, note)


def _alerts(app: "Entrega") -> Iterator[Finding]:
    for each in Alerts(app.database).open():
        note = f"{each.code} since {each.first_at:%Y-%m-%d %H:%M:%S} UTC: {each.reason}; {each.next_step}"
        yield Finding(f"alert {each.severity} {each.account}", each.severity == "P2", note)


def _retention(app: "Entrega") -> Finding:
    overdue = Retention(app.database, app.settings.periods).overdue()
    if overdue:
        counts = ", ".join(f"{n} {name}" for name, n in overdue.items())
        advice = "the task `purge` runs every hour; look for its errors in the workers' logs"
        return Finding("retention", well=False, note=f"older than ENTREGA_KEEP allows: {counts}; {advice}")
    return Finding("retention", well=True, note="nothing is older than ENTREGA_KEEP allows")


def _master_keys(app: "Entrega") -> Iterator[Finding]:
    left = wrapped_by_others(app.ledger.vault)
    if left:
        note = f"{left} values are wrapped by another master key than the first: entrega keys rewrap"
        yield Finding("master keys", well=False, note=note)
