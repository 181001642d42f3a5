"""The web process: every door that speaks HTTP, and the pages about the system. `python -m ingress.web` serves it.

Each door is a module of its own with a function that returns a router; here they become one application.
Why FastAPI, and how keys are kept: docs/adr/0016.
"""

import logging
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from config.settings import ConfigurationError, Settings
from ingress.arrival import Arrival
from ingress.guard import Guard
from ingress.mcp_door import mcp_router
from ingress.openapi import describe
from ingress.pages import pages_router
from ingress.problems import install
from ingress.rest import rest_door, rest_router
from ingress.rest_approvals import approvals_router
from ingress.rest_letters import Edit, ReplayMany, letters_router
from ingress.sampling import SampledWarnings
from ingress.shapes import WithReason
from ingress.slow_clients import PatientProtocol
from ingress.strangers import Strangers
from ingress.webhooks import create_webhooks
from worker import app as entrega
from worker.life import begin, require_ledger

if TYPE_CHECKING:
    from tasks.app import Entrega

# Requests at work on the ledger at the same time: its pool has as many connections, and a few for strangers and pages.
_THREADS = 28
# A connection that waits costs 20 kB. Fewer would let a stranger force old ones out faster than it is worth.
_MOST_CONNECTIONS = 4000
_OTHER_FILES = 224
_SAMPLED = SampledWarnings()
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
    web.state.guard = Guard(door.doorkeeper, strangers, app.settings.entrega_trusted_proxies, _most_connections())
    web.add_middleware(
        Arrival,
        doorkeeper=door.doorkeeper,
        strangers=strangers,
        most_at_once=_MOST_AT_ONCE,
        most_per_key=app.settings.entrega_requests_per_key,
    )
    web.include_router(pages_router(app, door.doorkeeper, metrics_folder))
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


def _most_connections() -> int:
    """Return how many connections this process may have, with room for Postgres, Redis and files."""
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(soft - _OTHER_FILES, _MOST_CONNECTIONS)


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
    return uvicorn.Server(serving(web, settings))


def serving(web: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how the application is served."""
    logging.getLogger("uvicorn.error").addFilter(_SAMPLED)  # it warns of each request that is no HTTP
    proxies = [str(each) for each in settings.entrega_trusted_proxies]
    return uvicorn.Config(
        web, host=settings.entrega_host, port=settings.entrega_port, log_config=None, access_log=False,
        http=PatientProtocol, ws="none", server_header=False, timeout_keep_alive=20, timeout_graceful_shutdown=20,
        proxy_headers=bool(proxies), forwarded_allow_ips=proxies,
    )  # fmt: skip


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
