"""Every record, ours or a library's, becomes one masked line."""

import io
import json
import logging
import sys
import threading
import warnings

import pytest
import structlog

from tasks.logs import configure_logging

ADDRESS = "ana.teste@exemplo.com.br"
PHONE = "+5511999990001"


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def lines(stream):
    def read():
        return [json.loads(each) for each in stream.getvalue().splitlines()]

    return read


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_has_instant_level_service_and_event(stream, lines):
    configure_logging("json", "INFO", stream=stream)

    structlog.get_logger("entrega.test").info("attempt", request_id="0193509d-7c1e-7000-8000-551199999000", wait_s=1.5)

    line = lines()[0]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "service": "entrega",
        "event": "attempt",
        "request_id": "0193509d-7c1e-7000-8000-551199999000",
        "wait_s": 1.5,
        "logger": "entrega.test",
    }


def test_the_caller_may_name_the_service(stream, lines):
    configure_logging("json", "INFO", stream=stream)

    structlog.get_logger().info("attempt", service="crm_integration")

    assert lines()[0]["service"] == "crm_integration"


def test_statement_30_our_records_are_masked_by_name_and_by_value(stream, lines):
    configure_logging("json", "INFO", stream=stream)

    structlog.get_logger().warning(f"call {PHONE}", nome="Ana Teste", detail=[ADDRESS], token="x" * 30)

    line = lines()[0]
    assert (line["event"], line["nome"], line["detail"]) == ("call +55119999****", "***", ["a***@exemplo.com.br"])
    assert line["token"] == "xxx***...***xxx"


@pytest.mark.parametrize("name", ["celery", "kombu.connection", "urllib3.pool", "sqlalchemy.engine", "flower", "other"])
def test_statement_30_records_of_libraries_take_the_same_way(name, stream, lines):
    configure_logging("json", "INFO", stream=stream)

    logging.getLogger(name).warning("for %s at %s", ADDRESS, PHONE)

    line = lines()[0]
    assert (line["event"], line["level"]) == ("for a***@exemplo.com.br at +55119999****", "warning")


@pytest.mark.parametrize("name", ["celery.worker.strategy", "celery.app.trace", "kombu", "urllib3.connectionpool"])
def test_talkative_libraries_keep_silent_even_when_debugging(name, stream):
    configure_logging("json", "DEBUG", stream=stream)

    logging.getLogger(name).info("Task received: %s", ADDRESS)

    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "text",
    [
        "Received unregistered task of type 'x'.\n\nThe full contents of the message body was:\n[[], 'Ana Teste']",
        "Can't decode message body: ValueError() [type:'x' encoding:'y' headers:{'n': 'Ana Teste'}]\n\nbody: Ana Teste",
    ],
)
def test_the_bodies_that_celery_prints_are_withheld(text, stream, lines):
    configure_logging("json", "INFO", stream=stream)

    logging.getLogger("celery.worker.consumer.consumer").error(text)

    assert "Ana" not in stream.getvalue()
    assert lines()[0]["event"].endswith("[message withheld]")


def test_statement_30_tracebacks_are_masked_and_show_no_locals(stream, lines):
    configure_logging("json", "INFO", stream=stream)
    secret = "Ana Teste da Silva"

    try:
        int(f"{ADDRESS} {PHONE}" + secret[:0])
    except ValueError:
        structlog.get_logger().exception("adapter_failed")

    exception = lines()[0]["exception"]
    assert "ValueError" in exception
    assert (ADDRESS in exception, PHONE in exception, secret in exception.replace(f'"{secret}"', "")) == (False,) * 3


def test_a_foreign_traceback_is_masked_too(stream, lines):
    configure_logging("json", "INFO", stream=stream)

    logging.getLogger("celery").error("failed", exc_info=ValueError(f"no route to {ADDRESS}"))

    assert lines()[0]["exception"] == "ValueError: no route to a***@exemplo.com.br"


def test_statement_31_line_breaks_and_escapes_stay_inside_one_record(stream, lines):
    configure_logging("json", "INFO", stream=stream)
    forged = 'x\n{"event": "forged"}\u2028y\x1b[31mred\x85'

    structlog.get_logger().info("told", reason=forged)

    assert lines()[0]["reason"] == forged
    assert ("\x1b" in stream.getvalue(), "\u2028" in stream.getvalue()) == (False, False)


def test_statement_31_a_person_reads_coloured_lines_without_drawn_values():
    terminal = _Terminal()
    configure_logging("auto", "INFO", stream=terminal)

    structlog.get_logger().info("told", reason=f"a\n2026 forged \x1b[2J {ADDRESS}")

    written = terminal.getvalue()
    assert "\x1b[1m" in written
    assert written.count("\n") == 1
    assert ("\x1b[2J" in written, ADDRESS in written) == (False, False)


def test_statement_31_a_traceback_on_the_terminal_cannot_look_like_a_line():
    terminal = _Terminal()
    configure_logging("auto", "INFO", stream=terminal)

    logging.getLogger("x").error("failed", exc_info=ValueError(f"one\n2026-11-22 forged {ADDRESS}"))

    assert "\n  | 2026-11-22 forged a***@exemplo.com.br" in terminal.getvalue()


def test_auto_writes_json_when_nobody_watches(stream, lines):
    configure_logging("auto", "INFO", stream=stream)

    structlog.get_logger().info("told")

    assert lines()[0]["event"] == "told"


class _Unprintable:
    def __str__(self):
        raise RuntimeError(ADDRESS)


def test_statement_54_a_record_that_cannot_be_masked_is_withheld(stream, lines):
    configure_logging("json", "INFO", stream=stream)

    structlog.get_logger("entrega.test").error("told", email=ADDRESS, value=_Unprintable())

    line = lines()[0]
    assert (line["event"], line["reason"], line["logger"]) == ("log_record_withheld", "RuntimeError", "entrega.test")
    assert ADDRESS not in stream.getvalue()


def test_a_badly_formatted_foreign_record_is_withheld(stream, lines, capsys):
    configure_logging("json", "INFO", stream=stream)

    logging.getLogger("other").error("two %s %s", ADDRESS)  # noqa: PLE1206 - the mistake under test

    assert lines()[0]["event"] == "log_record_withheld"
    assert ADDRESS not in stream.getvalue() + capsys.readouterr().err


def test_a_closed_stream_raises_nothing_and_prints_nothing(stream, capsys):
    configure_logging("json", "INFO", stream=stream)
    stream.close()

    structlog.get_logger().error("told", email=ADDRESS)

    assert capsys.readouterr().err == ""


def test_logged_exceptions_are_handed_on_with_their_facts(stream):
    seen = []
    configure_logging("json", "INFO", stream=stream, on_error=lambda error, facts: seen.append((error, dict(facts))))
    error = ValueError("x")

    structlog.get_logger().error("failed", request_id="r1", exc_info=error)
    structlog.get_logger().error("attempt", request_id="r2")
    structlog.get_logger().warning("failed", exc_info=error)

    assert [(each, facts["request_id"]) for each, facts in seen] == [(error, "r1")]


def test_a_reporter_that_fails_costs_no_record(stream, lines):
    configure_logging("json", "INFO", stream=stream, on_error=lambda _error, _facts: 1 / 0)

    structlog.get_logger().error("failed", exc_info=ValueError("x"))

    assert lines()[0]["event"] == "failed"


def test_a_fact_bound_to_the_context_is_on_every_line(stream, lines):
    configure_logging("json", "INFO", stream=stream)

    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logging.getLogger("celery").warning("told")

    assert lines()[0]["request_id"] == "r1"


def test_what_nobody_caught_is_a_masked_record(stream, lines):
    configure_logging("json", "INFO", stream=stream)
    error = ValueError(f"lost {PHONE}")

    sys.excepthook(ValueError, error, None)
    threading.excepthook(threading.ExceptHookArgs((ValueError, error, None, None)))

    assert [(each["event"], each["exception"]) for each in lines()] == [
        ("uncaught_error", "ValueError: lost +55119999****")
    ] * 2


def test_warnings_of_the_interpreter_are_records(stream, lines):
    configure_logging("json", "INFO", stream=stream)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn(f"old {PHONE}", UserWarning, stacklevel=1)

    assert "old +55119999****" in lines()[0]["event"]


def test_configuring_twice_writes_each_record_once(stream, lines):
    configure_logging("json", "INFO", stream=stream)
    configure_logging("json", "INFO", stream=stream)

    logging.getLogger("uvicorn.error").info("started")

    assert len(lines()) == 1
