"""The web process: liveness, readiness, metrics and every door that speaks HTTP. `python -m ingress.web` serves it.

Each door is a module of its own with a function that returns a router; here they become one application.
Why FastAPI, and how keys are kept: docs/adr/0016.
"""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from config.settings import ConfigurationError
from delivery.errors import LedgerUnavailable, LedgerUnusable
from ingress.arrival import Arrival
from ingress.mcp_door import mcp_router
from ingress.openapi import describe
from ingress.problems import install
from ingress.rest import rest_door, rest_router
from ingress.rest_approvals import approvals_router
from ingress.rest_letters import Edit, ReplayMany, letters_router
from ingress.shapes import WithReason
from ingress.slow_clients import PatientProtocol
from ingress.strangers import Strangers
from ingress.webhooks import create_webhooks
from ledger.alerts import Alerts
from ledger.setting_aside import SetAside
from worker import app as entrega
from worker.life import begin, check_ledger, require_ledger
from worker.metrics import LedgerCollector, LedgerFigures, render_metrics

if TYPE_CHECKING:
    from tasks.app import Entrega

# Beat ticks every five seconds: four missed ticks are a fault.
_FRESH_TICK = timedelta(seconds=20)
# Requests at work on the ledger at the same time: as many as its pool has connections, so that none waits for one.
_THREADS = 28
# Requests under way, long polls and slow bodies included; one more is answered 503 at once.
_MOST_AT_ONCE = 400


def create_web(app: "Entrega", *, metrics_folder: Path | None) -> FastAPI:
    """Return the web application.

    Args:
        metrics_folder: Where the worker processes keep their counters; None shows the ledger's figures alone.
    """
    web = FastAPI(title="Entrega", version=version("entrega"), docs_url=None, redoc_url=None, lifespan=_lifespan)
    install(web)
    door, strangers = rest_door(app), Strangers()
    web.add_middleware(
        Arrival, doorkeeper=door.doorkeeper, strangers=strangers, most_at_once=_MOST_AT_ONCE, most_per_key=200
    )
    _add_pages(web, app, metrics_folder)
    web.include_router(letters_router(door))
    web.include_router(approvals_router(door))
    web.include_router(rest_router(door))
    web.include_router(mcp_router(door))
    web.include_router(create_webhooks(app, door.bodies, strangers))
    describe(web, app.specs, (ReplayMany, Edit, WithReason))
    return web


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = _THREADS
    yield


def _add_pages(web: FastAPI, app: "Entrega", metrics_folder: Path | None) -> None:
    @web.get("/health/live", include_in_schema=False)
    def live() -> dict[str, str]:
        return {"status": "ok"}

    @web.get("/health/ready", include_in_schema=False)
    def ready() -> JSONResponse:
        faults = {name: fault for name, check in _checks(app).items() if (fault := check())}
        status = 503 if faults else 200
        answer = {"status": "waiting" if faults else "ok", "faults": faults, "alerts": _alerts(app)}
        return JSONResponse(answer, status_code=status)

    @web.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        if not app.settings.enable_metrics:
            return Response("metrics are off: ENABLE_METRICS is false\n", status_code=404, media_type="text/plain")
        ledger = LedgerCollector(lambda: _figures(app), app.hints.backlog)
        return Response(render_metrics(folder=metrics_folder, ledger=ledger), media_type=CONTENT_TYPE_LATEST)


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
            return "no sweep has run for 20 s: is a worker running, and beat?"
        return None

    return {"ledger": ledger, "broker": broker, "work": work}


def _alerts(app: "Entrega") -> list[dict[str, str]]:
    """Return what operators were told and did not mend yet; it does not decide readiness."""
    try:
        found = Alerts(app.database).open()
    except LedgerUnavailable:
        return []
    return [{"severity": each.severity, "account": each.account, "code": each.code} for each in found]


def _figures(app: "Entrega") -> LedgerFigures:
    held = sum(1 for each in app.archive.accounts() if each.held_reason)
    set_aside = SetAside(app.database).count()
    return LedgerFigures(app.archive.counts(), app.archive.oldest_due(), held, set_aside)


def web_server() -> uvicorn.Server:
    """Return the server of the web process, ready to run.

    Raises:
        SystemExit: A setting is missing or wrong, or this process cannot work with its ledger; the message says what
            to do.
    """
    begin(entrega)
    require_ledger(entrega)
    settings = entrega.settings
    web = create_web(entrega, metrics_folder=settings.prometheus_multiproc_dir)
    config = uvicorn.Config(
        web, host=settings.entrega_host, port=settings.entrega_port, log_config=None, access_log=False,
        http=PatientProtocol, ws="none", server_header=False, timeout_keep_alive=20, timeout_graceful_shutdown=20,
    )  # fmt: skip
    return uvicorn.Server(config)


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    try:
        server = web_server()
    except ConfigurationError as err:
        print(err, file=sys.stderr)  # noqa: T201 - logs are not up yet
        return 2
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
