"""The Celery application that producers and workers share: its settings, and the way into the ledger.

It lives below `worker` so that a producer needs no worker code. Nothing is read or reached before first use.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery
from kombu.entity import Queue

from config.policy import Spec, load_specs, tuned
from config.settings import ConfigurationError, Settings, load_settings
from config.timetable import TIMETABLE
from delivery.callbacks import Callback
from delivery.destinations import url_issue
from delivery.intake import Intake
from delivery.lane import Lanes
from delivery.ports import Order
from delivery.producers import LOOPING, Policies
from delivery.thread_shares import ThreadShares
from delivery.wording import issue_text
from ledger.accounts import Accounts
from ledger.callbacks import Callbacks
from ledger.database import connect
from ledger.doubts import PostgresDoubts
from ledger.forwarding import CallbackForwarder
from ledger.inbound import Inbound
from ledger.producers import StoredPolicies
from ledger.reading import Archive
from ledger.sealing import MasterKeys
from ledger.store import PostgresLedger
from ledger.vault import Vault
from tasks.faults import event_failed
from tasks.hints import RETRY_QUEUE, CeleryHints

if TYPE_CHECKING:
    from delivery.engine import Engine
    from ledger.database import Engine as Database

# A client that knows only the broker publishes to Celery's own default queue: that is the foreign door.
FOREIGN_QUEUE = "celery"
UPKEEP_QUEUE = "upkeep"
# Calls are waiting, not work: 16 threads share one interpreter well. More throughput comes from more processes.
WORKER_THREADS = 16
# Beside those, for each account of which much waits: one lane's worth of calls, and threads that settle.
LANE_THREADS = Lanes.at_once + 2
_log = structlog.get_logger("entrega.alerts")
_NOT_RUNNING = "unset, and nothing runs in this folder; start `entrega up` here, or set it"


class Entrega(Celery):
    """A Celery application that knows the ledger."""

    engine_factory: Callable[[], "Engine"] | None = None
    settings_kind: type[Settings] = Settings

    def __init__(self, name: str) -> None:
        """Describe the application; `settings` may be assigned before first use, as tests and the demo do."""
        super().__init__(name, set_as_current=False)
        self.add_defaults(lambda: _celery_settings(self))

    @cached_property
    def settings(self) -> Settings:
        """What the environment says.

        Raises:
            ConfigurationError: Something is missing or wrong; the message lists all of it.
        """
        return load_settings(kind=self.settings_kind)

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """The integrations, by service, with the user's own numbers for the CRM."""
        settings = self.settings
        specs = load_specs(settings.entrega_integrations)
        crm = tuned(specs["crm"], timeout_s=settings.crm_timeout, most_retries=settings.crm_max_retries)
        return {**specs, "crm": crm}

    @cached_property
    def database(self) -> "Database":
        """The pool of connections to Postgres.

        Raises:
            ConfigurationError: DATABASE_URL is unset, or the sandbox would reach another machine's ledger.
        """
        url = self.settings.ledger_url()
        if url is None:
            raise ConfigurationError({"DATABASE_URL": _NOT_RUNNING})
        return connect(url, pool_size=WORKER_THREADS, name="entrega")

    @cached_property
    def ledger(self) -> PostgresLedger:
        """The truth."""
        settings = self.settings
        vault = Vault(self.database, MasterKeys(settings.master_keys()))
        most = self.specs[Callback.service].limits.most_endpoints
        environment = settings.delivery_environment
        return PostgresLedger(self.database, vault, environment=environment, most_endpoints=most)

    @cached_property
    def doubts(self) -> PostgresDoubts:
        """The uncertain deliveries."""
        return PostgresDoubts(self.ledger)

    @cached_property
    def inbound(self) -> Inbound:
        """What providers tell, and where it goes on to."""
        url = self.forwards_to
        forwarder = CallbackForwarder(self.callbacks, url) if url else None
        return Inbound(self.ledger, forwarder, failed=partial(event_failed, self))

    @cached_property
    def forwards_to(self) -> str | None:
        """Where what people say is told; None keeps it here.

        Raises:
            ConfigurationError: No callback may go there.
        """
        url = self.settings.whatsapp_webhook_url
        word = url_issue(url, sandbox=self.settings.entrega_env == "sandbox") if url is not None else None
        if word is not None:
            raise ConfigurationError({"WHATSAPP_WEBHOOK_URL": issue_text(word, "en")})
        return url

    @cached_property
    def archive(self) -> Archive:
        """What people read."""
        return Archive(self.database)

    @cached_property
    def hints(self) -> CeleryHints:
        """The way a delivery id reaches a worker."""
        return CeleryHints(self, {kind: spec.name for spec in self.specs.values() for kind in spec.operations})

    @cached_property
    def accounts(self) -> Accounts:
        """The accounts of every service; those of callbacks are the hosts that producers name, and stand elsewhere."""
        specs = {name: spec for name, spec in self.specs.items() if name != Callback.service}
        return Accounts(self.database, self.ledger.vault.masters, self.settings, specs)

    @cached_property
    def intake(self) -> Intake:
        """The way in for commands."""
        return Intake(
            self.ledger,
            self.hints,
            self.specs,
            self.accounts,
            sandbox=self.settings.entrega_env == "sandbox",
            policies=self.policies,
            from_email=self._from_email,
            frozen=_tell_of_frozen,
            writable=_check_writable,
        )

    def _from_email(self, account: str) -> str | None:
        try:
            return self.accounts.settings(account).from_email
        except LookupError:
            return None  # it cannot send anything

    @cached_property
    def policies(self) -> Policies:
        """What producers may do."""
        return StoredPolicies(self.database, self.ledger.vault)

    @cached_property
    def callbacks(self) -> Callbacks:
        """The way out to producers."""
        failed = partial(event_failed, self)
        return Callbacks(self.ledger, self.specs[Callback.service].expires_after, failed=failed)

    @cached_property
    def engine(self) -> "Engine":
        """What carries deliveries out; only a worker has one.

        Raises:
            RuntimeError: This process is a producer.
        """
        if self.engine_factory is None:
            raise RuntimeError("this process has no delivery engine: run tasks with `celery -A worker worker`")
        return self.engine_factory()

    @cached_property
    def lone_engine(self) -> "Engine":
        """The engine for deliveries that are attempted one by one, each in a thread of the worker's pool."""
        return replace(self.engine, gates=(self.threads, *self.engine.gates))

    @cached_property
    def threads(self) -> ThreadShares:
        """How many threads of this worker process each account, producer and service holds."""
        return ThreadShares({name: spec.limits.threads for name, spec in self.specs.items()})

    @cached_property
    def lanes(self) -> Lanes:
        """Where many waiting deliveries go side by side; only a worker has them."""
        return Lanes(self.engine, cache(lambda account: ThreadPoolExecutor(LANE_THREADS, f"lane {account}")))

    def require_broker(self) -> None:
        """Make sure that there is a broker to talk to.

        Raises:
            ConfigurationError: REDIS_URL is unset.
        """
        if self.settings.redis_url is None:
            raise ConfigurationError({"REDIS_URL": _NOT_RUNNING})

    @property
    def reaches_ledger(self) -> bool:
        """True when this process can write the row itself, so that only an id travels."""
        return self.settings.database_url is not None


def _tell_of_frozen(producer: str) -> None:
    _log.warning(
        "alert", severity="P2", account=f"producer:{producer}", code=LOOPING,
        reason="one person was sent the same content again and again",
        next=f"entrega producers unfreeze {producer}",
    )  # fmt: skip


def _check_writable(order: Order) -> None:
    from providers.previews import check_writable  # a process that accepts nothing starts without it

    check_writable(order)


def _celery_settings(app: Entrega) -> Mapping[str, Any]:
    """Return Celery's settings. Source of each: facts measured on Celery 5.7 with Redis, 2026-11-22."""
    return _broker(app.settings) | _routing(app.specs) | _behaviour(app.settings) | _worker(app.settings)


def _broker(settings: Settings) -> dict[str, Any]:
    # Celery asks for its settings as soon as a task is touched, and never again: an unset broker is no error yet, and
    # `require_broker` says so where one is needed.
    url = settings.redis_url.get_secret_value() if settings.redis_url else "memory://"
    return {
        "broker_url": url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # the default of 100 makes a worker give up
        "broker_channel_error_retry": True,  # READONLY after a failover is a channel error
        "broker_transport_options": {
            # Only hints wait here: seen again after five minutes at the latest, and by the sweep long before.
            "visibility_timeout": 300,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 30,  # a worker killed while it restores blocks the others no longer than this
            "socket_timeout": 5,  # must exceed the 1 s of BRPOP; without one a silent Redis blocks for ever
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "max_connections": 50,
            "priority_steps": [0, 3, 6, 9],  # 9 is used by strangers only, whose clients know these four
        },
    }


def _routing(specs: Mapping[str, Spec]) -> dict[str, Any]:
    names = [FOREIGN_QUEUE, *specs, RETRY_QUEUE, UPKEEP_QUEUE]
    commands = {kind: spec for spec in specs.values() for kind in spec.operations}
    upkeep = {tick.task for tick in TIMETABLE}
    return {
        "task_default_queue": FOREIGN_QUEUE,
        "task_create_missing_queues": False,
        "task_queues": [Queue(name, routing_key=name) for name in names],
        "task_routes": {kind: {"queue": spec.name} for kind, spec in commands.items()}
        | {name: {"queue": UPKEEP_QUEUE} for name in upkeep},
        # A ceiling for each worker that never binds before the shared limit: see `worker_ceiling` in the specs.
        "task_annotations": {kind: {"rate_limit": spec.worker_ceiling} for kind, spec in commands.items()}
        | {"health": {"rate_limit": "30/m"}},
        "beat_schedule": {
            tick.task: {"task": tick.task, "schedule": tick.every, "options": {"expires": tick.expires.total_seconds()}}
            for tick in TIMETABLE
        },
    }


def _behaviour(settings: Settings) -> dict[str, Any]:
    return {
        "task_acks_late": True,
        "task_acks_on_failure": True,  # the row decides what happens next, not the message
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": True,
        "task_publish_retry": False,  # the row is safe: a producer never waits for the broker
        "task_ignore_result": True,
        "result_backend": "tasks.results:NoResults",
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_send_sent_event": False,
        "task_repr_maxlevels": 1,
        "resultrepr_maxsize": 64,
        "enable_utc": True,
        "timezone": "UTC",
        "beat_schedule_filename": str(settings.entrega_data / "celerybeat-schedule"),
    }


def _worker(settings: Settings) -> dict[str, Any]:
    return {
        "worker_pool": "threads",
        "worker_concurrency": WORKER_THREADS,
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": 1000,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # True revokes and acknowledges running tasks
        "worker_soft_shutdown_timeout": 30,
        "worker_enable_soft_shutdown_on_idle": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_send_task_events": True,
        "worker_enable_remote_control": settings.entrega_remote_control,
    }


app = Entrega("entrega")
