"""The pages of the ingress: liveness, readiness and metrics. `python -m ingress.web` serves them alone.

FastAPI, because its routes grow into the REST door with an OpenAPI that is derived from the same types.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from config.settings import ConfigurationError
from delivery.errors import LedgerUnavailable
from ingress.webhooks import create_webhooks
from ledger.schema import check_schema
from worker import app as entrega
from worker.life import begin
from worker.metrics import LedgerCollector, LedgerFigures, render_metrics

if TYPE_CHECKING:
    from tasks.app import Entrega

# Beat ticks every five seconds: four missed ticks are a fault.
_FRESH_TICK = timedelta(seconds=20)


def create_web(app: "Entrega", *, metrics_folder: Path | None) -> FastAPI:
    """Return the web application.

    Args:
        metrics_folder: Where the worker processes keep their counters; None shows the ledger's figures alone.
    """
    web = FastAPI(title="Entrega", docs_url=None, redoc_url=None, openapi_url=None)

    @web.get("/health/live")
    def live() -> dict[str, str]:
        return {"status": "ok"}

    @web.get("/health/ready")
    def ready() -> JSONResponse:
        faults = {name: fault for name, check in _checks(app).items() if (fault := check())}
        status = 503 if faults else 200
        return JSONResponse({"status": "waiting" if faults else "ok", "faults": faults}, status_code=status)

    @web.get("/metrics")
    def metrics() -> Response:
        if not app.settings.enable_metrics:
            return Response("metrics are off: ENABLE_METRICS is false\n", status_code=404, media_type="text/plain")
        ledger = LedgerCollector(lambda: _figures(app), app.hints.backlog)
        return Response(render_metrics(folder=metrics_folder, ledger=ledger), media_type=CONTENT_TYPE_LATEST)

    web.include_router(create_webhooks(app))
    return web


def _checks(app: "Entrega") -> Mapping[str, Callable[[], str | None]]:
    """Return what readiness asks, each with None for "well" or a sentence that says what is wrong."""

    def ledger() -> str | None:
        try:
            check_schema(app.database)
        except LedgerUnavailable as err:
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


def _figures(app: "Entrega") -> LedgerFigures:
    held = sum(1 for each in app.archive.accounts() if each.held_reason)
    return LedgerFigures(app.archive.counts(), app.archive.oldest_due(), held)


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    try:
        begin(entrega)
        settings = entrega.settings
    except ConfigurationError as err:
        print(err, file=sys.stderr)  # noqa: T201 - logs are not up yet
        return 2
    web = create_web(entrega, metrics_folder=settings.prometheus_multiproc_dir)
    # Slow and large requests are cut off early; there is nothing to upload here.
    config = uvicorn.Config(
        web, host=settings.entrega_host, port=settings.entrega_port, log_config=None, access_log=False,
        timeout_keep_alive=20, limit_concurrency=200,
    )  # fmt: skip
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
