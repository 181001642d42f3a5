"""What is hidden, what must stay readable, and that no text is slow."""

import base64
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from delivery.redaction import mask_recipient, mask_text, mask_value, names_a_person

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.aW52ZW50YWRhLXNpZ25hdHVyZQxyz"
OUR_KEY = "entrega_abcdefghijklmnopqrstuvwxyz234567abcde7ab"
OURS = "0193509d-7c1e-7000-8000-551199999000"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("joao@empresa.com", "j***@empresa.com"),
        ("Ana <ana.teste+vip@exemplo.com.br>,", "Ana <a***@exemplo.com.br>,"),
        ("to 'ana@exemplo.com.br' failed", "to 'a***@exemplo.com.br' failed"),
        ("GET /p?e=ana%40exemplo.com.br", "GET /p***@exemplo.com.br"),
        ("ana@bia@exemplo.com.br", "a***@exemplo.com.br"),
        ("josé@exemplo.com.br", "j***@exemplo.com.br"),
        ("ana@exem... (cut)", "a***@exem... (cut)"),
    ],
)
def test_addresses_keep_their_first_letter_and_domain(text, masked):
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "phone",
    [
        "+5511999990001",
        "+55 (11) 99999-0001",
        "+55 11 99999\u20110001",
        "5511999990001",
        "(11) 99999-0001",
        "11 99999-0001",
        "11 99999 0001",
        "11999990001",
        "011999990001",
        "0xx11 999990001",
        "015 11 99999-0001",
        "%2B5511999990001",
    ],
)
def test_phones_keep_country_area_and_four_digits(phone):
    assert mask_text(f"the number {phone} is busy") == "the number +55119999**** is busy"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("+12025550123", "+1202555****"),
        ("(11) 3333-4444", "+55113333****"),
        ("3133334444", "+55313333****"),
        ("551133334444", "+55113333****"),
        ("call +5511999990001 2026-11-22 12:00", "call +55119999**** 2026-11-22 12:00"),
        ("wa_5511999990001", "wa_+55119999****"),
    ],
)
def test_other_numbers_of_people_are_masked_too(text, masked):
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("CPF 529.982.247-25", "CPF ***.***.***-**"),
        ("CPF 529 982 247 25", "CPF ***.***.***-**"),
        ("CPF 52998224725", "CPF ***********"),
        ("id 12345678901", "id ***********"),
        ("CNPJ 11.222.333/0001-81", "CNPJ **.***.***/****-**"),
        ("CNPJ 11222333000181", "CNPJ **************"),
        ("CNPJ 12.ABC.345/01DE-35", "CNPJ **.***.***/****-**"),
        ("CNPJ 12ABC34501DE35", "CNPJ **************"),
        ("card 4111 1111 1111 1111.", "card ****-****-****-****."),
        ("card 4111111111111111", "card ****-****-****-****"),
        ("card 378282246310005", "card ****-****-****-****"),
        ("user BR.1502576394655843", "user BR.150***"),
    ],
)
def test_documents_and_cards_are_hidden(text, masked):
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"Bearer {JWT}", "Bearer eyJ***...***xyz"),
        (f"jwt={JWT}", "jwt=eyJ***...***xyz"),
        (f"Authorization: Bearer {JWT}", "Authorization: ***"),
        ("{'Cookie': 'a=b; c=d', 'X': '1'}", "{'Cookie': '***', 'X': '1'}"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("EAAGinventedinventedABC refused", "EAA***...***ABC refused"),
        ("pat-na1-0193509d-7c1e-7000-8000-551199999abc", "pat***...***abc"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whs***...***aSw"),
        ("sk_live_1234567890", "***"),
        ("redis://:hunter2@localhost:6379/0", "redis://***@localhost:6379/0"),
        ("postgresql://u:p@ss@db.local/x", "postgresql://***@db.local/x"),
        ("/t?client_secret=abc&page=2", "/t?client_secret=***&page=2"),
        ("?hub.verify_token=abc&hub.mode=x", "?hub.verify_token=***&hub.mode=x"),
        ("?appsecret_proof=abc&sig=def", "?appsecret_proof=***&sig=***"),
        ('{"refresh_token": "abc", "kind": "x"}', '{"refresh_token": "***", "kind": "x"}'),
        ("the password: hunter2 was refused", "the password: *** was refused"),
        ("wamid.HBgNNTUxMTk5OTk5MDAwMRUCABEYEjg", "wam***...***Ejg"),
        (OUR_KEY, "ent***...***7ab"),
        (f"the key {OUR_KEY} was refused", "the key ent***...***7ab was refused"),
        ("AKIAINVENTEDINVENT01 is not allowed", "AKI***...***T01 is not allowed"),
        ("AIzaInventedInventedInventedInvented123", "AIz***...***123"),
        ("ya29.invented-invented-invented", "ya2***...***ted"),
        ("xoxb-123456789012-inventedinvented", "xox***...***ted"),
        ("SG.inventedinvented.inventedinventedinvented", "SG.***...***ted"),
        ("aws_secret_access_key=inventedinventedinvented", "aws_secret_access_key=inv***...***ted"),
        ("github_pat_11ABCDEFG0inventedinvented", "git***...***ted"),
        (f"-----BEGIN PRIVATE KEY-----\nMIIinvented\n-----END PRIVATE KEY----- {OURS}", f"*** {OURS}"),
        ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIinv", "***"),
    ],
)
def test_secrets_keep_their_ends_at_most(text, masked):
    assert mask_text(text) == masked


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "provider_id",
    [
        "wamid.HBgNNTUxMTk5OTk5MDAwMRUCABEYEjhBNEM5MDEyREZBMTIzNDU2NwA=",
        "wamid.HBgRQlIuMTUwMjU3NjM5NDY1NTg0MxUC",
        "ana.teste@exemplo.com.br",
        "contact:+5511999990001",
        encoded("to:5511999990001!"),
        "msg-" + encoded("to:5511999990001!"),
        "m:" + encoded("<ana.teste@exemplo.com.br>").rstrip("="),
        base64.urlsafe_b64encode(b"\xff\xfe5511999990001\xff").decode(),
    ],
)
def test_a_providers_id_that_holds_an_address_or_a_number_names_a_person(provider_id):
    assert names_a_person(provider_id)


@pytest.mark.parametrize(
    "provider_id",
    [
        "LEAD-2026-000001",
        "5511999990001",
        "21345678901",
        "0193e0a0-0000-7000-8000-000000000000",
        "<0193e0a0-0000-7000-8000-000000000000@loja.example>",
        "4bQKzT1Xq7z9rYx",
        "gid://crm/Lead/4507894690012",
        encoded("gid://crm/Lead/4507894690012"),
        "q5-20020a05640210c500b0041b573e2654sm1234567edb.47",
        "confirmed by event",
        "",
    ],
)
def test_a_providers_id_that_only_counts_names_nobody(provider_id):
    assert not names_a_person(provider_id)


@pytest.mark.parametrize("field", ["key", "value", "note"])
def test_a_key_of_ours_is_masked_in_any_field(field):
    assert mask_value({field: OUR_KEY}) == {field: "ent***...***7ab"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('"ana teste"@exemplo.com.br', "***@exemplo.com.br"),
        (r'{"to": "\"ana teste\"@exemplo.com.br"}', r'{"to": "\***@exemplo.com.br"}'),
        (r'"ana \"bia\" teste"@exemplo.com.br', "***@exemplo.com.br"),
        ("ana.teste\uff20exemplo.com.br", "a***@exemplo.com.br"),
        ("ana.teste\ufe6bexemplo.com.br", "a***@exemplo.com.br"),
    ],
)
def test_an_address_is_masked_however_it_is_written(text, masked):
    assert mask_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        '{"nome": "Ana Teste", "observacoes": "liga depois"}',
        "CreateLead(nome='Ana Teste', observacoes='liga depois')",
        r'{"body": "{\"nome\": \"Ana Teste\"}", "text": "liga depois"}',
    ],
)
def test_a_quoted_body_hides_its_private_fields(text):
    masked = mask_text(text)

    assert "Ana" not in masked
    assert "liga" not in masked


@pytest.mark.parametrize(
    "text",
    [
        OURS,
        f"delivery {OURS} was parked",
        f"<{OURS}@entrega.example>",
        "LEAD-2024-001",
        "lead_12345678901",
        "550e8400-e29b-41d4-a716-446655440000",
        "65f1c0ffee00aa11bb22cc33",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "2026-11-22T02:42:21.123456Z",
        "2026-11-22T02:42:21+00:00",
        "2026-11-22 02:42:21 +0000 2026-11-23",
        "1795348800 1795348800000 1795348800.123456",
        "0.12345678901",
        "127.0.0.1:54321",
        "phone number id 106540352242922",
        "celery@worker-1",
        "entrega_messages_rejected_total entrega_deliveries_total",
        "entrega_abcd",
        "crm:default",
        "POST /api/v1/leads answered 422 in 245 ms",
        "Could not renew the token: HTTP 401",
        "Basic information",
        "versions 5.7.0 and 2.75.0",
    ],
)
def test_ids_hashes_instants_and_ports_stay_readable(text):
    assert mask_text(text) == text


_WORDS = st.text(st.characters(codec="utf-8"), max_size=60)
_ADDRESSES = st.from_regex(r"[a-z][a-z0-9._+-]{2,20}[a-z0-9]@[a-z]{2,10}\.(com|com\.br|org)", fullmatch=True)
_PHONES = st.from_regex(r"\+55[1-9][1-9]9[0-9]{8}", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(before=_WORDS, address=_ADDRESSES, after=_WORDS)
def test_no_address_survives_inside_any_text(before, address, after):
    assume(address not in before + after)

    masked = mask_text(before + address + after)

    assert address not in masked


@settings(max_examples=50, deadline=None)
@given(before=_WORDS, phone=_PHONES, after=_WORDS)
def test_no_phone_survives_inside_any_text(before, phone, after):
    masked = mask_text(before + phone + after)

    assert phone[1:] not in masked


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.sampled_from("aZ0159@+-. ():/=\"'%_eyJEA\n"), max_size=300))
def test_masking_twice_never_raises(text):
    assert isinstance(mask_text(mask_text(text)), str)


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "a@", "1 ", "+1", "+1 1", "eyJ", "eyJaaaaa.", "1111-", "token='", "://@", "a.b-", "authorization:"),
        *(
            "5511",
            "(",
            "0xx11",
            "\\",
            "\\'",
            '"nome":"',
            "BR.a",
            "A1",
            "f0",
            "%40",
            "11 9",
            "529.",
            "Bearer ",
            "wamid.",
        ),
    ],
)
def test_a_long_hostile_text_costs_little(piece):
    text = piece * (100_000 // len(piece))
    before = time.process_time()

    mask_text(text)

    assert time.process_time() - before < 1.0


def test_a_very_long_text_is_cut_and_says_so():
    text = "x " * 16_300 + "Ana ana.teste@exemplo.com.br " * 100

    masked = mask_text(text)

    assert "ana.teste" not in masked
    assert len(masked) < 33_000
    assert masked.endswith(f"[text of {len(text)} characters, the rest withheld]")


def test_fields_are_masked_by_name_and_by_value():
    value = {
        "email": "joao@empresa.com",
        "telefone": "+5511999999999",
        "token": JWT,
        "nome": "Ana Teste",
        "accessToken": "abc",
        "Set-Cookie": "a=b",
        "to": ["ana@exemplo.com.br", "+5511999990001"],
        "cc": [],
        "text": None,
        "detail": {"note": "call +5511999990001", "status_code": 422, "ok": True, "ratio": 0.5},
        "id": UUID(OURS),
        "at": datetime(2026, 11, 22, tzinfo=UTC),
        "raw": b"abc",
        "wa": 5511999990001,
        "port": 54321,
    }

    masked = mask_value(value)

    assert masked == {
        "email": "j***@empresa.com",
        "telefone": "+55119999****",
        "token": "eyJ***...***xyz",
        "nome": "***",
        "accessToken": "***",
        "Set-Cookie": "***",
        "to": ["a***@exemplo.com.br", "+55119999****"],
        "cc": [],
        "text": None,
        "detail": {"note": "call +55119999****", "status_code": 422, "ok": True, "ratio": 0.5},
        "id": OURS,
        "at": "2026-11-22 00:00:00+00:00",
        "raw": "<3 bytes>",
        "wa": "+55119999****",
        "port": 54321,
    }


def test_everything_below_a_private_field_is_private():
    value = {"variables": {"1": "Ana", "two": ["Teste", 7, None]}}

    masked = mask_value(value)

    assert masked == {"variables": {"1": "***", "two": ["***", "***", None]}}


def test_a_field_name_may_hold_a_person_too():
    assert mask_value({"ana@exemplo.com.br": 1}) == {"a***@exemplo.com.br": 1}


def test_a_structure_that_holds_itself_ends():
    value: dict[str, object] = {}
    value["again"] = value

    assert "***" in str(mask_value(value))


def test_long_collections_are_cut_and_say_so():
    assert mask_value(list(range(600)))[-1] == "... 100 more withheld"
    assert mask_value({str(each): each for each in range(600)})["..."] == "100 more withheld"


@pytest.mark.parametrize(
    ("recipient", "masked"),
    [
        ("joao@empresa.com", "j***@empresa.com"),
        ("Ana Teste <ana@exemplo.com.br>", "a***@exemplo.com.br"),
        ("+5511999999999", "+55119999****"),
        ("+55 11 99999-9999", "+55119999****"),
        ("BR.1502576394655843", "BR.150***"),
        ("BR.abc", "BR.***"),
        ("Ana Teste", "***"),
        ("", "***"),
    ],
)
def test_a_recipient_is_shown_masked(recipient, masked):
    assert mask_recipient(recipient) == masked
