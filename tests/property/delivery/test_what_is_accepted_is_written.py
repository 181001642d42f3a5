"""What the door accepts, the writer writes: every field of the three commands, filled with anything."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st

from config.policy import load_specs
from delivery.commands import KINDS, parse_command
from delivery.errors import InvalidCommand
from delivery.ids import new_id
from delivery.ports import Order
from providers.http import json_bytes
from providers.previews import check_writable
from providers.smtp.message import compose
from providers.whatsapp_cloud.envelope import message_body

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CHOICES = {kind: spec.operations[kind].choices() for spec in load_specs().values() for kind in spec.operations}

ODD = '\x00\x01\t\n\r\x0b\x0c\x1b\x1f\x7f\x80\x85\x9f\xa0\xad\u0300\u200b\u200e\u2028\u2029\u202e\ufeff=?"<>,;:@\\ ()'
TEXT = st.one_of(
    st.text(max_size=40),
    st.text(ODD + "aéß😀", max_size=40),
    st.text(max_size=20).map("=?utf-8?q?{}?=".format),
)
LONG = st.one_of(TEXT, st.text("aé =?\n", min_size=900, max_size=1100))
DOMAIN = st.sampled_from(["exemplo.com.br", ".".join(["a" * 60] * 3 + ["com.br"]), "exämple.com", "xn--bcher-kva.com"])
EMAIL = st.one_of(
    st.builds("{}@{}".format, st.text("abcZ09.!#$%&'*+/=?^_`{|}~-\"", min_size=1, max_size=64), DOMAIN),
    st.builds("{}@{}".format, TEXT, DOMAIN),
)
PHONE = st.sampled_from(["+5511999990001", "+551133330000", "+4930123456", "BR.1502576394655843"])
URL = st.one_of(
    st.builds("https://exemplo.com.br/{}".format, st.text(max_size=60)),
    st.builds("https://exemplo.com.br/{}".format, st.text('aü"<>|^`{}#?%[] ', max_size=950)),
    st.builds("https://{}.com/".format, st.text("aü-", max_size=80)),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CONTENT = st.one_of(st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode()), TEXT)
FILE = st.fixed_dictionaries(
    {"filename": LONG, "content": CONTENT},
    optional={
        "content_type": st.from_regex(r"\A[a-z0-9.+-]{1,140}/[A-Za-z0-9.+-]{1,140}\Z")
        | st.sampled_from(["text/plain", "message/rfc822", "multipart/mixed", "image/png", "application/pdf"]),
        "cid": st.text("aZ0_.:@-", min_size=1, max_size=130),
    },
)
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
MAIL = {"to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}
TO = {"to": "+5511999990001"}


def with_odd_fields(base, **fields):
    """Return a sound body in which one field, or two, hold anything."""
    one = st.one_of(*(values.map(lambda value, name=name: {name: value}) for name, values in fields.items()))
    return st.tuples(one, one).map(lambda two: base | two[0] | two[1])


LEADS = with_odd_fields(
    LEAD, nome=LONG, email=EMAIL, telefone=PHONE, empresa=TEXT, cargo=TEXT, origem=TEXT, observacoes=LONG,
    tags=st.lists(TEXT, max_size=3),
)  # fmt: skip
TEMPLATES = with_odd_fields(
    {"name": "oi"},
    name=TEXT,
    language=TEXT,
    variables=st.lists(LONG, max_size=3) | st.dictionaries(st.text("ab", min_size=1), LONG, max_size=2),
)
MEDIA = with_odd_fields(
    {"type": "document", "id": "1"},
    type=st.sampled_from(["image", "video", "audio", "document", "sticker"]),
    caption=LONG,
    filename=LONG,
)
LINKED = URL.map(lambda url: {"type": "image", "url": url})
OWN = st.dictionaries(TEXT | st.sampled_from(["type", "status", "to"]), JSON, max_size=4)
MESSAGES = st.one_of(
    LONG.map(lambda text: TO | {"text": text}),
    TEMPLATES.map(lambda template: TO | {"template": template}),
    (MEDIA | LINKED).map(lambda media: TO | {"media": media}),
    OWN.map(lambda message: TO | {"message": message}),
    PHONE.map(lambda to: {"to": to, "text": "Oi"}),
)
MAILS = with_odd_fields(
    MAIL,
    **{each: st.lists(EMAIL, min_size=1, max_size=2) for each in ("to", "cc", "bcc")},
    **dict.fromkeys(("reply_to", "from"), EMAIL),
    **dict.fromkeys(("subject", "text", "html"), LONG),
    **{each: st.lists(FILE, min_size=1, max_size=2) for each in ("attachments", "inline")},
    headers=st.dictionaries(st.just("X-Campanha"), LONG, min_size=1, max_size=2),
    unsubscribe_url=URL,
)
ANYTHING = settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


def accepted(kind, body):
    try:
        return parse_command(kind, body, choices=CHOICES[kind], now=NOW)
    except InvalidCommand:
        return reject()


def order(command):
    return Order(new_id(), command.service, command, 1, NOW)


@given(LEADS)
@ANYTHING
def test_a_lead_that_is_accepted_is_written(body):
    assert json.loads(json_bytes(accepted("create_lead", body).content()))


@given(MESSAGES)
@example({"to": "+5511999990001", "template": {"name": "oi", "variables": ["a    b"]}})
@ANYTHING
def test_a_message_that_is_accepted_is_written(body):
    command = accepted("send_whatsapp", body)

    assert json.loads(json_bytes(message_body(command, new_id())))
    check_writable(order(command))


@given(MAILS)
@ANYTHING
def test_a_mail_that_is_accepted_is_written(body):
    command = accepted("send_email", body)

    assert compose(order(command), command, from_email="avisos@exemplo.com.br").raw
    check_writable(order(command))


@given(st.sampled_from(sorted(KINDS)), st.dictionaries(TEXT, JSON, max_size=5))
@ANYTHING
def test_any_object_is_accepted_or_refused_and_never_a_fault(kind, body):
    with suppress(InvalidCommand):
        parse_command(kind, body, choices={}, now=NOW)


FILE_BYTES = b"\xfb\xff\xfe PDF"


def fields(kind, body):
    with pytest.raises(InvalidCommand) as caught:
        parse_command(kind, body, choices={}, now=NOW)
    return [each.field for each in caught.value.issues]


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("send_email", MAIL | {"subject": "a\x85b"}, "subject"),
        ("send_email", MAIL | {"headers": {"X-Campanha": "a\x85b"}}, "headers.X-Campanha"),
        ("send_email", MAIL | {"unsubscribe_url": "https://exemplo.com.br/" + "a" * 900}, "unsubscribe_url"),
        ("send_whatsapp", TO | {"template": {"name": "oi", "variables": ["a     b"]}}, "template.variables.0"),
        (
            "send_whatsapp",
            TO | {"template": {"name": "oi", "variables": {"nome": "a     b"}}},
            "template.variables.nome",
        ),
        ("send_whatsapp", TO | {"media": {"type": "audio", "id": "1", "caption": "Oi"}}, "media.caption"),
        ("send_whatsapp", TO | {"message": {"status": "read"}}, "message"),
    ],
)
def test_what_the_writer_refuses_is_refused_at_the_door_by_name(kind, body, field):
    assert fields(kind, body) == [field]


def test_a_domain_of_195_characters_is_an_address_and_is_written():
    address = "ana@" + ".".join(["a" * 62] * 3) + ".com.br"[:8]
    command = accepted("send_email", MAIL | {"to": address})

    assert compose(order(command), command, from_email="avisos@exemplo.com.br").recipients == (address,)


@pytest.mark.parametrize("name", ["observacoes", "text", "html", "caption", "message", "metadata", "metadata name"])
@pytest.mark.parametrize("control", ["\x00", "\x07", "\x0b", "\x1b", "\x7f", "\x85", "\x9b", "a\rb"])
def test_no_text_of_several_lines_holds_a_control_character(name, control):
    bodies = {
        "observacoes": ("create_lead", LEAD | {"observacoes": control}, "observacoes"),
        "text": ("send_whatsapp", TO | {"text": control}, "text"),
        "html": ("send_email", MAIL | {"html": control}, "html"),
        "caption": ("send_whatsapp", TO | {"media": {"type": "image", "id": "1", "caption": control}}, "media.caption"),
        "message": ("send_whatsapp", TO | {"message": {"text": {"body": [control]}}}, "message.text"),
        "metadata": ("create_lead", LEAD | {"options": {"metadata": {"k": [control]}}}, "options.metadata.k"),
        "metadata name": ("create_lead", LEAD | {"options": {"metadata": {"k": {control: 1}}}}, "options.metadata.k"),
    }

    kind, body, field = bodies[name]

    assert fields(kind, body) == [field]


def test_line_breaks_and_tabs_stay_and_crlf_is_one_line_break():
    command = accepted("create_lead", LEAD | {"observacoes": "a\r\nb\n\tc"})

    assert command.observacoes == "a\nb\n\tc"


@pytest.mark.parametrize(
    "content",
    [
        "data:application/pdf;base64," + base64.b64encode(FILE_BYTES).decode(),
        base64.urlsafe_b64encode(FILE_BYTES).decode(),
        base64.b64encode(FILE_BYTES).decode().rstrip("="),
        "não é base64",
        "a",
        "====",
    ],
)
def test_an_attachment_that_is_no_plain_base64_is_refused(content):
    body = MAIL | {"attachments": [{"filename": "a.pdf", "content": content}]}

    assert fields("send_email", body) == ["attachments.0.content"]


def test_an_attachment_with_line_breaks_is_the_same_file_and_is_read_back():
    wrapped = base64.encodebytes(FILE_BYTES * 50).decode().replace("\n", "\r\n")
    command = accepted("send_email", MAIL | {"attachments": [{"filename": "a.pdf", "content": wrapped}]})

    assert command.attachments[0].content == FILE_BYTES * 50
    assert KINDS["send_email"].model_validate(command.content()).attachments == command.attachments


def test_a_file_of_more_than_ten_megabytes_is_refused_in_bytes():
    content = base64.b64encode(b"a" * 10_000_001).decode()

    with pytest.raises(InvalidCommand) as caught:
        parse_command(
            "send_email", MAIL | {"attachments": [{"filename": "a", "content": content}]}, choices={}, now=NOW
        )

    assert caught.value.issues[0].issue == "no máximo 10000000 bytes"
