"""Every worker signs the roster in the ledger with what it was started with; `entrega doctor` compares."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from config.policy import load_specs
from delivery.errors import LedgerUnavailable
from ledger.entries import canonical
from ledger.roster import Present, Roster

if TYPE_CHECKING:
    from tasks.app import Entrega

SIGN_EVERY_S = 10.0
# The rest is the workers' own: a command line may lack the variables of providers.
_OF_EVERYBODY = ("version", "environment", "keys", "specs")
_log = structlog.get_logger(__name__)
_OF_PROVIDERS = ("crm_", "whatsapp_", "smtp_", "from_email")


class Attendance:
    """Signs from a thread of its own, until `stop`."""

    def __init__(self, app: "Entrega") -> None:
        self._app = app
        self._ended = threading.Event()

    def start(self) -> None:
        """Sign now and every few seconds."""
        threading.Thread(target=self._sign_on, name="attendance", daemon=True).start()

    def stop(self) -> None:
        """Sign no more, and leave the list."""
        self._ended.set()
        try:
            Roster(self._app.database).leave(self._app.engine.worker)
        except LedgerUnavailable:
            _log.debug("not_struck_off")  # the list forgets it soon

    def _sign_on(self) -> None:
        me = Present(self._app.engine.worker, facts(self._app))
        while not self._ended.is_set():
            try:
                Roster(self._app.database).sign(me)
            except LedgerUnavailable:
                _log.debug("not_signed")
            self._ended.wait(SIGN_EVERY_S)


def facts(app: "Entrega") -> Mapping[str, str]:
    """Return what must be equal in all processes of one ledger: short digests, and no secret.

    Shape: {"version": "0.1.0", "environment": "production", "keys": "9f86d081", "specs": "60303ae2", "providers": ...}
    """
    settings = app.settings
    values = {name: _clear(value) for name, value in settings if name.startswith(_OF_PROVIDERS)}
    # As the files say: what CRM_TIMEOUT makes of them is the providers' matter.
    specs = {name: spec.model_dump(mode="json") for name, spec in load_specs(settings.entrega_integrations).items()}
    return {
        "version": version("entrega"),
        "environment": settings.delivery_environment,
        "keys": " ".join(app.ledger.vault.masters.names),
        "specs": hashlib.sha256(canonical(specs).encode()).hexdigest()[:8],
        "providers": app.ledger.vault.hash(canonical(values)).hex()[:8],
        "ENTREGA_WORKERS": str(settings.entrega_workers),
    }


def differences(workers: Sequence[Present], own: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return what is not equal in all workers and, in what every process has, in this one.

    Args:
        own: The facts of this process.

    Shape: {"keys": {"a.example:17": "9f86d081", "b.example:23": "60303ae2", "this process": "9f86d081"}}
    """
    found = {}
    for name, value in own.items():
        told = {each.name: each.facts.get(name, "unknown") for each in workers}
        if name in _OF_EVERYBODY:
            told["this process"] = value
        if len(set(told.values())) > 1:
            found[name] = told
    return found


def _clear(value: object) -> object:
    secret = getattr(value, "get_secret_value", None)
    return secret() if secret else value
