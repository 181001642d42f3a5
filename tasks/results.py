"""Celery's result backend of this application: it keeps nothing and says where to look instead."""

from typing import Any, NoReturn
from uuid import UUID

from celery.backends.base import DisabledBackend


class NoResults(DisabledBackend):
    """Keeps nothing: what became of a delivery stands in the ledger, longer and in more words than a result."""

    def _told(self, task_id: object = "", *_: Any, **__: Any) -> NoReturn:
        id_ = str(task_id) if isinstance(task_id, str | UUID) else "ID"
        raise NotImplementedError(
            f"Entrega keeps no Celery results. Look at the delivery: `entrega show {id_}`, "
            f"GET /v1/deliveries/{id_}?wait=20, or let it call you back with options.callback_url."
        )

    get_state = get_status = get_result = get_traceback = get_task_meta = get_task_meta_for = wait_for = get_many = (
        _told
    )
