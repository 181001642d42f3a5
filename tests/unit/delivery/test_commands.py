from datetime import UTC, datetime, timedelta

import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st

from config.policy import load_specs
from delivery.commands import CreateLead, SendEmail, SendWhatsApp, parse_command
from delivery.errors import InvalidCommand

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CHOICES = load_specs()["crm"].operations["create_lead"].choices()
LEAD = {"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}
MESSAGE = {"to": "+5511999990001", "text": "Olá"}
LETTER = {"to": "ana.teste@exemplo.com.br", "subject": "Oi", "text": "Olá"}


def parse(kind, body, language="pt"):
    return parse_command(kind, body, choices=CHOICES, now=NOW, language=language)


def issues(kind, body, language="pt"):
    with pytest.raises(InvalidCommand) as caught:
        parse(kind, body, language)
    return {each.field: each.issue for each in caught.value.issues}


def test_a_lead_gets_its_default_origin():
    command = parse("create_lead", LEAD)

    assert isinstance(command, CreateLead)
    assert command.content() == LEAD | {"origem": "agente_ia", "tags": []}
    assert command.recipient == "ana.teste@exemplo.com.br"


def by_the_library(address):
    try:
        return validate_email(address.strip(), check_deliverability=False, allow_smtputf8=False, strict=True).normalized
    except EmailNotValidError:
        return None


def by_us(address):
    try:
        return parse("send_email", LETTER | {"to": address}).to[0]
    except InvalidCommand:
        return None


LOCALS = st.text("aZ0._+-!#'{|}~\"\\ \n@(),:;<>[]\u00e9\u0661", max_size=66) | st.sampled_from(
    ["Postmaster", "abuse", "x" * 65]
)
DOMAINS = st.text("aZ0.-_ @\u00e9", max_size=70) | st.sampled_from(
    ["exemplo.com.br", "EXEMPLO.com", "exemplo", "exemplo..com", "-a.com", "localhost", "a.test", "xn--bcher-kva.com"]
)


@given(local=LOCALS, domain=DOMAINS)
def test_an_address_is_read_as_the_library_reads_it(local, domain):
    address = f"{local}@{domain}"

    assert by_us(address) == by_the_library(address)


def test_addresses_and_numbers_are_normalised():
    command = parse("create_lead", LEAD | {"email": " Ana.Teste@EXEMPLO.com.br ", "telefone": "+55 (11) 99999-0001"})

    assert (command.email, command.telefone) == ("Ana.Teste@exemplo.com.br", "+5511999990001")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nome": None}, "nome"),
        ({"nome": ""}, "nome"),
        ({"nome": "   "}, "nome"),
        ({"nome": "x" * 101}, "nome"),
        ({"nome": 7}, "nome"),
        ({"nome": "Ana\r\nBcc: x"}, "nome"),
        ({"nome": "x" * 10_000_000}, "nome"),
        ({"email": "errado"}, "email"),
        ({"email": "a@b@exemplo.com.br"}, "email"),
        ({"email": ["ana.teste@exemplo.com.br"]}, "email"),
        ({"telefone": "11999990001"}, "telefone"),
        ({"telefone": "+5511"}, "telefone"),
        ({"telefone": "+55ABC"}, "telefone"),
        ({"interesse": "produto_z"}, "interesse"),
        ({"empresa": "x" * 201}, "empresa"),
        ({"observacoes": "x" * 1001}, "observacoes"),
        ({"tags": ["a"] * 11}, "tags"),
        ({"tags": "vip"}, "tags"),
        ({"cpf": "529.982.247-25"}, "cpf"),
        ({"options": {"priority": "urgent"}}, "options.priority"),
        ({"options": {"key": "with space"}}, "options.key"),
        ({"options": {"state": "succeeded"}}, "options.state"),
        ({"options": {"expires_at": "2026-11-22T11:59:59Z"}}, "options.expires_at"),
        ({"options": {"send_at": "2026-11-23T00:00:00"}}, "options.send_at"),
        ({"options": {"send_at": "2028-11-23T00:00:00Z"}}, "options.send_at"),
        ({"options": {"order_key": ""}}, "options.order_key"),
        ({"options": {"order_key": "x" * 129}}, "options.order_key"),
        ({"options": {"order_key": "a\nb"}}, "options.order_key"),
        ({"options": {"order_key": 7}}, "options.order_key"),
        ({"options": {"fallback": "send_email"}}, "options.fallback"),
        ({"options": "now"}, "options"),
    ],
)
def test_a_wrong_lead_is_refused_by_field(change, field):
    found = issues("create_lead", LEAD | change)

    assert list(found) == [field]
    assert found[field]


def test_every_wrong_field_is_named_at_once():
    assert set(issues("create_lead", {"email": "x", "extra": 1})) == {"nome", "email", "interesse", "extra"}


def test_issues_speak_both_languages_and_never_repeat_the_value():
    body = LEAD | {"email": "segredo-errado"}

    assert issues("create_lead", body) == {"email": "e-mail em formato inválido"}
    assert issues("create_lead", body, "en") == {"email": "not a valid e-mail address"}


def test_a_field_name_from_outside_cannot_write_into_the_log():
    (name,) = issues("create_lead", LEAD | {"x\n\x1b[31m" + "y" * 200: 1})

    assert name == "x???31m" + "y" * 73


def test_the_answer_has_the_public_shape():
    with pytest.raises(InvalidCommand) as caught:
        parse("create_lead", LEAD | {"email": "x"})

    assert caught.value.as_answer()["error"]["details"] == [{"field": "email", "issue": "e-mail em formato inválido"}]


def test_an_unknown_kind_is_refused():
    assert list(issues("send_fax", {})) == ["kind"]


def test_a_business_scoped_id_is_left_as_it_is():
    assert parse("send_whatsapp", MESSAGE | {"to": "BR.1502576394655843"}).to == "BR.1502576394655843"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": None}, "body"),
        ({"template": {"name": "oi"}}, "body"),
        ({"text": "x" * 4097}, "text"),
        ({"to": "5511999990001"}, "to"),
        ({"text": None, "template": {"name": "Oi!"}}, "template.name"),
        ({"text": None, "media": {"type": "image"}}, "media"),
        ({"reply_to": "abc"}, "reply_to"),
    ],
)
def test_a_wrong_message_is_refused_by_field(change, field):
    assert list(issues("send_whatsapp", MESSAGE | change)) == [field]


def test_a_message_of_each_form_is_accepted():
    template = {"name": "boas_vindas", "language": "pt_BR", "variables": {"nome": "Ana"}}
    media = {"type": "image", "url": "https://exemplo.com.br/foto.jpg", "caption": "Oi"}

    for content in ({"text": "Olá"}, {"template": template}, {"media": media}, {"message": {"type": "sticker"}}):
        assert isinstance(parse("send_whatsapp", {"to": "+5511999990001"} | content), SendWhatsApp)


def test_one_address_may_stand_alone():
    command = parse("send_email", LETTER | {"from": "loja@exemplo.com.br"})

    assert isinstance(command, SendEmail)
    assert (command.to, command.from_) == (["ana.teste@exemplo.com.br"], "loja@exemplo.com.br")
    assert command.content()["from"] == "loja@exemplo.com.br"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": []}, "to"),
        ({"to": ["x"]}, "to.0"),
        ({"to": ["ana.teste@exemplo.com.br"] * 51}, "to"),
        ({"subject": "a\nBcc: b@exemplo.com.br"}, "subject"),
        ({"text": None}, "body"),
        ({"headers": {"Bcc": "x"}}, "headers"),
        ({"headers": {"X-A\r\nBcc": "x"}}, "headers"),
        ({"inline": [{"filename": "a.png", "content": "aGk="}]}, "inline"),
        ({"attachments": [{"filename": "a.png", "content": "not base64!"}]}, "attachments.0.content"),
        ({"unsubscribe_url": "javascript:alert(1)"}, "unsubscribe_url"),
    ],
)
def test_a_wrong_letter_is_refused_by_field(change, field):
    assert list(issues("send_email", LETTER | change)) == [field]


def test_a_stored_command_reads_back_the_same():
    file = {"filename": "proposta.pdf", "content_type": "application/pdf", "content": "aGVsbG8="}
    command = parse("send_email", LETTER | {"attachments": [file], "bcc": "bia.teste@exemplo.com.br"})

    again = SendEmail.model_validate(command.content())

    assert again == command
    assert again.attachments[0].content == b"hello"


def test_times_must_have_a_zone_and_an_order():
    later = {"send_at": NOW + timedelta(hours=2), "expires_at": NOW + timedelta(hours=1)}

    assert list(issues("create_lead", LEAD | {"options": later})) == ["options"]


def test_an_order_key_may_be_any_line_of_128_characters():
    assert parse("create_lead", LEAD | {"options": {"order_key": "x" * 128}}).options.order_key == "x" * 128


@pytest.mark.parametrize(
    "written",
    [
        "+5511999990001",
        "+55 (11) 99999-0001",
        "+\uff15\uff15\uff11\uff11\uff19\uff19\uff19\uff19\uff19\uff10\uff10\uff10\uff11",
    ],
)
def test_statement_41_a_number_is_one_recipient_however_it_is_written(written):
    assert parse("send_whatsapp", MESSAGE | {"to": written}).recipient == "+5511999990001"


@pytest.mark.parametrize(
    "written",
    [
        "\u0430na.teste@exemplo.com.br",  # a Cyrillic letter that looks like a
        "ana\u200b.teste@exemplo.com.br",
        "\u202eana.teste@exemplo.com.br",
        "ana.teste@exemplo\u200b.com.br",
        "ana.teste@exemplo.com.br\u0000",
        "ana.teste@exemplo.com.br, caio@exemplo.com.br",
        "ana.teste\uff20exemplo.com.br",
    ],
)
def test_statement_41_an_address_with_unseen_or_foreign_letters_is_refused(written):
    assert set(issues("create_lead", LEAD | {"email": written})) == {"email"}
    assert set(issues("send_email", LETTER | {"to": [written]})) == {"to.0"}


def test_statement_41_a_domain_is_normalised_once_and_a_confusable_one_is_refused():
    assert parse("send_email", LETTER | {"to": "ana@EXEMPLO.com.br"}).recipient == "ana@exemplo.com.br"
    assert set(issues("send_email", LETTER | {"to": "ana@ex\u0435mplo.com.br"})) == {"to.0"}


@pytest.mark.parametrize("name", ["Ana\u202e moc.live", "Ana\u2066", "Ana\u200f", "Ana\u2028Bia"])
def test_statement_41_a_name_holds_no_mark_that_turns_the_reading_order(name):
    assert set(issues("create_lead", LEAD | {"nome": name})) == {"nome"}


@pytest.mark.parametrize(
    "name", ["\u0410na Teste", "A\u0301na", "\uff21na", "Ana\u00a0Teste", "\U0001d400na", "ana.teste@outro.com.br"]
)
def test_statement_41_a_name_does_not_change_the_recipient(name):
    assert parse("create_lead", LEAD | {"nome": name}).recipient == "ana.teste@exemplo.com.br"
