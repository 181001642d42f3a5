"""Every way a conversation with a mail server can end, over real sockets, with the effects counted."""

import base64
import socket
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from config.policy import Spec, load_specs
from delivery.commands import CreateLead, SendEmail
from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from delivery.outcomes import Receipt
from delivery.ports import Order
from providers.smtp import Smtp
from sandbox.smtp_server import Effect, Fault, SmtpServer
from tests.unit.providers.conformance import Case, Refusal, Staged, assert_conforms, assert_repeats_itself

_ID = UUID("01936d5c-0000-7000-8000-000000000001")
_MESSAGE_ID = f"<{_ID}@exemplo.com.br>"
_LOGIN = ("conta", "segredo-de-teste")
_PRIVATE = ("ana.teste", "Inscrição", "Até já", "segredo-de-teste")
# More than the two sockets can hold together, so that the writer meets the loss.
_LARGE = base64.b64encode(b"\0" * 5_000_000).decode()


@cache
def _form() -> Spec:
    return load_specs()["email"]


@cache
def _context() -> ssl.SSLContext:
    # Made once: reading the system's certificates takes longer than a whole conversation with the stand-in.
    return ssl.create_default_context()


def _spec(**seconds: float) -> Spec:
    spec = _form()
    operation = spec.operations["send_email"]
    short = {"connect_s": 5.0, "read_s": 5.0, "final_reply_s": 5.0, "total_s": 10.0, **seconds}
    quick = operation.model_copy(update={"timeouts": operation.timeouts.model_copy(update=short)})
    return spec.model_copy(update={"operations": {"send_email": quick}})


def _order(*, attempt: int = 1, **body: Any) -> Order:
    wanted = {"to": "ana.teste@exemplo.com.br", "subject": "Inscrição", "text": "Olá\n.\nAté já", **body}
    accepted_at = datetime(2026, 11, 22, 12, tzinfo=UTC)
    return Order(_ID, "email:default", SendEmail.model_validate(wanted), attempt, accepted_at)


def _smtp(server: SmtpServer, *, login: tuple[str, str] = ("", ""), **seconds: float) -> Smtp:
    return Smtp(
        _spec(**seconds),
        server.host,
        server.port,
        *login,
        use_ssl=False,
        from_email="avisos@exemplo.com.br",
        environment="sandbox",
        ssl_context=_context(),
    )


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A stand-in without TLS that wants no login."""
    running = SmtpServer().start()
    yield running
    running.stop()


@pytest.fixture
def guarded() -> Iterator[SmtpServer]:
    """A stand-in without TLS that wants a login."""
    running = SmtpServer(credentials=_LOGIN).start()
    yield running
    running.stop()


def _failed(act: Callable[[], object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        act()
    # What a log would show of it, causes included, names nobody and no password.
    told = "".join(traceback.format_exception(caught.value))
    assert [each for each in _PRIVATE if each in told] == []
    return caught.value


_TABLE = [
    ("banner 421", Fault("banner", code=421, text="4.3.2 busy"), Retryable, "temporary", 0),
    ("banner 450", Fault("banner", code=450), Retryable, "temporary", 0),
    ("banner 554", Fault("banner", code=554, text="5.7.1 refused"), Retryable, "account_blocked", 0),
    ("banner dropped", Fault("banner", "drop"), Retryable, "not_sent", 0),
    ("EHLO dropped", Fault("ehlo", "drop"), Retryable, "not_sent", 0),
    ("EHLO 502", Fault("ehlo", code=502, text="5.5.1 no"), Permanent, "misconfigured", 0),
    ("EHLO without end", Fault("ehlo", code=250, text="\n".join(["X-NOISE"] * 9_000)), Retryable, "not_sent", 0),
    ("AUTH 535", Fault("auth", code=535, text="5.7.8 bad"), Permanent, "unauthorized", 0),
    ("AUTH 534", Fault("auth", code=534, text="5.7.9 weak"), Permanent, "unauthorized", 0),
    ("AUTH 530", Fault("auth", code=530, text="5.7.0 first"), Permanent, "unauthorized", 0),
    ("AUTH 538", Fault("auth", code=538, text="5.7.11 encrypt"), Permanent, "unauthorized", 0),
    ("AUTH 454", Fault("auth", code=454, text="4.7.0 later"), Retryable, "temporary", 0),
    ("AUTH dropped", Fault("auth", "drop"), Retryable, "not_sent", 0),
    ("MAIL 421", Fault("mail", code=421), Retryable, "temporary", 0),
    ("MAIL 451", Fault("mail", code=451), Retryable, "temporary", 0),
    ("MAIL 452", Fault("mail", code=452, text="4.3.1 full"), Retryable, "temporary", 0),
    ("MAIL 550", Fault("mail", code=550, text="5.7.1 not you"), Permanent, "misconfigured", 0),
    ("MAIL 501", Fault("mail", code=501, text="5.1.7 sender"), Permanent, "misconfigured", 0),
    ("MAIL 552", Fault("mail", code=552, text="5.3.4 big"), Permanent, "invalid", 0),
    ("MAIL dropped", Fault("mail", "drop"), Retryable, "not_sent", 0),
    (
        "RCPT 550",
        Fault("rcpt", code=550, text="5.1.1 <ana.teste@exemplo.com.br> unknown"),
        Permanent,
        "undeliverable",
        0,
    ),
    ("RCPT 451", Fault("rcpt", code=451, text="4.7.1 greylisted"), Retryable, "temporary", 0),
    ("RCPT 421", Fault("rcpt", code=421), Retryable, "temporary", 0),
    ("RCPT dropped", Fault("rcpt", "drop"), Retryable, "not_sent", 0),
    ("DATA 451", Fault("data", code=451), Retryable, "temporary", 0),
    ("DATA 554", Fault("data", code=554, text="5.5.1 no"), Permanent, "invalid", 0),
    ("DATA dropped", Fault("data", "drop"), Retryable, "not_sent", 0),
    # Everything was handed to the system before the peer died: nobody can tell.
    ("short body cut", Fault("body", "drop"), Ambiguous, "answer_lost", 0),
    ("dot 451", Fault("after_dot", code=451), Retryable, "temporary", 0),
    ("dot 421", Fault("after_dot", code=421), Retryable, "temporary", 0),
    (
        "dot 454",
        Fault("after_dot", code=454, text="Throttling failure: Maximum sending rate exceeded"),
        Retryable,
        "rate_limited",
        0,
    ),
    ("dot 550 quota", Fault("after_dot", code=550, text="5.4.5 daily"), Retryable, "rate_limited", 0),
    ("dot 550 policy", Fault("after_dot", code=550, text="5.7.1 spam"), Permanent, "invalid", 0),
    ("dot 550 DMARC", Fault("after_dot", code=550, text="5.7.26 dmarc"), Permanent, "account_blocked", 0),
    ("dot dropped", Fault("after_dot", "drop"), Ambiguous, "answer_lost", 0),
    ("dot accepted, dropped", Fault("after_dot", "accept_then_drop"), Ambiguous, "answer_lost", 1),
]


@pytest.mark.parametrize(
    ("fault", "verdict", "code", "effects"), [each[1:] for each in _TABLE], ids=[each[0] for each in _TABLE]
)
def test_each_failure_has_its_verdict_and_its_count_of_effects(
    guarded: SmtpServer, fault: Fault, verdict: type[ProviderError], code: str, effects: int
) -> None:
    guarded.plan(fault)

    failure = _failed(lambda: _smtp(guarded, login=_LOGIN).send(_order()))

    assert (type(failure), failure.code, guarded.accepted) == (verdict, code, effects)


_WAITS = {"dot 550 quota": timedelta(hours=1)}


def _staged(server: SmtpServer) -> Staged:
    return Staged(_smtp(server, login=_LOGIN), lambda: [each.raw for each in server.effects])


@pytest.mark.parametrize(
    "case",
    [
        *(Case(name, fault, Refusal(verdict, code, _WAITS.get(name)), n) for name, fault, verdict, code, n in _TABLE),
        Case("accepted", None, Receipt("4X2A", {"accepted": "1", "refused": "0"})),
    ],
    ids=str,
)
def test_what_every_provider_must_keep_is_kept(guarded: SmtpServer, case: Case[Fault | None]) -> None:
    guarded.plan(case.wire or Fault("after_dot", code=250, text="2.0.0 Ok: queued as 4X2A"))

    assert_conforms(case, _staged(guarded), _order(), secrets=_PRIVATE)


def test_a_second_attempt_sends_the_same_bytes_as_every_providers_does(guarded: SmtpServer) -> None:
    guarded.plan(Fault("after_dot", "accept_then_drop"))

    assert_repeats_itself(_staged(guarded), _order())


@pytest.mark.parametrize(
    ("fault", "verdict", "code", "effects"),
    [
        (Fault("banner", "silent", seconds=5), Retryable, "not_sent", 0),
        (Fault("mail", "silent", seconds=5), Retryable, "not_sent", 0),
        (Fault("after_dot", "silent", seconds=5), Ambiguous, "answer_lost", 0),
        (Fault("after_dot", "accept_then_hang", seconds=5), Ambiguous, "answer_lost", 1),
    ],
)
def test_a_silent_server_is_left_at_the_time_out_of_its_phase(
    server: SmtpServer, fault: Fault, verdict: type[ProviderError], code: str, effects: int
) -> None:
    server.plan(fault)

    failure = _failed(lambda: _smtp(server, read_s=0.4, final_reply_s=0.4).send(_order()))

    assert (type(failure), failure.code, server.accepted) == (verdict, code, effects)


def test_the_final_reply_may_take_longer_than_any_other(server: SmtpServer) -> None:
    server.plan(Fault("after_dot", "drip", seconds=0.01))

    receipt = _smtp(server, read_s=0.25).send(_order())

    assert receipt.detail["accepted"] == "1"


def test_an_accepted_message_gives_the_servers_queue_id(guarded: SmtpServer) -> None:
    receipt = _smtp(guarded, login=_LOGIN).send(_order())

    effect = guarded.effects[0]
    assert (receipt.id, receipt.detail) == ("000000000001", {"accepted": "1", "refused": "0"})
    assert (effect.message_id, effect.delivery_id) == (_MESSAGE_ID, str(_ID))
    assert (effect.mail_from, effect.rcpt_to) == ("avisos@exemplo.com.br", ("ana.teste@exemplo.com.br",))
    assert guarded.verbs == ["EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2.0.0 OK  1700000000 a1-20020b.12 - gsmtp", "a1-20020b.12"),
        ("Ok 0100018f-aaaa-bbbb-000000", "0100018f-aaaa-bbbb-000000"),
        ("2.6.0 thank you", _MESSAGE_ID),
        ("2.0.0 queued as ana.teste@exemplo.com.br", _MESSAGE_ID),
    ],
)
def test_the_receipt_names_the_queue_id_or_our_message_id(server: SmtpServer, text: str, wanted: str) -> None:
    server.plan(Fault("after_dot", code=250, text=text))

    receipt = _smtp(server).send(_order())

    assert receipt.id == wanted


def test_a_connection_lost_after_the_250_is_a_success(server: SmtpServer) -> None:
    server.plan(Fault("after_dot", "drop_after_250"))

    receipt = _smtp(server).send(_order())

    assert (receipt.detail["accepted"], server.accepted) == ("1", 1)


def test_a_connection_lost_within_a_large_body_is_surely_not_accepted(server: SmtpServer) -> None:
    server.plan(Fault("body", "drop"))
    large = [{"filename": "a.pdf", "content": _LARGE}]

    failure = _failed(lambda: _smtp(server).send(_order(attachments=large)))

    assert (type(failure), failure.code, server.data_complete) == (Retryable, "not_sent", 0)


def test_a_refused_connection_is_surely_not_sent() -> None:
    closed = SmtpServer()
    closed.start().stop()

    failure = _failed(lambda: _smtp(closed).send(_order()))

    assert (type(failure), failure.code) == (Retryable, "not_sent")


def test_a_server_that_speaks_no_smtp_is_not_sent_anything(server: SmtpServer) -> None:
    server.plan(Fault("banner", code=200, text="HTTP/1.1"))

    failure = _failed(lambda: _smtp(server).send(_order()))

    assert (type(failure), failure.code, server.accepted) == (Retryable, "unknown", 0)


def test_a_message_over_the_advertised_size_is_refused_before_mail() -> None:
    small = SmtpServer(max_size=200).start()

    failure = _failed(lambda: _smtp(small).send(_order()))
    small.stop()

    assert (type(failure), failure.code, small.verbs) == (Permanent, "invalid", ["EHLO", "QUIT"])


def test_a_wrong_password_is_tried_once(guarded: SmtpServer) -> None:
    failure = _failed(lambda: _smtp(guarded, login=("conta", "errada")).send(_order()))

    assert (failure.code, guarded.verbs.count("AUTH")) == ("unauthorized", 1)
    assert "errada" not in repr(failure)


@pytest.mark.parametrize(
    ("mechanisms", "password", "code"), [("LOGIN", "errada", "unauthorized"), ("CRAM-MD5", "", "misconfigured")]
)
def test_a_login_that_cannot_work_holds_the_account(mechanisms: str, password: str, code: str) -> None:
    server = SmtpServer(credentials=_LOGIN, mechanisms=mechanisms).start()

    failure = _failed(lambda: _smtp(server, login=("conta", password)).send(_order()))
    server.stop()

    assert (type(failure), failure.code, "MAIL" in server.verbs) == (Permanent, code, False)


def test_a_server_that_knows_only_the_old_login_is_served() -> None:
    server = SmtpServer(credentials=_LOGIN, mechanisms="LOGIN").start()

    _smtp(server, login=_LOGIN).send(_order())
    server.stop()

    assert server.accepted == 1


@pytest.mark.parametrize(
    ("host", "sender"),
    [
        ("", "avisos@exemplo.com.br"),
        ("a" * 70, "avisos@exemplo.com.br"),
        ("127.0.0.1", "Avisos <avisos@exemplo.com.br>"),
    ],
)
def test_a_setting_that_cannot_be_right_holds_the_account(host: str, sender: str) -> None:
    smtp = Smtp(
        _form(), host, 1, "", "", use_ssl=False, from_email=sender, environment="sandbox", ssl_context=_context()
    )

    failure = _failed(smtp.probe)

    assert (type(failure), failure.code) == (Permanent, "misconfigured")


def test_a_sender_chosen_by_the_command_is_the_fault_of_the_command(server: SmtpServer) -> None:
    server.plan(Fault("mail", code=550, text="5.7.1 not you"))

    failure = _failed(lambda: _smtp(server).send(_order(from_="outro@exemplo.com.br")))

    assert (type(failure), failure.code, failure.provider_code) == (Permanent, "invalid", "550 5.7.1")


def test_a_refused_recipient_does_not_stop_the_others(server: SmtpServer) -> None:
    server.plan(Fault("rcpt", code=550, text="5.1.1 unknown", suffix="@vazio.exemplo"))
    order = _order(cc="caio.teste@vazio.exemplo", bcc="oculto.teste@exemplo.com.br")

    receipt = _smtp(server).send(order)

    assert receipt.detail == {"accepted": "2", "refused": "1"}
    assert server.effects[0].rcpt_to == ("ana.teste@exemplo.com.br", "oculto.teste@exemplo.com.br")


def test_one_recipient_to_be_tried_later_defers_when_nobody_was_taken(server: SmtpServer) -> None:
    server.plan(Fault("rcpt", code=550, text="5.1.1 unknown", suffix="@vazio.exemplo"), Fault("rcpt", code=451))

    failure = _failed(lambda: _smtp(server).send(_order(cc="caio.teste@vazio.exemplo")))

    assert (type(failure), failure.code, server.accepted) == (Retryable, "temporary", 0)


def test_a_421_to_a_later_recipient_sends_to_nobody(server: SmtpServer) -> None:
    server.plan(Fault("rcpt", code=421, suffix="@vazio.exemplo"))

    failure = _failed(lambda: _smtp(server).send(_order(cc="caio.teste@vazio.exemplo")))

    assert (type(failure), server.accepted) == (Retryable, 0)


def test_two_attempts_of_one_delivery_are_the_same_bytes(server: SmtpServer) -> None:
    server.plan(Fault("after_dot", "accept_then_drop"))
    smtp = _smtp(server)

    _failed(lambda: smtp.send(_order(attempt=1, html="<p>Olá</p>")))
    smtp.send(_order(attempt=2, html="<p>Olá</p>"))

    assert server.effects[0].raw == server.effects[1].raw
    assert {each.message_id for each in server.effects} == {_MESSAGE_ID}


@pytest.mark.parametrize("text", [".", "a\r\n.\r\nMAIL FROM:<x@y.z>\r\n", "a\n.\nb", "..\n...\n.a", "a\r.\r"])
def test_statement_17_dots_in_a_body_arrive_as_one_message_with_its_dots(server: SmtpServer, text: str) -> None:
    order = _order()
    # model_copy checks nothing: the writer must hold without the doors in front of it.
    _smtp(server).send(replace(order, command=order.command.model_copy(update={"text": text})))

    body = server.effects[0].raw.partition(b"\r\n\r\n")[2]
    assert (server.accepted, server.verbs.count("MAIL")) == (1, 1)
    assert body == b"".join(line + b"\r\n" for line in text.encode().splitlines())


@pytest.mark.parametrize(
    ("phase", "verdict"),
    [("banner", Retryable), ("ehlo", Retryable), ("mail", Retryable), ("after_dot", Ambiguous)],
)
def test_a_server_that_drips_is_left_at_the_total_deadline(
    server: SmtpServer, phase: Any, verdict: type[ProviderError]
) -> None:
    server.plan(Fault(phase, "drip", seconds=0.3))
    began = time.monotonic()

    failure = _failed(lambda: _smtp(server, total_s=1).send(_order()))

    assert type(failure) is verdict
    assert time.monotonic() - began < 4.5  # the other time-outs are 5 s and more


def test_a_peer_that_reads_nothing_is_left_at_the_step_time_out() -> None:
    deaf = socket.create_server(("127.0.0.1", 0))
    deaf_server = SmtpServer()
    deaf_server.port = deaf.getsockname()[1]
    began = time.monotonic()

    failure = _failed(lambda: _smtp(deaf_server, read_s=0.3).send(_order()))
    deaf.close()
    deaf_server.start().stop()

    assert (type(failure), failure.code) == (Retryable, "not_sent")
    assert time.monotonic() - began < 4.5  # the other time-outs are 5 s and more


def test_the_probe_logs_in_and_names_no_sender(guarded: SmtpServer) -> None:
    fact = _smtp(guarded, login=_LOGIN).probe()

    assert fact == "login accepted, clear text on this machine"
    assert guarded.verbs == ["EHLO", "AUTH", "NOOP", "QUIT"]


def test_the_probe_speaks_the_same_verdicts(guarded: SmtpServer) -> None:
    failure = _failed(_smtp(guarded, login=("conta", "errada")).probe)

    assert (type(failure), failure.code) == (Permanent, "unauthorized")


def test_another_kind_of_command_is_refused(server: SmtpServer) -> None:
    lead = CreateLead.model_validate(
        {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
    )
    order = Order(_ID, "email:default", lead, 1, datetime(2026, 11, 22, tzinfo=UTC))

    failure = _failed(lambda: _smtp(server).send(order))

    assert (type(failure), server.verbs) == (Permanent, [])


def test_the_stand_in_shares_no_code_with_the_provider() -> None:
    sources = [Path("sandbox/smtp_server.py"), Path("sandbox/smtp_faults.py")]

    assert not [
        each for each in sources if "import providers" in each.read_text() or "from providers" in each.read_text()
    ]


def test_a_fault_is_read_from_json_and_used_as_often_as_it_says(server: SmtpServer) -> None:
    server.plan(Fault.from_json({"phase": "mail", "code": 451, "times": 2}))
    smtp = _smtp(server)

    first, second = _failed(lambda: smtp.send(_order())), _failed(lambda: smtp.send(_order()))
    smtp.send(_order())

    assert (first.code, second.code, server.accepted) == ("temporary", "temporary", 1)


@pytest.mark.parametrize("body", [{}, {"phase": "noon"}, {"phase": "mail"}, {"phase": "mail", "code": 451, "extra": 1}])
def test_a_fault_with_wrong_fields_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"wanted the fields|unknown phase|needs a code"):
        Fault.from_json(body)


def test_an_effect_travels_as_json_without_the_message() -> None:
    effect = Effect("<1@a>", "1", "a@b.c", ("d@e.f",), 3, datetime(2026, 11, 22, tzinfo=UTC), b"abc")

    facts = effect.as_json()

    assert facts == {
        "message_id": "<1@a>",
        "delivery_id": "1",
        "mail_from": "a@b.c",
        "rcpt_to": ["d@e.f"],
        "size": 3,
        "at": "2026-11-22T00:00:00+00:00",
    }
