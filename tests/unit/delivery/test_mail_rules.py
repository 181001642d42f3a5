"""What an e-mail may carry: headers, senders and files are allow-lists in the spec, at the door and at the wire."""

from datetime import UTC, datetime

import pytest

from config.policy import load_specs
from delivery.commands import SendEmail
from delivery.errors import InvalidCommand, Permanent, ProducerRefused
from delivery.ids import new_id
from delivery.intake import Intake
from delivery.ports import Opened, Order
from delivery.producers import ProducerPolicy
from providers.smtp import Smtp

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
OURS = "avisos@exemplo.com.br"
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
CONTROL = ("X-SMTPAPI", "X-MC-BccAddress", "X-Mailgun-Variables", "X-SES-CONFIGURATION-SET", "X-Smtpapi", "X-MSYS-API")


class Book:
    def __init__(self):
        self.opened = []

    def open(self, new):
        self.opened += new
        return [Opened(each.id, fresh=True, same_body=True, state="ready", next_at=NOON) for each in new]


class Rules:
    def __init__(self, policy):
        self.policy = policy

    def of(self, producer):
        return self.policy

    def mark(self, recipient):
        return recipient

    def is_suppressed(self, recipient):
        return False


def intake(policy=None, *, senders=None):
    specs = load_specs()
    mail = specs["email"].mail.model_copy(update={"senders": senders or {}})
    specs = {**specs, "email": specs["email"].model_copy(update={"mail": mail})}
    accounts = ("crm:default", "email:default", "email:vendas")
    hints = type("Hints", (), {"send": lambda self, hints: None})()
    return Intake(
        Book(), hints, specs, accounts, policies=Rules(policy or ProducerPolicy()),
        from_email={"email:default": OURS, "email:vendas": "vendas@loja.com.br"}.get, now=lambda: NOON,
    )  # fmt: skip


def mail(**changes):
    return {"to": "ana.teste@exemplo.com.br", "subject": "Teste", "text": "Olá", **changes}


def issues(body, **more):
    """Return the fields that the door refuses."""
    door = intake(**more)
    try:
        door.submit("send_email", body, producer="loja")
    except InvalidCommand as err:
        assert door.ledger.opened == []
        return [each.field for each in err.issues]
    return []


@pytest.mark.parametrize("name", CONTROL)
def test_a_header_that_steers_a_relay_is_refused_by_name(name):
    assert issues(mail(headers={name: '{"to": ["x@example.com"]}'})) == [f"headers.{name}"]


@pytest.mark.parametrize("name", ["Feedback-ID", "X-Entity-Ref-ID", "X-ENTITY-REF-ID"])
def test_a_header_of_the_list_passes_in_any_case(name):
    assert issues(mail(headers={name: "4711"})) == []


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (mail(), []),
        (mail(**{"from": OURS}), []),
        (mail(**{"from": "Vendas@Exemplo.com.br"}), []),
        (mail(**{"from": "ceo@qualquer.example.com"}), ["from"]),
        (mail(**{"from": "avisos@sub.exemplo.com.br"}), ["from"]),
        (mail(**{"from": "avisos@exemplo.com.br.example.com"}), ["from"]),
        (mail(**{"from": OURS}, options={"account": "vendas"}), ["from"]),
        (mail(**{"from": "ana@loja.com.br"}, options={"account": "vendas"}), []),
    ],
)
def test_mail_comes_from_the_accounts_own_address_or_domain(body, refused):
    assert issues(body) == refused


@pytest.mark.parametrize(
    ("sender", "account", "refused"),
    [
        ("ana@outra.com.br", "default", []),
        ("oi@terceira.com.br", "default", []),
        ("bia@terceira.com.br", "default", ["from"]),
        ("ana@outra.com.br", "vendas", ["from"]),
    ],
)
def test_further_senders_stand_in_the_spec_by_account(sender, account, refused):
    senders = {"email:default": ("@outra.com.br", "oi@terceira.com.br")}

    assert issues(mail(**{"from": sender}, options={"account": account}), senders=senders) == refused


def test_without_an_own_address_no_sender_can_be_chosen():
    door = intake()
    object.__setattr__(door, "from_email", lambda _: None)

    with pytest.raises(InvalidCommand):
        door.submit("send_email", mail(**{"from": OURS}), producer="loja")


@pytest.mark.parametrize(
    ("second", "field"),
    [
        ({"headers": {"X-SMTPAPI": "x"}}, "options.fallback.headers.X-SMTPAPI"),
        ({"from": "ceo@qualquer.example.com"}, "options.fallback.from"),
    ],
)
def test_a_fallback_is_under_the_same_lists(second, field):
    body = LEAD | {"options": {"fallback": {"kind": "send_email", **mail(**second)}}}

    with pytest.raises(InvalidCommand) as caught:
        intake().submit("create_lead", body, producer="loja")

    assert [each.field for each in caught.value.issues] == [field]


@pytest.mark.parametrize(
    ("senders", "body", "code"),
    [
        ({"@exemplo.com.br"}, mail(), None),
        ({OURS}, mail(**{"from": "vendas@exemplo.com.br"}), "sender_not_allowed"),
        ({"vendas@exemplo.com.br"}, mail(), "sender_not_allowed"),
        ({"vendas@exemplo.com.br"}, mail(**{"from": "vendas@exemplo.com.br"}), None),
    ],
)
def test_a_producer_may_be_bound_to_some_of_them(senders, body, code):
    door = intake(ProducerPolicy(senders=frozenset(senders)))

    try:
        found = door.submit("send_email", body, producer="loja") and None
    except ProducerRefused as err:
        found = err.code

    assert found == code


def _file(name, content_type="application/octet-stream"):
    return {"filename": name, "content_type": content_type, "content": "JVBERg=="}


@pytest.mark.parametrize(
    "file",
    [
        _file("nota.pdf"), _file("Nota.PDF", "application/pdf"), _file("a.exe.pdf", "application/pdf"),
        _file("nota fiscal.xml", "text/xml"),
    ],
)  # fmt: skip
def test_statement_18_a_file_of_the_list_passes(file):
    assert issues(mail(attachments=[file])) == []


@pytest.mark.parametrize(
    "file",
    [
        _file("a.exe"), _file("a.exe", "application/pdf"), _file("nota.pdf.exe"), _file("a.js"), _file("a.html"),
        _file("a.zip"), _file("a.svg", "image/svg+xml"), _file("pdf"), _file(".pdf"), _file("a."),
        _file("nota.pdf", "text/html"), _file("mail.eml", "message/rfc822"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", ["attachments", "inline"])
def test_statement_18_a_file_of_another_extension_or_type_is_refused(field, file):
    assert issues(mail(html="<p>a</p>", **{field: [{**file, "cid": "a"}]})) == [f"{field}.0"]


@pytest.mark.parametrize("name", ["../../etc/senha.pdf", "C:\\a\\b.pdf", 'a".pdf'])
def test_statement_18_no_name_of_a_file_leaves_its_folder_or_hides_its_end(name):
    command = SendEmail.model_validate(mail(attachments=[_file(name)]))

    raw = _smtp().preview(Order(new_id(), "email:default", command, 1, NOON))
    written = _smtp()._written(Order(new_id(), "email:default", command, 1, NOON))[1].raw

    assert raw.body["bytes"] == len(written)
    assert not any(each in written for each in (b"../", b"\\", b"\xe2\x80\xae", b'a".pdf'))


def test_statement_18_files_are_bound_in_number_and_size():
    many = issues(mail(attachments=[_file("a.pdf")] * 21))
    large = issues(mail(attachments=[{**_file("a.pdf"), "content": "A" * 16_000_000}]))

    assert (many, large) == (["attachments"], ["body"])


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"X-SMTPAPI": "x"}},
        {"from": "ceo@qualquer.example.com"},
        {"attachments": [_file("a.exe")]},
    ],
)
def test_what_a_door_let_through_before_is_refused_at_the_wire(changes):
    command = SendEmail.model_validate(mail(**changes))

    with pytest.raises(Permanent, match="not on the allow-lists of the e-mail spec"):
        _smtp().preview(Order(new_id(), "email:default", command, 1, NOON))


def _smtp():
    spec = load_specs()["email"]
    return Smtp(spec, "127.0.0.1", 1, "", "", use_ssl=False, from_email=OURS, environment="sandbox")
