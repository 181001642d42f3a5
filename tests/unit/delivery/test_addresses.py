"""E-mail addresses: what one may look like, so that one recipient is one recipient."""

from datetime import UTC, datetime

import pytest

from delivery.commands import SendEmail, parse_command
from delivery.errors import InvalidCommand
from providers.smtp.message import ascii_address

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def refused(to):
    """Return what the door says of the field, or None when it takes it."""
    try:
        parse_command("send_email", {"to": to, "subject": "a", "text": "b"}, choices={}, now=NOON, language="en")
    except InvalidCommand as err:
        return err.issues[0].issue
    return None


@pytest.mark.parametrize(
    "address",
    [
        '"ana teste"@exemplo.com.br', '"a@b"@exemplo.com.br', "ana@exemplo.com.br>\r\nRCPT TO:<bia@exemplo.com.br",
        "ana@exemplo.com.br\nBcc: bia@exemplo.com.br", "ana@exemplo.com.br,bia@exemplo.com.br",
        "ana@exemplo.com.br bia@exemplo.com.br", "<ana@exemplo.com.br>", "Ana <ana@exemplo.com.br>",
        "joão@exemplo.com.br", "ana\x00@exemplo.com.br", "ana@[127.0.0.1]", "a" * 65 + "@exemplo.com.br",
        "a@" + ".".join(["b" * 60] * 5) + ".com", "ana@exemplo", "@exemplo.com.br", "ana@",
    ],
)  # fmt: skip
def test_statement_16_an_address_that_could_add_another_recipient_is_refused(address):
    assert refused(address)


@pytest.mark.parametrize(
    "address",
    [
        "ana@ex\u0430mple.com",  # a Cyrillic letter that reads "a"
        "ana@\u0430\u0440\u0440\u04cf\u0435.com",  # a whole word that reads "apple"
        "ana@xn--80ak6aa92e.com",  # the same, in punycode
        "ana@\u03b5xample.com",  # a Greek ε
        "ana@exam\u0251le.com",  # a Latin alpha, which is no letter with an accent
        "ana@\u4f8b\u5b50.com",
    ],
)
def test_statement_16_a_domain_with_letters_that_pass_for_others_is_refused(address):
    assert (
        refused(address)
        == "the domain has letters that may be taken for others; Latin letters only, with or without accents"
    )


@pytest.mark.parametrize("address", ["ana@exposição.com.br", "ana@xn--exposio-2wa9a.com.br", "ana@EXEMPLO.com.br"])
def test_statement_16_a_domain_with_accents_is_taken(address):
    assert refused(address) is None


def test_statement_16_full_width_letters_become_plain_ones_before_anything_is_compared():
    command = SendEmail(to="ana@\uff45xemplo.com.br", subject="a", text="b")

    assert command.to == ["ana@exemplo.com.br"]


@pytest.mark.parametrize(
    "address", ["ana@exemplo.com.br>", "a b@exemplo.com.br", "ana@exemplo.com.br\r\nDATA", '"a"@b.c']
)
def test_statement_16_the_wire_refuses_it_as_well(address):
    with pytest.raises(ValueError, match="malformed"):
        ascii_address(address)
