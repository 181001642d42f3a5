"""DBOS: a durable workflow of one step for each message, taken from a queue in Postgres; a pooled session.

Source: DBOS documentation for Python, "Queues and concurrency" (`worker_concurrency` for each process, each with an
`executor_id` of its own; enqueue from outside with DBOSClient), read 2026-11-22. The polling
interval is 20 ms instead of 1 s: a worker refills its free places only when it polls, and at 1 s the pause would be
all that is measured (16 places make 16 messages a second).

`python -m benchmarks.rivals.dbos_pooled NAME` is one worker.
"""

import sys
import threading

from dbos import DBOS, DBOSClient

from benchmarks.rivals.wire import Message, pooled_post, postgres_url, threads

PACKAGES = ("dbos", "sqlalchemy", "psycopg", "requests")
_APPLICATION, _QUEUE, _VERSION = "bench", "messages", "1"
_clients: list[DBOSClient] = []


def _configure(name: str) -> None:
    DBOS(
        config={
            "name": _APPLICATION,
            "application_version": _VERSION,
            "executor_id": name,
            "system_database_url": postgres_url(),
            "sys_db_pool_size": 20,
        }
    )


@DBOS.step(retries_allowed=True, max_attempts=6)
def post_message(fields: dict[str, str]) -> str:
    """Call the provider."""
    return pooled_post(fields)


@DBOS.workflow(name="send_whatsapp")
def send_whatsapp(fields: dict[str, str]) -> str:
    """Send one message."""
    return post_message(fields)


def prepare() -> None:
    """Make the tables by a first start, and open the producer's client."""
    _configure("prepare")
    DBOS.launch()
    DBOS.register_queue(_QUEUE, worker_concurrency=threads(), polling_interval_sec=0.02)
    DBOS.destroy()
    _clients.append(DBOSClient(system_database_url=postgres_url(), application_name=_APPLICATION))


def submit(message: Message) -> str:
    """Enqueue one workflow."""
    _clients[0].enqueue({"queue_name": _QUEUE, "workflow_name": "send_whatsapp"}, message.fields())
    return message.id


def _work(name: str) -> None:
    _configure(name)
    DBOS.launch()
    DBOS.register_queue(_QUEUE, worker_concurrency=threads(), polling_interval_sec=0.02)
    threading.Event().wait()


if __name__ == "__main__":
    # `-m` made this file `__main__`; the workflow is registered here, under a name of its own.
    _work(sys.argv[1])
