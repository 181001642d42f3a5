"""Which verdict an answer of a mail server gets: the table of the facts, row by row."""

from datetime import timedelta

import pytest

from delivery.errors import Ambiguous, Permanent, ProviderError, Retryable
from providers.smtp.replies import Phase, Reply, lost, refusal, worst


@pytest.mark.parametrize(
    ("phase", "code", "text", "verdict", "word"),
    [
        (Phase.BANNER, 421, "4.3.2 busy", Retryable, "temporary"),
        (Phase.BANNER, 450, "later", Retryable, "temporary"),
        (Phase.BANNER, 554, "no service for you", Retryable, "account_blocked"),
        (Phase.BANNER, 502, "EHLO? what?", Permanent, "misconfigured"),
        (Phase.TLS, 454, "4.7.0 TLS not available", Retryable, "temporary"),
        (Phase.TLS, 501, "syntax", Permanent, "misconfigured"),
        (Phase.AUTH, 535, "5.7.8 bad credentials", Permanent, "unauthorized"),
        (Phase.AUTH, 535, "5.7.139 basic authentication is disabled", Permanent, "unauthorized"),
        (Phase.AUTH, 534, "5.7.9 application password required", Permanent, "unauthorized"),
        (Phase.AUTH, 538, "5.7.11 encryption required", Permanent, "unauthorized"),
        (Phase.AUTH, 454, "4.7.0 temporary failure", Retryable, "temporary"),
        (Phase.AUTH, 454, "4.7.0 Too many login attempts", Retryable, "rate_limited"),
        (Phase.AUTH, 504, "5.5.4 mechanism not known", Permanent, "misconfigured"),
        (Phase.MAIL, 530, "5.7.0 authentication required", Permanent, "unauthorized"),
        (Phase.MAIL, 550, "5.7.30 Basic authentication is not supported", Permanent, "unauthorized"),
        (Phase.MAIL, 550, "5.7.1 From not allowed", Permanent, "misconfigured"),
        (Phase.MAIL, 553, "sender", Permanent, "misconfigured"),
        (Phase.MAIL, 552, "5.3.4 too big", Permanent, "invalid"),
        (Phase.MAIL, 550, "5.4.5 daily quota", Retryable, "rate_limited"),
        (Phase.MAIL, 432, "4.3.2 ClientSubmit; sender thread limit exceeded", Retryable, "rate_limited"),
        (Phase.RCPT, 550, "5.1.1 no such user", Permanent, "undeliverable"),
        (Phase.RCPT, 550, "no such user", Permanent, "undeliverable"),
        (Phase.RCPT, 556, "5.1.10 null MX", Permanent, "undeliverable"),
        (Phase.RCPT, 554, "5.7.1 relay access denied", Permanent, "undeliverable"),
        (Phase.RCPT, 452, "4.5.3 too many recipients", Retryable, "temporary"),
        (Phase.RCPT, 552, "too many recipients", Retryable, "temporary"),
        (Phase.RCPT, 552, "5.2.2 mailbox full", Retryable, "temporary"),
        (Phase.RCPT, 450, "4.2.1 greylisted", Retryable, "temporary"),
        (Phase.RCPT, 550, "5.1.8 bad sender", Permanent, "misconfigured"),
        (Phase.DATA, 554, "no valid recipients", Permanent, "invalid"),
        (Phase.FINAL, 454, "Throttling failure: Daily message quota exceeded", Retryable, "rate_limited"),
        (Phase.FINAL, 421, "4.7.28 unusual rate", Retryable, "rate_limited"),
        (Phase.FINAL, 450, "4.7.1 policy", Retryable, "temporary"),
        (Phase.FINAL, 554, "Message rejected: Email address is not verified.", Permanent, "account_blocked"),
        (Phase.FINAL, 550, "Unauthenticated senders: maximum credits exceeded", Permanent, "account_blocked"),
        (Phase.FINAL, 550, "5.7.26 DMARC", Permanent, "account_blocked"),
        (Phase.FINAL, 550, "5.7.515 bulk sender", Permanent, "account_blocked"),
        (Phase.FINAL, 550, "5.7.1 looks like spam", Permanent, "invalid"),
        (Phase.FINAL, 552, "too big", Permanent, "invalid"),
        (Phase.FINAL, 550, "5.1.1 no such user", Permanent, "undeliverable"),
        (Phase.FINAL, 354, "go on", Ambiguous, "answer_lost"),
        (Phase.FINAL, -1, "", Ambiguous, "answer_lost"),
        (Phase.MAIL, -1, "", Retryable, "unknown"),
        (Phase.BANNER, 200, "HTTP/1.1", Retryable, "unknown"),
    ],
)
def test_an_answer_has_one_verdict(phase: Phase, code: int, text: str, verdict: type[ProviderError], word: str) -> None:
    found = refusal(Reply(code, text), phase)

    assert (type(found), found.code) == (verdict, word)


@pytest.mark.parametrize(
    "reply", [Reply(550, "5.4.5 quota"), Reply(454, "Throttling failure: Daily message quota exceeded")]
)
def test_a_spent_daily_quota_is_asked_again_after_an_hour(reply: Reply) -> None:
    found = refusal(reply, Phase.FINAL)

    assert found.retry_after == timedelta(hours=1)


def test_a_verdict_repeats_no_word_of_the_server() -> None:
    found = refusal(Reply(550, "5.1.1 <ana.teste@exemplo.com.br>: unknown"), Phase.RCPT)

    assert found.provider_code == "550 5.1.1"
    assert "ana" not in str(found)


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.FINAL])
def test_a_loss_before_the_last_byte_is_surely_not_accepted(phase: Phase) -> None:
    found = lost(phase)

    assert (type(found), found.code) == (Retryable, "not_sent")


def test_a_loss_after_the_last_byte_is_uncertain() -> None:
    found = lost(Phase.FINAL)

    assert (type(found), found.code) == (Ambiguous, "answer_lost")


def test_one_recipient_to_be_tried_later_defers_a_message_nobody_may_receive() -> None:
    never, later = Permanent("no", code="undeliverable"), Retryable("later", code="temporary")

    assert worst([never, later, never]) is later
    assert worst([never]) is never
