"""The life of a worker process: logs first, then the ledger, then the engine, then work."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from celery import signals
from celery.exceptions import Reject

from config.policy import SpecError
from config.settings import BrokerSettings, ConfigurationError
from delivery.alerts import Alert
from delivery.errors import LedgerUnavailable, LedgerUnusable
from delivery.refused import RefusedMessage
from ledger.rejected import RejectedMessages
from ledger.schema import check_schema
from tasks.commands import message_refused
from tasks.dead_letters import died
from tasks.faults import alert_raised, upkeep_failed
from tasks.later import Later
from tasks.logs import configure_logging
from tasks.rollouts import rolled_back
from tasks.transport import be_patient
from worker.alerts import announce
from worker.attendance import Attendance
from worker.clock import SpareClock
from worker.control import answer_questions_only
from worker.failpoints import fit_failpoints
from worker.metrics import Recorder, make_recorder
from worker.sentry import report_error, start_sentry

if TYPE_CHECKING:
    from delivery.engine import Engine
    from tasks.app import Entrega

_log = structlog.get_logger(__name__)
_OURS = ("config", "delivery", "ledger", "providers", "tasks", "worker")
_LOST_COPIES = "the lines message_refused in this log tell what they were"
_BROKER_ONLY = ("beat", "flower")
# Source: celery 5.7.0, celery/bin/celery.py, the options of `celery` itself, read 2026-11-30.
_TAKING_A_VALUE = ("-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir")


def attach(app: "Entrega") -> None:
    """Connect the application to Celery's signals; nothing is read or reached until a process starts."""
    app.add_defaults(lambda: {"worker_consumer": "worker.consumer:QuietConsumer"})

    command = _celery_command()
    if command is not None:
        if command in _BROKER_ONLY:
            app.settings_kind = BrokerSettings
        begin(app)  # else Celery reads wrong settings first, and answers with a traceback
        if command == "flower":
            _guard_flower(app)

    @cache
    def recorder() -> Recorder:
        return make_recorder(enabled=app.settings.enable_metrics)

    be_patient()
    app.engine_factory = lambda: _engine(app, recorder())

    @signals.setup_logging.connect(weak=False)
    def _logs(**_: Any) -> None:
        begin(app)

    @signals.worker_init.connect(weak=False)
    def _worker(**_: Any) -> None:
        with _stopping():
            begin(app)  # Celery sets its logs up later, and waiting for the ledger must be heard
            _log.debug("ledger", where=repr(app.ledger.engine.url))  # a missing key is told before Postgres answers
            if app.settings.entrega_failpoints:
                fit_failpoints(app)
            await_ledger(app, pauses=_pauses())
            _log.debug("engine_built", worker=app.engine.worker)  # built here, so that a wrong setting stops the start
            _keep_refused(app)
            answer_questions_only()

    clock, attendance = SpareClock(app), Attendance(app)

    @signals.worker_ready.connect(weak=False)
    def _ready(**_: Any) -> None:
        _log.info("worker_ready", worker=app.engine.worker, accounts=sorted(app.engine.providers))
        clock.start()
        attendance.start()

    @signals.worker_shutting_down.connect(weak=False)
    def _ending(**_: Any) -> None:
        clock.stop()
        attendance.stop()

    _hear(recorder)


def _hear(recorder: Callable[[], Recorder]) -> None:
    """Tell what tasks cannot tell by themselves: they know no metrics and no Sentry."""

    @message_refused.connect(weak=False)
    def _refused(reason: str = "", **_: Any) -> None:
        recorder().message_rejected(reason=reason)

    @upkeep_failed.connect(weak=False)
    def _failed(work: str = "", **_: Any) -> None:
        recorder().upkeep_failed(work=work)

    @died.connect(weak=False)
    @rolled_back.connect(weak=False)
    @alert_raised.connect(weak=False)
    def _alert(alert: Alert, **_: Any) -> None:
        announce(alert, recorder())


def _keep_refused(app: "Entrega") -> None:
    """Keep a copy of each refused message, on a thread: the ledger must not hold up the one that reads the queues."""
    kept = RejectedMessages(app.database)

    def keep(refused: list[RefusedMessage]) -> None:
        try:
            kept.keep(refused)
        except LedgerUnavailable as err:  # the log line and the counter are all that is left of these
            _log.warning("copies_lost", copies_lost=len(refused), reason=str(err), next=_LOST_COPIES)

    logging.getLogger("celery.app.trace").addFilter(_is_not_told_yet)
    copies: Later[RefusedMessage] = Later(keep, what="copies", consequence=_LOST_COPIES)

    @message_refused.connect(weak=False)
    def _keep(refused: RefusedMessage | None = None, **_: Any) -> None:
        if refused is not None:
            copies.put([refused])


def _is_not_told_yet(record: logging.LogRecord) -> bool:
    # Celery logs a task that refuses its message with a traceback; `message_refused` has said why.
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, Reject) or bool(error.requeue)


def _engine(app: "Entrega", recorder: Recorder) -> "Engine":
    from worker.wiring import build_engine  # beat and the web page live without providers

    return build_engine(app, recorder)


def begin(app: "Entrega") -> None:
    """Set up what every process needs: packages of ours, settings, logs, Sentry.

    Raises:
        SystemExit: A setting or a form is missing or wrong, or a package is not ours; the message says what to do.
    """
    _check_packages()
    with _plainly():
        settings = app.settings
        app.require_broker()
        _ = app.specs  # Celery's own settings come from them, and it would answer a wrong form with a traceback
        _ = app.forwards_to  # a wrong address ends the start, not a message on its way
    settings.entrega_data.mkdir(mode=0o700, parents=True, exist_ok=True)  # beat keeps its schedule there
    configure_logging(settings.entrega_log, "INFO", on_error=report_error)
    start_sentry(settings.sentry_dsn, environment=settings.entrega_env, release=f"entrega@{version('entrega')}")


@contextmanager
def _plainly() -> Iterator[None]:
    """End the process with one sentence, instead of a traceback, where trying again does not help."""
    try:
        yield
    except (ConfigurationError, SpecError, LedgerUnusable) as err:
        raise SystemExit(str(err)) from None


@contextmanager
def _stopping() -> Iterator[None]:
    """End the process on every fault of its start: Celery logs what a signal's receiver raises, and goes on."""
    try:
        with _plainly():
            yield
    except Exception as err:
        _log.exception("start_failed")
        raise SystemExit(f"this process cannot start ({type(err).__name__}); the log says why") from err


def _celery_command() -> str | None:
    """Return the command of `celery ...` or `python -m celery ...`, "" when it names none; None in other programs."""
    if "celery" not in Path(sys.argv[0]).parts[-2:]:
        return None
    words = iter(sys.argv[1:])
    for word in words:
        if not word.startswith("-"):
            return word
        if word in _TAKING_A_VALUE:
            next(words, None)
    return ""


def require_ledger(app: "Entrega") -> None:
    """End the process where it can never work with its ledger; a ledger that is away may come back.

    Raises:
        SystemExit: The message says what to do.
    """
    with _plainly():
        try:
            check_ledger(app)
        except LedgerUnavailable as err:
            _log.warning("ledger_away", reason=str(err))


def await_ledger(app: "Entrega", *, pauses: Iterator[float], sleep: Callable[[float], None] = time.sleep) -> None:
    """Return once Postgres answers with the schema this code needs; until then say so and try again.

    Raises:
        LedgerUnusable: This program cannot work with this ledger.
        ConfigurationError: The master keys are not those of this ledger.
    """
    while True:
        try:
            check_ledger(app)
        except LedgerUnavailable as err:
            wait = next(pauses)
            _log.warning("ledger_away", reason=str(err), retry_in_s=wait)
            sleep(wait)
        else:
            return


def check_ledger(app: "Entrega") -> None:
    """Make sure that this process can work with the ledger: the schema fits, and the master keys open it.

    Raises:
        LedgerUnavailable: Postgres is away, or `entrega migrate` must run first.
        LedgerUnusable: A newer version of this program has migrated the ledger.
        ConfigurationError: There is no master key, or it does not open this ledger.
    """
    check_schema(app.database)
    app.ledger.vault.check_masters()


def _guard_flower(app: "Entrega") -> None:
    from worker.flower import USER, guard_flower, password_file  # Flower and Tornado are for this one process

    data = app.settings.entrega_data
    guard_flower(data)
    # Else it would put back what workers hold too long: their task, and it may not touch messages.
    app.conf.broker_transport_options |= {"ack_emulation": False}
    kept = str(password_file(data))
    _log.info("flower_guarded", user=USER, password_file=kept, override="FLOWER_BASIC_AUTH=user:password")


def _pauses() -> Iterator[float]:
    yield from (1, 2, 4)
    while True:
        yield 8


def _check_packages() -> None:
    # Another distribution named `config` exists on the index and overwrites ours without a word.
    home = Path(__file__).resolve().parent.parent
    for name in _OURS:
        found = Path(str(import_module(name).__file__)).resolve()
        if found.parent.parent != home:
            print(f"The package {name!r} comes from {found.parent}, not from Entrega.", file=sys.stderr)  # noqa: T201 - logs are not up yet
            raise SystemExit(
                f"Another distribution overwrote {name!r}: reinstall Entrega in a fresh virtual environment."
            )
