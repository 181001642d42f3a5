"""Writes every log record of the process, ours and the libraries', in one shape and without people or secrets.

Everything that decides what a line looks like happens in one formatter on the root handler: structlog records and
records of Celery, kombu, urllib3 or SQLAlchemy take the same steps, and masking comes last. A record that cannot be
masked is replaced, never written. This module reads no environment; who starts the process says mode and level.

Source: structlog 26.1.0, `structlog.stdlib.ProcessorFormatter`; celery 5.7.0, `celery.app.log`; read 2026-11-22.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

from delivery.redaction import mask_value

Mode = Literal["json", "console", "auto"]
OnError = Callable[[BaseException, Mapping[str, object]], None]
_Record = MutableMapping[str, Any]

SERVICE = "entrega"

# Lowest level for each talkative library, whatever the process asks for: "Task received" and "Task succeeded" would
# double our one line for each attempt, and the debug or access lines of the others hold payloads, SQL or query strings.
_FLOORS: Mapping[str, int] = {
    "alembic": logging.WARNING,
    "amqp": logging.WARNING,
    "asyncio": logging.WARNING,
    "celery": logging.INFO,
    "celery.app.trace": logging.WARNING,
    "celery.redirected": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "flower": logging.INFO,
    "httpx": logging.WARNING,
    "kombu": logging.WARNING,
    "redis": logging.WARNING,
    "requests": logging.WARNING,
    "sentry_sdk": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "tornado.access": logging.WARNING,
    "urllib3": logging.WARNING,
    "uvicorn": logging.INFO,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.INFO,
}

# Celery logs the whole message it cannot use, at any level; the names in it have no form that could be masked.
# Source: celery 5.7.0, celery/worker/consumer/consumer.py (UNKNOWN_TASK_ERROR and its neighbours), read 2026-11-22.
_MESSAGE_BODY = re.compile(r"\n\s*body: |The full contents of the message (?:body|headers)|\[type:\S+ encoding:")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]|\x0a(?=[^ ])")
_MULTILINE = frozenset({"exception", "stack"})


def configure_logging(
    mode: Mode, level: str | int, *, stream: TextIO | None = None, on_error: OnError | None = None
) -> None:
    """Send every record of this process through the masking formatter; a second call replaces the first.

    Args:
        mode: "json" writes one object a line, "console" colours for a person, "auto" chooses by the stream.
        level: Lowest level of our records, e.g. "INFO"; talkative libraries keep higher floors.
        stream: Where lines go; standard error when left out, because standard output is for answers.
        on_error: Called with each logged exception and the record's facts, e.g. `worker.sentry.report_error`.

    Source: the user's API specification, section 7.2, read 2026-11-22.
    """
    out = stream or sys.stderr
    number = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    handler = _Handler(out)
    handler.setFormatter(_MaskingFormatter(coloured=_is_for_a_person(mode, out), on_error=on_error))
    _replace_handlers(handler, number)
    _configure_structlog(number)
    logging.captureWarnings(capture=True)
    _log_what_nobody_caught()


def _is_for_a_person(mode: Mode, stream: TextIO) -> bool:
    return mode == "console" or (mode == "auto" and stream.isatty())


def _replace_handlers(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    # No line of ours shows them, nor who called, and they cost a third of it. Source: Python 3.11, "Logging HOWTO",
    # Optimization.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - as the page says
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, floor in _FLOORS.items():
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(floor, level))


def _configure_structlog(level: int) -> None:
    structlog.configure(
        # Nothing else here: each step belongs to the formatter, so that foreign records take it too.
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _log_what_nobody_caught() -> None:
    """Replace the interpreter's own traceback printers: they would write messages unmasked."""
    log = logging.getLogger(SERVICE)

    def in_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        log.critical("uncaught_error", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            in_main(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = in_main
    threading.excepthook = in_thread


class _Handler(logging.StreamHandler[TextIO]):
    """Writes a line; when that fails, says so without the record, which the standard library would print raw."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name belongs to logging
        """Write a fixed sentence, and nothing when even that fails (a closed stream, a full disk)."""
        try:
            self.stream.write(_withheld(record, "the stream refused it") + self.terminator)
        except Exception:  # noqa: BLE001 - logging must never raise into the caller
            return


class _MaskingFormatter(structlog.stdlib.ProcessorFormatter):
    """Turns any record into one masked line."""

    def __init__(self, *, coloured: bool, on_error: OnError | None) -> None:
        ends = (_printable, _console_renderer()) if coloured else (_json,)
        steps = (_foreign_text, _Reporter(on_error), structlog.processors.format_exc_info)
        super().__init__(
            processors=[structlog.contextvars.merge_contextvars, *steps, _masked, *ends],
            foreign_pre_chain=[_stack_of_record],
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or one that says a record was withheld."""
        try:
            return super().format(record)
        except Exception as err:  # noqa: BLE001 - an unmasked record must not leave, and logging must not raise
            return _withheld(record, type(err).__name__)


class _Reporter:
    """Hands logged exceptions on before they become text."""

    def __init__(self, on_error: OnError | None) -> None:
        self._on_error = on_error

    def __call__(self, _logger: object, _method: str, record: _Record) -> _Record:
        error = _error_of(record.get("exc_info"))
        if self._on_error and error is not None and _is_worth_reporting(record["_record"]):
            facts = {key: each for key, each in record.items() if key not in _NOT_FACTS}
            with suppress(Exception):  # a reporter that fails must not cost the record
                self._on_error(error, facts)
        return record


_NOT_FACTS = frozenset({"_record", "_from_structlog", "exc_info", "stack_info", "stack"})


def _is_worth_reporting(record: logging.LogRecord) -> bool:
    # The reporter's own troubles would come back to it for ever.
    return record.levelno >= logging.ERROR and not record.name.startswith("sentry_sdk")


def _error_of(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info is True:
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _stack_of_record(_logger: object, _method: str, record: _Record) -> _Record:
    stack = record.pop("stack_info", None)
    return {**record, "stack": stack} if stack else record


def _foreign_text(_logger: object, _method: str, record: _Record) -> _Record:
    if record["_from_structlog"]:
        return record
    text = str(record["event"])
    found = _MESSAGE_BODY.search(text)
    return {**record, "event": f"{text[: found.start()].rstrip()} [message withheld]" if found else text}


def _masked(_logger: object, _method: str, record: _Record) -> _Record:
    source: logging.LogRecord = record.pop("_record")
    del record["_from_structlog"]
    masked = mask_value(record)
    if not isinstance(masked, dict):
        raise TypeError("a log record must stay a mapping")
    head = {"timestamp": _instant(source), "level": source.levelname.lower()}
    return {**head, "service": SERVICE, **masked, **head, "logger": source.name}


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(_logger: object, _method: str, record: _Record) -> str:
    # ASCII only: U+2028 and its kin end a line for some collectors.
    return json.dumps(record, ensure_ascii=True, allow_nan=True)


def _printable(_logger: object, _method: str, record: _Record) -> _Record:
    """Keep values from drawing on the terminal or from looking like another line."""
    return {key: _without_control(key, each) for key, each in record.items()}


def _without_control(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\n", "\n  | ") if key in _MULTILINE else value.replace("\n", "\\n")
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _console_renderer() -> structlog.dev.ConsoleRenderer:
    # The plain formatter: the default one prints the local variables of every frame.
    return structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)


def _withheld(record: logging.LogRecord, reason: str) -> str:
    fields = {
        "timestamp": _instant(record),
        "level": record.levelname.lower(),
        "service": SERVICE,
        "event": "log_record_withheld",
        "reason": reason,
        "logger": record.name,
    }
    return json.dumps(fields)
