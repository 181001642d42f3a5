"""What a worker answers to over the broker: questions, and nothing that changes or ends it.

Celery's remote control is open to everyone who may publish on the broker, and `shutdown` is one of its commands.
"""

from celery.worker.control import Panel

# Source: celery 5.7.0, celery/worker/control.py, read 2026-11-30. Flower asks for the events and a heartbeat as well.
QUESTIONS = frozenset({
    "active", "active_queues", "clock", "conf", "enable_events", "heartbeat", "ping", "query_task", "registered",
    "reserved", "revoked", "scheduled", "stats",
})  # fmt: skip


def answer_questions_only() -> None:
    """Take every other command away from this process's workers."""
    for name in Panel.data.keys() - QUESTIONS:
        del Panel.data[name]
