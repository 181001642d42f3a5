"""The pages about the system itself: is the process alive, can the system deliver, and the figures for Prometheus.

Anybody may ask whether it is alive and ready; why it is not, and every figure, is for operators. What is asked of the
ledger is asked once for all who want to know, and kept for a moment.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from config.server_urls import is_loopback
from config.settings import ConfigurationError
from delivery.errors import LedgerUnavailable, LedgerUnusable
from ingress.access import Doorkeeper, key_in
from ingress.problems import Problem
from ledger.alerts import Alerts
from ledger.setting_aside import SetAside
from worker.life import check_ledger
from worker.metrics import LedgerCollector, LedgerFigures, render_metrics

if TYPE_CHECKING:
    from tasks.app import Entrega

# Beat ticks every five seconds: four missed ticks are a fault.
_FRESH_TICK = timedelta(seconds=20)
_READY_FOR_S = 0.5
_METRICS_FOR_S = 5.0
# A request with one of these came through a proxy, so the connection from this machine says nothing about its sender.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

_Answer = TypeVar("_Answer")


class Kept(Generic[_Answer]):
    """An answer that is asked for once by all who want it, and kept for a while. Belongs to one event loop.

    Args:
        ask: Finds it; runs on a thread of its own.
        for_s: How long it is kept.
        ticks: A monotonic clock, in seconds.
    """

    def __init__(
        self, ask: Callable[[], _Answer], *, for_s: float, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._for_s = for_s
        self._ticks = ticks
        self._thread = CapacityLimiter(1)
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[_Answer] | None = None

    async def get(self) -> _Answer:
        """Return it, at most as old as it is kept."""
        if self._asking is None or (self._asking.done() and self._ticks() - self._asked_at >= self._for_s):
            self._asking = asyncio.create_task(self._find())
        return await asyncio.shield(self._asking)

    async def _find(self) -> _Answer:
        found = await to_thread.run_sync(self._ask, limiter=self._thread)
        self._asked_at = self._ticks()
        return found


@dataclass(frozen=True)
class _Readiness:
    """What keeps the system from delivering, by part; empty when nothing does. Alerts do not decide it."""

    faults: Mapping[str, str]
    alerts: list[dict[str, str]]


def pages_router(app: "Entrega", doorkeeper: Doorkeeper, metrics_folder: Path | None) -> APIRouter:
    """Return the routes `/health/live`, `/health/ready` and `/metrics`.

    Args:
        metrics_folder: Where the worker processes keep their counters; None shows the ledger's figures alone.
    """
    router = APIRouter(include_in_schema=False)
    readiness = Kept(lambda: _readiness(app), for_s=_READY_FOR_S)
    figures = Kept(lambda: _metrics(app, metrics_folder), for_s=_METRICS_FOR_S)

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/health/ready")
    async def ready(request: Request) -> JSONResponse:
        found = await readiness.get()
        answer: dict[str, object] = {"status": "waiting" if found.faults else "ok"}
        if await _may(request, doorkeeper, "operate"):
            answer |= {"faults": found.faults, "alerts": found.alerts}
        return JSONResponse(answer, 503 if found.faults else 200)

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        if not app.settings.enable_metrics:
            return Response("metrics are off: ENABLE_METRICS is false\n", status_code=404, media_type="text/plain")
        in_sandbox = app.settings.entrega_env == "sandbox" and _is_from_this_machine(request)
        if not in_sandbox and not (await doorkeeper.caller(key_in(request.headers))).may("metrics"):
            raise Problem("missing_scope", scope="metrics")
        return Response(await figures.get(), media_type=CONTENT_TYPE_LATEST)

    return router


async def _may(request: Request, doorkeeper: Doorkeeper, scope: str) -> bool:
    """Tell whether a request that needs no key has one with this scope."""
    secret = key_in(request.headers)
    try:
        return secret is not None and await doorkeeper.knows(secret) and (await doorkeeper.caller(secret)).may(scope)
    except (LedgerUnavailable, Problem):  # without the ledger nobody is known; a key that ended opens nothing
        return False


def _is_from_this_machine(request: Request) -> bool:
    is_forwarded = any(each in request.headers for each in _FORWARDED)
    return request.client is not None and is_loopback(request.client.host) and not is_forwarded


def _readiness(app: "Entrega") -> _Readiness:
    faults = {name: fault for name, check in _checks(app).items() if (fault := check())}
    return _Readiness(faults, _alerts(app))


def _checks(app: "Entrega") -> Mapping[str, Callable[[], str | None]]:
    """Return what readiness asks, each with None for "well" or a sentence that says what is wrong."""

    def ledger() -> str | None:
        try:
            check_ledger(app)
        except (LedgerUnavailable, LedgerUnusable, ConfigurationError) as err:
            return str(err)
        return None

    def broker() -> str | None:
        return None if app.hints.backlog() is not None else "the broker does not answer; check REDIS_URL"

    def work() -> str | None:
        try:
            tick = app.archive.last_tick("sweep")
        except LedgerUnavailable:
            return "the ledger could not be asked for the last sweep"
        if tick is None or tick < datetime.now(UTC) - _FRESH_TICK:
            return "no worker that can deliver has swept for 20 s: is one running, and what do the workers' logs say?"
        return None

    return {"ledger": ledger, "broker": broker, "work": work}


def _alerts(app: "Entrega") -> list[dict[str, str]]:
    """Return what operators were told and did not mend yet; it does not decide readiness."""
    try:
        found = Alerts(app.database).open()
    except LedgerUnavailable:
        return []
    return [{"severity": each.severity, "account": each.account, "code": each.code} for each in found]


def _metrics(app: "Entrega", folder: Path | None) -> bytes:
    return render_metrics(folder=folder, ledger=LedgerCollector(lambda: _figures(app), app.hints.backlog))


def _figures(app: "Entrega") -> LedgerFigures:
    held = sum(1 for each in app.archive.accounts() if each.held_reason)
    set_aside = SetAside(app.database).count()
    return LedgerFigures(app.archive.counts(), app.archive.oldest_due(), held, set_aside)
