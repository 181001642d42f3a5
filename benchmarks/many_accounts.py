"""The worker's side of `benchmarks.rivals.entrega_accounts`: `celery -A benchmarks.many_accounts worker`."""

from dataclasses import replace

from benchmarks.rivals.entrega_accounts import MANY
from delivery.engine import Engine
from worker import app

__all__ = ["app"]

_build = app.engine_factory


def _engine() -> Engine:
    if _build is None:
        raise RuntimeError("the worker's application builds no engine")
    engine = _build()
    return replace(engine, providers={**engine.providers, **dict.fromkeys(MANY, engine.providers["whatsapp:default"])})


app.engine_factory = _engine
