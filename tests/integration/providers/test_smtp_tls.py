"""Who may read the line: TLS over real sockets, with a certificate authority of the test."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from uuid import UUID

import pytest
import trustme

from config.policy import Spec, load_specs
from delivery.commands import SendEmail
from delivery.errors import Permanent, Retryable
from delivery.ports import Order
from providers.smtp import Smtp
from sandbox.smtp_server import Fault, SmtpServer, Tls

_LOGIN = ("conta", "segredo-de-teste")


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    """A certificate authority that only this module trusts."""
    return trustme.CA()


@cache
def _form() -> Spec:
    return load_specs()["email"]


def _order() -> Order:
    body = {"to": "ana.teste@exemplo.com.br", "subject": "Aviso", "text": "Olá"}
    identity = UUID("01936d5c-0000-7000-8000-000000000002")
    return Order(identity, "email:default", SendEmail.model_validate(body), 1, datetime(2026, 11, 22, tzinfo=UTC))


@contextmanager
def _serving(ca: trustme.CA, tls: Tls, name: str = "localhost") -> Iterator[SmtpServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    server = SmtpServer(tls=tls, ssl_context=context, credentials=_LOGIN).start()
    try:
        yield server
    finally:
        server.stop()


def _trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def _smtp(
    server: SmtpServer, context: ssl.SSLContext | None, *, use_ssl: bool, environment: str = "production"
) -> Smtp:
    return Smtp(
        _form(),
        "localhost",
        server.port,
        *_LOGIN,
        use_ssl=use_ssl,
        from_email="avisos@exemplo.com.br",
        environment=environment,
        ssl_context=context,
    )


@pytest.mark.parametrize(
    ("tls", "verbs"),
    [
        ("implicit", ["EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]),
        ("starttls", ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]),
    ],
)
def test_a_message_goes_over_a_verified_line(ca: trustme.CA, tls: Tls, verbs: list[str]) -> None:
    with _serving(ca, tls) as server:
        _smtp(server, _trusting(ca), use_ssl=tls == "implicit").send(_order())

        assert (server.accepted, server.verbs) == (1, verbs)


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("environment", ["sandbox", "production"])
def test_an_untrusted_certificate_is_refused_before_login(ca: trustme.CA, tls: Tls, environment: str) -> None:
    with _serving(ca, tls) as server:
        smtp = _smtp(server, None, use_ssl=tls == "implicit", environment=environment)

        with pytest.raises(Permanent) as refused:
            smtp.send(_order())

    assert refused.value.code == "certificate"
    assert not {"AUTH", "MAIL"} & set(server.verbs)


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_a_certificate_for_another_host_is_refused_before_login(ca: trustme.CA, tls: Tls) -> None:
    with _serving(ca, tls, name="mail.exemplo.com.br") as server:
        smtp = _smtp(server, _trusting(ca), use_ssl=tls == "implicit")

        with pytest.raises(Permanent) as refused:
            smtp.send(_order())

    assert refused.value.code == "certificate"
    assert not {"AUTH", "MAIL"} & set(server.verbs)


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_a_server_without_starttls_gets_nothing_outside_the_sandbox(environment: str) -> None:
    server = SmtpServer(credentials=_LOGIN).start()

    with pytest.raises(Permanent) as refused:
        _smtp(server, None, use_ssl=False, environment=environment).send(_order())
    server.stop()

    assert (refused.value.code, server.verbs) == ("misconfigured", ["EHLO", "QUIT"])


def test_the_sandbox_may_speak_in_clear_to_this_machine() -> None:
    server = SmtpServer(credentials=_LOGIN).start()

    _smtp(server, None, use_ssl=False, environment="sandbox").send(_order())
    server.stop()

    assert server.accepted == 1


def test_tls_against_a_server_in_clear_is_surely_not_sent() -> None:
    server = SmtpServer(credentials=_LOGIN).start()

    with pytest.raises(Retryable) as refused:
        _smtp(server, None, use_ssl=True).send(_order())
    server.stop()

    assert (refused.value.code, server.accepted) == ("not_sent", 0)


@pytest.mark.parametrize(
    ("fault", "verdict", "code"),
    [
        (Fault("starttls", code=454, text="4.7.0 no TLS now"), Retryable, "temporary"),
        (Fault("starttls", code=501, text="5.5.4 no"), Permanent, "misconfigured"),
        (Fault("starttls", "drop"), Retryable, "not_sent"),
    ],
)
def test_a_failed_starttls_never_goes_on_in_clear(
    ca: trustme.CA, fault: Fault, verdict: type[Exception], code: str
) -> None:
    with _serving(ca, "starttls") as server:
        server.plan(fault)

        with pytest.raises(verdict) as refused:
            _smtp(server, _trusting(ca), use_ssl=False, environment="sandbox").send(_order())

    assert getattr(refused.value, "code", None) == code
    assert not {"AUTH", "MAIL"} & set(server.verbs)


def test_the_probe_says_how_the_line_is_protected(ca: trustme.CA) -> None:
    with _serving(ca, "starttls") as server:
        fact = _smtp(server, _trusting(ca), use_ssl=False).probe()

    assert fact == "login accepted, TLSv1.3"


def test_statement_14_a_context_that_verifies_nothing_is_refused() -> None:
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE

    with pytest.raises(ValueError, match="must verify"):
        Smtp(
            _form(),
            "localhost",
            465,
            *_LOGIN,
            use_ssl=True,
            from_email="avisos@exemplo.com.br",
            environment="production",
            ssl_context=blind,
        )
