"""What an SMTP server's answer means: its codes turned into our verdicts in one table.

Owns the table and nothing else: opens no connection, knows no recipient, and repeats no word of the server,
because servers like to quote the address they refuse.

Source: RFC 5321 (reply codes, §4.2 and §4.5.3), RFC 3463 and RFC 5248 (enhanced codes), RFC 4954 (AUTH); provider
texts: Amazon SES "SMTP response codes", Microsoft "Exchange Online limits", Gmail "SMTP errors and codes",
SendGrid "SMTP errors"; read 2026-11-22.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable

_SUCCESS = range(200, 300)
_QUOTA_WAIT = timedelta(hours=1)


class Phase(StrEnum):
    """How far a conversation has come; decides what a lost connection means."""

    CONNECT = "connect"
    BANNER = "banner"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data command"
    BODY = "body writing"
    FINAL = "awaiting the final reply"


@dataclass(frozen=True)
class Reply:
    """One complete answer of the server; `text` may quote an address and must never leave this package."""

    code: int
    text: str

    @property
    def is_success(self) -> bool:
        """True for 2yz: the command was carried out."""
        return self.code in _SUCCESS

    @property
    def enhanced(self) -> str:
        """The enhanced status code, e.g. "5.1.1", or an empty text when the server gave none."""
        found = re.match(r"[245]\.\d{1,3}\.\d{1,3}(?=\s|$)", self.text)
        return found.group() if found else ""

    @property
    def words(self) -> str:
        """The text without its enhanced code."""
        return self.text.removeprefix(self.enhanced).strip()

    @property
    def label(self) -> str:
        """The codes alone, e.g. "550 5.1.1": safe for logs."""
        return f"{self.code} {self.enhanced}".strip()


@dataclass(frozen=True)
class _Row:
    verdict: type[ProviderError]
    code: str
    basic: str = r"\d+"
    enhanced: str = r".*"
    text: str = ""
    phases: frozenset[Phase] = frozenset(Phase)
    wait: timedelta | None = None

    def fits(self, reply: Reply, phase: Phase) -> bool:
        return (
            phase in self.phases
            and re.fullmatch(self.basic, str(reply.code)) is not None
            and re.fullmatch(self.enhanced, reply.enhanced) is not None
            and re.search(self.text, reply.text, re.IGNORECASE) is not None
        )


def _only(*phases: Phase) -> frozenset[Phase]:
    return frozenset(phases)


# The first row that fits wins, so the narrow ones stand first. Prose is read only where the codes say too little.
_TABLE: tuple[_Row, ...] = (
    # A day's quota is spent: SES says so in words, Gmail by 5.4.5. It returns within 24 h, so an hour wastes little.
    _Row(Retryable, "rate_limited", r"[45]..", text=r"daily message quota exceeded", wait=_QUOTA_WAIT),
    _Row(Retryable, "rate_limited", r"[45]..", r"5\.4\.5", wait=_QUOTA_WAIT),
    # Rates. SES sends 454 "Throttling failure", Microsoft 432 "sender thread limit exceeded", Gmail "too many login".
    _Row(Retryable, "rate_limited", r"[45]..", text=r"throttling failure|thread limit exceeded|too many login"),
    _Row(Retryable, "rate_limited", r"[45]..", r"4\.7\.28"),
    # The account itself: SendGrid credits spent, SES sender not verified or suspended.
    _Row(Permanent, "account_blocked", r"5..", text=r"maximum credits exceeded"),
    _Row(Permanent, "account_blocked", r"554", text=r"message rejected: .*(not verified|suspended|paused)"),
    # Every other 4yz, 421 and 454 at AUTH included: not taken, the same message may pass later.
    _Row(Retryable, "temporary", r"4.."),
    _Row(Permanent, "unauthorized", r"53[0458]"),
    _Row(Permanent, "unauthorized", r"5..", r"5\.7\.(8|9|11|30|139)"),
    _Row(Permanent, "misconfigured", r"5..", phases=_only(Phase.TLS, Phase.AUTH)),
    _Row(Permanent, "misconfigured", r"50[0-4]", phases=_only(Phase.BANNER)),  # no ESMTP behind this port
    _Row(Retryable, "account_blocked", r"5..", phases=_only(Phase.BANNER)),  # our IP address is refused
    # Domain authentication: DKIM, SPF, PTR, DMARC, and Microsoft's rule for bulk senders.
    _Row(Permanent, "account_blocked", r"5..", r"5\.7\.(2[0-7]|515)"),
    _Row(Retryable, "temporary", r"5..", r"5\.2\.2"),  # mailbox full: space may return within days
    # RFC 5321 §4.5.3.1.10: old servers say 552 for "too many recipients" and mean 452.
    _Row(Retryable, "temporary", r"552", r"", phases=_only(Phase.RCPT)),
    _Row(Permanent, "misconfigured", r"5..", r"5\.1\.[78]"),  # the sender's address is bad
    _Row(Permanent, "invalid", r"552", phases=_only(Phase.MAIL, Phase.DATA, Phase.FINAL)),  # too large
    _Row(Permanent, "invalid", r"5..", r"5\.3\.4|5\.2\.3"),  # too large
    _Row(Permanent, "misconfigured", r"5..", phases=_only(Phase.MAIL)),  # From is not allowed for this account
    _Row(Permanent, "undeliverable", r"5..", phases=_only(Phase.RCPT)),
    _Row(Permanent, "undeliverable", r"5..", r"5\.1\.\d+|5\.2\.1|5\.4\.[147]|5\.6\.7"),
    _Row(Permanent, "invalid", r"5.."),
)

_NEXT_STEP = {
    "rate_limited": "the account sends slower from here",
    "temporary": "try again later",
    "account_blocked": "ask the e-mail provider why this account, address or domain is refused",
    "unauthorized": "check SMTP_USER and SMTP_PASSWORD",
    "misconfigured": "check SMTP_HOST, SMTP_PORT, SMTP_USE_SSL and FROM_EMAIL",
    "undeliverable": "correct the recipient",
    "invalid": "correct the message",
}


def refusal(reply: Reply, phase: Phase) -> ProviderError:
    """Return the verdict on an answer that is not the hoped-for one.

    Args:
        reply: A complete answer, whatever its code.
        phase: The step it answers.

    Returns:
        The verdict of the first row that fits; for an answer that no SMTP server should give, Ambiguous after the
        message was handed over and Retryable "unknown" before.
    """
    row = next((each for each in _TABLE if each.fits(reply, phase)), None)
    if row is None:
        return _garbled(reply, phase)
    message = f"the mail server answered {reply.label} at {phase}: {_NEXT_STEP[row.code]}"
    return row.verdict(message, code=row.code, retry_after=row.wait, provider_code=reply.label)


def _garbled(reply: Reply, phase: Phase) -> ProviderError:
    message = f"the mail server answered {reply.code} at {phase}, which is not an answer to that step"
    if phase is Phase.FINAL:
        return Ambiguous(f"{message}: look for the Message-ID before sending again")
    return Retryable(f"{message}: is it an SMTP server?", code="unknown")


def worst(refusals: Iterable[ProviderError]) -> ProviderError:
    """Return the verdict on a message that nobody may receive: one recipient to be tried later defers them all."""
    listed = list(refusals)
    return next((each for each in listed if isinstance(each, Retryable)), listed[0])


def lost(phase: Phase) -> ProviderError:
    """Return the verdict on a connection that failed, closed or fell silent.

    A server may act only on the final dot it has read (RFC 5321 §4.1.1.4), so everything before is surely not
    accepted. Afterwards nobody can tell: the loss shows only while we read the answer (RFC 1047).
    """
    if phase is Phase.FINAL:
        return Ambiguous("the connection was lost after the whole message was handed over: look for its Message-ID")
    return Retryable(f"the connection to the mail server was lost or timed out at {phase}: nothing was sent")
