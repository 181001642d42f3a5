"""The worker process: `celery -A worker worker`, `celery -A worker beat`, `celery -A worker flower`."""

from tasks import app
from worker.life import attach

attach(app)

__all__ = ["app"]
