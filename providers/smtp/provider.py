"""Sends e-mail through a mail server that takes submissions.

Owns the account's route and sender; the phases live in `session`, the verdicts in `replies`, the bytes in `message`.
It never retries, never looks up, and keeps nothing between two messages.
"""

import re
import ssl
import time

from config.policy import Spec
from delivery.commands import SendEmail
from delivery.errors import Ambiguous, Permanent
from delivery.mail_rules import mail_issues
from delivery.outcomes import Receipt
from delivery.ports import Order, Wire
from providers.connections import TLS_VERSIONS
from providers.smtp.message import Letter, ascii_address, compose
from providers.smtp.replies import Reply
from providers.smtp.session import Route, Session
from providers.smtp.wire import Clock

# Where servers put their own id into the final reply: Postfix, SendGrid and most others; Gmail; Amazon SES.
# Source: Postfix, Gmail and SES submission logs as quoted by their documentation, read 2026-11-22.
_QUEUE_IDS = (
    re.compile(r"queued as ([A-Za-z0-9._/+=-]{1,128})(?![^\s;,)])", re.IGNORECASE),
    re.compile(r"([A-Za-z0-9._-]{1,128}) - gsmtp", re.IGNORECASE),
    re.compile(r"^ok ([0-9A-Za-z-]{16,128})$", re.IGNORECASE),
)


class Smtp:
    """One account at one mail server; thread-safe, because every message has a conversation of its own.

    One connection per message: connecting costs a few round trips, and a reused connection goes stale at moments
    that need care. Reuse may come later, if it stays as simple as this.
    """

    def __init__(  # noqa: PLR0913 - plain values, one for each setting
        self,
        spec: Spec,
        host: str,
        port: int,
        user: str,
        password: str,
        *,
        use_ssl: bool,
        from_email: str,
        environment: str,
        ssl_context: ssl.SSLContext | None = None,
        local_hostname: str | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Keep the settings; connect to nothing.

        Args:
            spec: Gives the time-outs, the most that the server may say and the oldest TLS version.
            host: Name of the server; its certificate must carry this name.
            port: 465 with `use_ssl`, else 587.
            user: Empty when the server wants no login.
            password: Sent under TLS only, or to this machine in the sandbox.
            use_ssl: TLS from the first byte; otherwise STARTTLS is demanded.
            from_email: The account's From and envelope sender, one plain address.
            environment: "sandbox" allows a line without TLS, to this machine only.
            ssl_context: Another certificate authority than the system's; ValueError when it does not verify.
            local_hostname: Our name in EHLO; by default the domain of `from_email`.
            clock: Seconds that never jump.
        """
        operation = spec.operations[SendEmail.kind]
        times = operation.timeouts
        self._from_email = from_email
        self._mail = spec.mail
        self._clock = clock
        self._route = Route(
            host=host,
            port=port,
            user=user,
            password=password,
            use_ssl=use_ssl,
            context=_verifying(ssl_context, TLS_VERSIONS[spec.security.minimum_tls]),
            clear_to_loopback=environment == "sandbox",
            helo=local_hostname or from_email.rpartition("@")[2],
            connect_s=times.connect_s,
            read_s=times.read_s,
            final_reply_s=times.final_reply_s or times.total_s,
            total_s=times.total_s,
            max_reply_bytes=operation.max_response_bytes,
        )

    def send(self, order: Order) -> Receipt:
        """Hand one e-mail to the server, to all its recipients at once.

        Returns:
            The server's queue id, or our Message-ID when it named none; how many recipients it took and refused.
            When it took some, the others are not tried again: a second copy to those who have it would be worse.

        Raises:
            Retryable: Surely not accepted.
            Permanent: Will never work as it is.
            Ambiguous: The whole message was handed over and no answer came.
        """
        command, letter = self._written(order)
        with Session(self._route, self._clock) as session:
            session.open()
            _start(session, letter, chosen=command.from_ is not None)
            accepted = session.address(letter.recipients)
            reply = session.hand_over(letter.raw)
        return _receipt(letter, reply, accepted)

    def preview(self, order: Order) -> Wire:
        """Return the e-mail that would be handed over: the texts as they are, attachments by name and size.

        Raises:
            Permanent: Will never work as it is.
        """
        command, letter = self._written(order)
        head = {"From": letter.sender, "To": ", ".join(letter.recipients), "Message-ID": letter.message_id}
        files = [f"{each.filename} ({len(each.content)} bytes)" for each in (*command.attachments, *command.inline)]
        body = {"subject": command.subject, "text": command.text, "html": command.html, "files": files}
        return Wire("SMTP", f"{self._route.host}:{self._route.port}", head, {**body, "bytes": len(letter.raw)})

    def _written(self, order: Order) -> tuple[SendEmail, Letter]:
        command = order.command
        if not isinstance(command, SendEmail):
            raise Permanent(f"the e-mail account was asked to carry out {command.kind}: correct the account")
        self._demand_settings()
        self._check_lists(order.account, command)
        return command, compose(order, command, from_email=self._from_email)

    def _check_lists(self, account: str, command: SendEmail) -> None:
        """Refuse what is not on the allow-lists. The doors refuse it first; a list may have become shorter since."""
        if self._mail is None:
            return
        found = [name for name, _ in mail_issues(command, self._mail, account=account, from_email=self._from_email)]
        if found:
            raise Permanent(f"not on the allow-lists of the e-mail spec: {', '.join(found)}")

    def look_up(self, order: Order) -> Receipt | None:
        """Refuse: SMTP has no way to ask. A second copy carries the same Message-ID, which many receivers drop.

        Raises:
            Ambiguous: Always.
        """
        raise Ambiguous(f"SMTP offers no look-up for {order.command.kind}", code="no_look_up")

    def probe(self) -> str:
        """Connect, secure the line, log in and ask for nothing; names no sender, so nothing can be sent.

        Raises:
            ProviderError: No e-mail can be sent now; the message says what to do.
        """
        self._demand_settings()
        with Session(self._route, self._clock) as session:
            session.open()
            line = session.check()
        return f"login accepted, {line}" if self._route.user else f"greeted without login, {line}"

    def _demand_settings(self) -> None:
        if not self._route.host:
            raise Permanent("SMTP_HOST is not set: name the mail server", code="misconfigured")
        try:
            ascii_address(self._from_email)
        except ValueError as err:
            raise Permanent("FROM_EMAIL is not one plain e-mail address: correct it", code="misconfigured") from err


def _start(session: Session, letter: Letter, *, chosen: bool) -> None:
    try:
        session.start(letter.sender, len(letter.raw))
    except Permanent as err:
        if not chosen or err.code != "misconfigured":
            raise
        # The command chose a sender that this account may not use: the fault of one message, not of the account.
        message = "the mail server does not let this account send from the command's From: leave `from` out"
        raise Permanent(message, code="invalid", provider_code=err.provider_code) from err


def _receipt(letter: Letter, reply: Reply, accepted: int) -> Receipt:
    found = filter(None, (pattern.search(reply.words) for pattern in _QUEUE_IDS))
    first = next(found, None)
    counts = {"accepted": str(accepted), "refused": str(len(letter.recipients) - accepted)}
    return Receipt(first.group(1) if first else letter.message_id, counts)


def _verifying(context: ssl.SSLContext | None, minimum: ssl.TLSVersion) -> ssl.SSLContext:
    # smtplib's own default verifies neither certificate nor name, so the context is always ours.
    context = context or ssl.create_default_context()
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("the TLS context must verify the certificate and the host name")
    context.minimum_version = max(context.minimum_version, minimum)
    return context
