"""Entrega, one command in one call: each is durable, hinted and answered with a receipt before the next is asked for.

Limiter and breaker are on, with limits that no run reaches. Runs in the project's own environment.
"""

from benchmarks.rivals.wire import Message
from ledger.schema import migrate
from tasks.app import Entrega

PACKAGES = ("entrega", "celery", "kombu", "redis", "hiredis", "psycopg", "sqlalchemy", "requests")
app = Entrega("bench")


def prepare() -> None:
    """Make the tables."""
    migrate(app.database)


def fields(message: Message) -> dict[str, str]:
    """Return the command's body; Entrega chooses the id."""
    return {"to": message.to, "text": message.text}


def submit(message: Message) -> str:
    """Submit one command and return the delivery's id."""
    return app.intake.submit("send_whatsapp", fields(message), producer="bench").id
