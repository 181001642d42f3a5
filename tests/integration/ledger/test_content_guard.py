"""Without a key, two messages that look the same to their reader are one delivery."""

import unicodedata

import pytest

from delivery.commands import SendEmail, SendWhatsApp
from delivery.texts import alike
from tests.integration.conftest import new

SAID = "Olá, João: amanhã às 10h"


def message(text):
    return new(SendWhatsApp(to="+5511999990001", text=text))


@pytest.mark.parametrize(
    "again",
    [
        unicodedata.normalize("NFD", SAID),
        SAID + "\n",
        "\r\n" + SAID + "\r\n",
        SAID.replace(" ", "\u00a0", 1),
        SAID.replace("João", "Jo\u200bão"),
        "\ufeff" + SAID,
        SAID.replace("amanhã", "ama\u00adnhã"),
        SAID + "  ",
    ],
)
def test_the_same_words_are_the_same_message(ledger, again):
    first, second = (ledger.open([message(text)])[0] for text in (SAID, again))

    assert (first.fresh, second.fresh, second.id) == (True, False, first.id)


@pytest.mark.parametrize(
    "again", [SAID.upper(), SAID.replace("10", "11"), SAID.replace(" ", "  ", 1), "\U0001f469\u200d\U0001f680"]
)
def test_other_words_are_another_message(ledger, again):
    assert [ledger.open([message(text)])[0].fresh for text in (SAID, again)] == [True, True]


def test_line_breaks_of_another_system_make_no_second_message(ledger):
    first, second = (
        ledger.open([new(SendEmail(to="ana.teste@exemplo.com.br", subject="Oi", html=text))])[0]
        for text in ("<p>a</p>\n<p>b</p>", "<p>a</p>\r\n<p>b</p>")
    )

    assert (second.fresh, second.id) == (False, first.id)


def test_a_key_still_stands_for_the_very_same_bytes(ledger):
    first, second = (
        ledger.open([new(SendWhatsApp(to="+5511999990001", text=text, options={"key": "k1"}))])[0]
        for text in (SAID, SAID + "\n")
    )

    assert (first.fresh, second.same_body) == (True, False)


def test_what_is_no_text_is_left_as_it_is():
    value = {"a": [1, None, True, 1.5, "b "], "c": {"d": b"e"}}

    assert alike(value) == {"a": [1, None, True, 1.5, "b"], "c": {"d": b"e"}}
