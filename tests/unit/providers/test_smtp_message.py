"""The bytes of an e-mail: stable, complete, and holding no header that we did not write."""

from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage, MIMEPart
from email.policy import default
from typing import Any
from uuid import UUID

import pytest

from delivery.commands import SendEmail
from delivery.errors import Permanent
from delivery.ports import Order
from providers.smtp.message import Letter, check, compose
from providers.smtp.plain_text import plain_text

_ID = UUID("01936d5c-0000-7000-8000-000000000001")
_ACCEPTED_AT = datetime(2026, 11, 22, 12, 0, 30, 999, tzinfo=UTC)
_TRICK = "=?utf-8?q?a=0D=0ABcc:_x=40y?="

_WANTED = """\
Message-ID: <01936d5c-0000-7000-8000-000000000001@exemplo.com.br>
Date: Sun, 22 Nov 2026 12:00:30 +0000
From: avisos@exemplo.com.br
To: ana.teste@exemplo.com.br
Subject: =?utf-8?b?T2zDoSwgQW5hIPCfjok=?=
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: multipart/alternative;
 boundary="=_01936d5c000070008000000000000001_0"

--=_01936d5c000070008000000000000001_0
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: quoted-printable

Sua inscri=C3=A7=C3=A3o est=C3=A1 conclu=C3=ADda. Obrigado por escolher a n=
ossa empresa!

--=_01936d5c000070008000000000000001_0
Content-Type: text/html; charset="utf-8"
Content-Transfer-Encoding: quoted-printable
MIME-Version: 1.0

<p class=3D"a">Sua inscri=C3=A7=C3=A3o est=C3=A1 conclu=C3=ADda.</p>

--=_01936d5c000070008000000000000001_0--
"""


def _command(**changes: Any) -> SendEmail:
    body = {"to": "ana.teste@exemplo.com.br", "subject": "Aviso", "text": "Olá"}
    # model_copy checks nothing: the guard must hold without the doors in front of it.
    return SendEmail.model_validate(body).model_copy(update=changes)


def _parsed(**body: Any) -> SendEmail:
    return SendEmail.model_validate({"to": "ana.teste@exemplo.com.br", "subject": "Aviso", **body})


def _compose(command: SendEmail, *, attempt: int = 1) -> Letter:
    order = Order(_ID, "email:default", command, attempt, _ACCEPTED_AT)
    return compose(order, command, from_email="avisos@exemplo.com.br")


def _read(letter: Letter) -> EmailMessage:
    read = message_from_bytes(letter.raw, policy=default)
    assert isinstance(read, EmailMessage)
    return read


def _tree(part: MIMEPart) -> str:
    inner = ", ".join(_tree(each) for each in part.iter_parts()) if part.is_multipart() else ""
    return part.get_content_type() + (f"({inner})" if inner else "")


def test_a_portuguese_message_has_exactly_these_bytes() -> None:
    text = "Sua inscrição está concluída. Obrigado por escolher a nossa empresa!"
    html = '<p class="a">Sua inscrição está concluída.</p>'

    letter = _compose(_parsed(subject="Olá, Ana 🎉", text=text, html=html))

    assert letter.raw.decode("ascii") == _WANTED.replace("\n", "\r\n")


def test_every_attempt_writes_the_same_bytes() -> None:
    file = {"filename": "nota.pdf", "content_type": "application/pdf", "content": "JVBERg=="}
    command = _parsed(text="a", html="<b>a</b>", attachments=[file], inline=[{**file, "cid": "logo"}])

    first, second = _compose(command, attempt=1), _compose(command, attempt=7)

    assert first == second


def test_a_decomposed_accent_is_written_composed() -> None:
    letter = _compose(_parsed(subject="Promoc\u0327a\u0303o", text="ac\u0327a\u0303o"))

    assert _read(letter)["Subject"] == "Promoção"
    assert b"a=C3=A7=C3=A3o" in letter.raw


def test_everybody_is_in_the_envelope_once_and_bcc_stands_in_no_byte() -> None:
    command = _parsed(
        to=["ana.teste@exemplo.com.br", "Ana.Teste@exemplo.com.br"],
        cc="caio.teste@exemplo.com.br",
        bcc=["oculto.teste@exemplo.com.br", "caio.teste@exemplo.com.br"],
        text="a",
    )

    letter = _compose(command)

    assert letter.recipients == ("ana.teste@exemplo.com.br", "caio.teste@exemplo.com.br", "oculto.teste@exemplo.com.br")
    assert b"oculto" not in letter.raw
    assert b"bcc" not in letter.raw.lower()


def test_a_domain_with_accents_travels_in_punycode() -> None:
    letter = _compose(_parsed(to="ana.teste@exposição.com.br", text="a"))

    assert letter.recipients == ("ana.teste@xn--exposio-2wa9a.com.br",)


def test_the_senders_own_address_wins_and_names_the_message() -> None:
    letter = _compose(_parsed(text="a", **{"from": "vendas@outra.com.br"}))

    assert letter.sender == "vendas@outra.com.br"
    assert letter.message_id == f"<{_ID}@outra.com.br>"


def test_one_click_unsubscribe_has_both_headers() -> None:
    read = _read(_compose(_parsed(text="a", unsubscribe_url="https://exemplo.com.br/u/TOKEN?a=1,2")))

    assert read["List-Unsubscribe"] == "<https://exemplo.com.br/u/TOKEN?a=1,2>"
    assert read["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_a_plain_http_unsubscribe_link_promises_no_one_click() -> None:
    read = _read(_compose(_parsed(text="a", unsubscribe_url="http://exemplo.com.br/u/TOKEN")))

    assert read["List-Unsubscribe-Post"] is None


def test_extension_headers_and_reply_to_are_written() -> None:
    command = _parsed(
        text="a", reply_to="duvidas@exemplo.com.br", headers={"X-Campanha": "ação 7", "Feedback-ID": "a:b"}
    )

    read = _read(_compose(command))

    assert (read["Reply-To"], read["X-Campanha"], read["Feedback-ID"]) == ("duvidas@exemplo.com.br", "ação 7", "a:b")


_FILE = {"filename": "a.bin", "content": "AAEC"}
_IMAGE = {"filename": "l.png", "content_type": "image/png", "content": "AAEC", "cid": "logo"}
_ALTERNATIVE = "multipart/alternative(text/plain, text/html)"


@pytest.mark.parametrize(
    ("body", "tree"),
    [
        ({"text": "a"}, "text/plain"),
        ({"html": "<b>a</b>"}, _ALTERNATIVE),
        ({"text": "a", "html": "<b>a</b>"}, _ALTERNATIVE),
        ({"text": "a", "attachments": [_FILE]}, "multipart/mixed(text/plain, application/octet-stream)"),
        ({"text": "a", "inline": [_IMAGE]}, "multipart/mixed(text/plain, image/png)"),
        (
            {"html": "<img src='cid:logo'>", "inline": [_IMAGE], "attachments": [_FILE]},
            (
                "multipart/mixed(multipart/alternative(text/plain, multipart/related(text/html, image/png)), "
                "application/octet-stream)"
            ),
        ),
        (
            {"text": "a", "attachments": [{**_FILE, "content_type": "message/rfc822"}]},
            "multipart/mixed(text/plain, application/octet-stream)",
        ),
    ],
)
def test_the_tree_has_only_the_branches_it_needs(body: dict[str, Any], tree: str) -> None:
    letter = _compose(_parsed(**body))

    assert _tree(_read(letter)) == tree


def test_inline_images_and_files_keep_their_bytes_and_names() -> None:
    file = {"filename": "relatório anual.pdf", "content_type": "application/pdf", "content": "JVBERg=="}

    read = _read(_compose(_parsed(html="<img src='cid:logo'>", inline=[_IMAGE], attachments=[file])))
    found = {part.get_filename(): part for part in read.walk() if part.get_filename()}

    assert found["relatório anual.pdf"].get_payload(decode=True) == b"%PDF"
    assert (found["l.png"]["Content-ID"], found["l.png"].get_content_disposition()) == ("<logo>", "inline")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a\r\nBcc: x@y.z", "a__Bcc_ x@y.z"),
        ("\u202efdp.exe", "_fdp.exe"),
        ("..", "file"),
    ],
)
def test_a_filename_is_only_a_name(given: str, written: str) -> None:
    file = _parsed(text="a", attachments=[_FILE]).attachments[0].model_copy(update={"filename": given})

    read = _read(_compose(_command(attachments=[file])))

    assert [part.get_filename() for part in read.walk()] == [None, None, written]


@pytest.mark.parametrize("field", ["subject", "X-Nota", "Feedback-ID", "filename"])
def test_statement_15_an_encoded_word_with_a_line_break_becomes_no_header(field: str) -> None:
    files = [{**_FILE, "filename": _TRICK}] if field == "filename" else []
    headers = {field: _TRICK} if field in {"X-Nota", "Feedback-ID"} else {}
    subject = _TRICK if field == "subject" else "Aviso"

    letter = _compose(_parsed(subject=subject, text="a", headers=headers, attachments=files))

    assert b"\nbcc" not in letter.raw.lower()
    assert not [part for part in message_from_bytes(letter.raw).walk() if "bcc" in part]


def test_a_subject_that_looks_encoded_is_read_as_it_was_written() -> None:
    raw = _compose(_parsed(subject=_TRICK, text="a")).raw

    assert b"Subject: =?utf-8?b?PT91dGYtOD9xP2E9MEQ9MEFCY2M6X3g9NDB5Pz0=?=\r\n" in raw


@pytest.mark.parametrize(
    "control", ["\r\n", "\n", "\r", "\x00", "\x0b", "\x0c", "\x7f", "\x85", "\u2028", "\u2029", "\x1b[2J"]
)
@pytest.mark.parametrize("field", ["subject", "header"])
def test_statement_15_control_characters_in_a_header_are_refused(field: str, control: str) -> None:
    evil = f"a{control}Bcc: x@exemplo.com.br"
    changes: dict[str, Any] = {"subject": evil} if field == "subject" else {"headers": {"X-Nota": evil}}

    with pytest.raises(Permanent) as refused:
        _compose(_command(**changes))

    assert (refused.value.code, "exemplo" in str(refused.value)) == ("invalid", False)


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"X-Nota\r\nBcc": "x@exemplo.com.br"}},
        {"headers": {"Bcc": "x@exemplo.com.br"}},
        {"headers": {"Sender": "x@exemplo.com.br"}},
        {"headers": {"X-Nota:": "a"}},
        {"to": ["ana@exemplo.com.br, caio@exemplo.com.br"]},
        {"to": ["ana@exemplo.com.br>\r\nRCPT TO:<caio@exemplo.com.br"]},
        {"to": ['"a b"@exemplo.com.br']},
        {"to": ["Ana <ana@exemplo.com.br>"]},
        {"bcc": ["ána@exemplo.com.br"]},
        {"from_": "a@exemplo.com.br\nBcc: x@exemplo.com.br"},
        {"reply_to": "a@exemplo.com.br\r\n\r\ncorpo"},
        {"unsubscribe_url": "https://exemplo.com.br/>\r\nBcc: x@exemplo.com.br"},
        {"text": "\ud800"},
        {"headers": {"X-Nota": "a" * 999}},
    ],
)
def test_what_cannot_be_written_safely_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Permanent) as refused:
        _compose(_command(**changes))

    assert refused.value.code == "invalid"


@pytest.mark.parametrize(
    "text", ["a\r\n.\r\nMAIL FROM:<x@y.z>", "a\n.\nb", "a\r.\rb", ".", "\r\n\r\n.", "x" * 5000, "\x00\x1b"]
)
def test_statement_17_no_body_leaves_a_loose_line_end_or_a_long_line(text: str) -> None:
    raw = _compose(_command(text=text)).raw

    assert max(map(len, raw.split(b"\r\n"))) <= 76
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert b"\n" not in raw.replace(b"\r\n", b"")


def test_a_body_that_holds_the_boundary_stays_one_part() -> None:
    text = f"a\n--=_{_ID.hex}_0--\nBcc: x@exemplo.com.br\n"

    read = _read(_compose(_parsed(text=text, html="<b>a</b>")))

    assert _tree(read) == _ALTERNATIVE
    assert next(read.iter_parts()).get_content().replace("\r\n", "\n") == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Olá</h1><p>Tudo <b>bem</b>?<br>Sim &amp; n&atilde;o</p>", "Olá\n\nTudo bem?\nSim & não"),
        ("<style>p{}</style><script>a<b</script>oi<!-- não <b>isto</b> -->!", "oi!"),
        ("<!--[if mso]><table><tr><td>outlook</td></tr></table><![endif]-->oi", "oi"),
        ("<HEAD><title>t</title></HEAD>a < b", "a < b"),
        ("<img src=x>", ""),
    ],
)
def test_plain_text_keeps_the_words_of_an_html_message(html: str, text: str) -> None:
    assert plain_text(html) == text


def test_a_message_of_pictures_alone_says_its_subject_in_plain_text() -> None:
    read = _read(_compose(_parsed(html="<img src=x>")))

    assert next(read.iter_parts()).get_content().strip() == "Aviso"


_PART = "--x\r\nContent-Type: text/plain\r\n{}\r\na\r\n--x--\r\n"
_MIXED = 'Subject: a\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\n'


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ("Subject: a\r\nBcc: x@exemplo.com.br\r\nContent-Type: text/plain\r\n\r\na\r\n", 1),
        ("Subject: a\r\n\r\nContent-Type: text/plain\r\n\r\na\r\n", 1),
        (_MIXED + _PART.format("Bcc: x@exemplo.com.br\r\n"), 2),
        (_MIXED + _PART.format(""), 3),
        (_MIXED + _PART.format("") + "a\n", 2),
        (_MIXED + _PART.format("") + "a\rb\r\n", 2),
        (_MIXED + _PART.format("") + "no end", 2),
        (_MIXED + _PART.format("") + "é\r\n", 2),
        (_MIXED + _PART.format("") + "a" * 999 + "\r\n", 2),
    ],
)
def test_statement_15_finished_bytes_that_read_otherwise_are_refused(raw: str, parts: int) -> None:
    with pytest.raises(ValueError, match="finished message"):
        check(raw.encode(), head=["Subject", "Content-Type"], parts=parts)


def test_finished_bytes_that_read_as_meant_pass() -> None:
    check((_MIXED + _PART.format("")).encode(), head=["Subject", "Content-Type"], parts=2)
