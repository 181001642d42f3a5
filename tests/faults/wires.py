"""Faults on the wire: what a network, a proxy or a server behind one does to a connection."""

import random
import ssl
from collections.abc import Callable
from contextlib import suppress

import trustme

from delivery.errors import LedgerUnavailable
from ledger.operating import Desk
from sandbox.proxy import Hurt
from sandbox.smtp_server import SmtpServer
from tests.faults.ground import Ground

Strike = Callable[[Ground, random.Random], str | None]
PROVIDERS, SERVERS = ("crm", "whatsapp", "email"), ("postgres", "redis")
_COMMIT = b"COMMIT\x00"  # a simple query of Postgres's protocol
_HEALED_AFTER_S = 3.0
_PATIENCE_S = 15.0
HELD_ACCOUNT = "email:default"


def wire(how: Hurt, targets: tuple[str, ...] = PROVIDERS, seconds: float = _HEALED_AFTER_S) -> Strike:
    """Return the fault that hurts the connections to one of the targets for some seconds."""

    def strike(ground: Ground, rng: random.Random) -> str:
        target = rng.choice(targets)
        proxy = ground.system.proxies[target]
        proxy.hurt(how)
        ground.later(seconds, proxy.heal)
        return target

    return strike


def cut_at_commit(*, carried_out: bool) -> Strike:
    """Return the fault that ends database connections when they commit, before or after Postgres learns of it."""
    how = Hurt("cut_after" if carried_out else "cut_before", pattern=_COMMIT)
    return wire(how, ("postgres",), seconds=1.5)


def show_wrong_certificate(ground: Ground, _: random.Random) -> str | None:
    """Let another server, with a certificate that nobody trusts, answer for the mail server; then be the operator.

    The account is held and its deliveries with it. The operator ends the fault and opens the account again.
    """
    proxy = ground.system.proxies["email"]
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mail.somebody-else.example").configure_cert(context)
    impostor = SmtpServer(tls="starttls", ssl_context=context).start()
    proxy.hurt(Hurt("impostor", port=impostor.port))

    patience = [_PATIENCE_S]

    def operate() -> None:
        patience[0] -= 1
        if patience[0] > 0 and not _held_reason(ground):
            ground.later(1.0, operate)
            return
        proxy.heal()
        ground.impostor_mails += impostor.data_complete
        impostor.stop()
        # A send under way may still meet the impostor's certificate and hold the account again.
        ground.later(_HEALED_AFTER_S, lambda: resume(ground))

    ground.later(1.0, operate)
    return "email"


def resume(ground: Ground) -> None:
    """Open the account again as an operator does, when a wrong certificate has held it."""
    reason = _held_reason(ground)
    if reason:
        ground.held.append(reason)
        hints = Desk(ground.books, actor="faults").resume(HELD_ACCOUNT, reason="the right certificate is back")
        ground.app.hints.send(hints)


def _held_reason(ground: Ground) -> str | None:
    with suppress(LedgerUnavailable):
        held = "SELECT held_reason FROM accounts WHERE name = :name AND held_at IS NOT NULL"
        return next((str(row.held_reason) for row in ground.sql(held, name=HELD_ACCOUNT)), None)
    return None
