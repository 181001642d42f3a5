"""A spec that asks for what the code does not do is refused where it is read, not ignored where it is used."""

import shutil
from pathlib import Path

import pytest
import yaml

import config.integrations
from config.policy import SpecError, load_specs, read_spec
from config.services import SERVICES
from config.settings import load_settings
from config.spec_values import URL_VARIABLES
from delivery.commands import CreateLead

SHIPPED = Path(config.integrations.__file__).parent
KEY = {"type": "api_key_header", "header": "X-API-Key", "format": "{api_key}", "variables": {"api_key": "CRM_API_KEY"}}


def changed(folder, service, path, value):
    spec = yaml.safe_load((SHIPPED / f"{service}.yaml").read_text(encoding="utf-8"))
    place = spec
    *above, last = path.split(".")
    for each in above:
        place = place[each]
    place[last] = value
    file = folder / f"{service}.yaml"
    file.write_text(yaml.safe_dump(spec, allow_unicode=True), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("service", "path", "value", "reason"),
    [
        ("crm", "name", "meucrm", "name: this version serves crm, whatsapp, email, callback and no service 'meucrm'"),
        ("crm", "name", "email", "adapter: email is served by smtp only"),
        ("crm", "adapter", "smtp", "adapter: crm is served by crm_rest only"),
        ("crm", "authentication", KEY | {"type": "bearer", "variables": {"token": "CRM_API_KEY"}},
         'api_key_header; a fixed bearer token: type api_key_header, header Authorization, format "Bearer {api_key}"'),
        ("crm", "authentication", {"type": "none"}, "type none is not sent to crm"),
        ("crm", "authentication.type", "basic", "authentication.type: input should be"),
        ("crm", "authentication.header", "X-Token", "header: this version sends 'Authorization' and nothing else"),
        ("crm", "authentication.format", "{token}", "format: this version sends 'Bearer {token}' and nothing else"),
        ("crm", "authentication.variables", {"client_id": "MY_ID", "client_secret": "MY_SECRET"},
         "variables: wanted {client_id: CRM_CLIENT_ID, client_secret: CRM_CLIENT_SECRET}"),
        ("crm", "authentication.token_url", "${MY_TOKEN_URL}", "no URL reads MY_TOKEN_URL in this version"),
        ("crm", "authentication.alternatives", [KEY | {"format": "{api_key}!"}], "a text that ends in {api_key}"),
        ("crm", "authentication.alternatives", [KEY | {"type": "bearer", "variables": {"token": "CRM_API_KEY"}}],
         "alternatives: type bearer is not sent to crm"),
        ("whatsapp", "authentication.alternatives", [KEY], "alternatives: type api_key_header is not sent to whatsapp"),
        ("whatsapp", "authentication.header", "X-Token", "header: this version sends 'Authorization'"),
        ("email", "authentication", {"type": "none"}, "type none is not sent to email"),
        ("crm", "operations.create_lead.fields.full_name", {}, "fields.full_name: this version does not send it"),
        ("crm", "operations.create_lead.method", "SMTP", "create_lead.method: SMTP is not what crm_rest speaks"),
        ("crm", "base_urls.production", "${MY_CRM_URL}", "no URL reads MY_CRM_URL in this version"),
        ("crm", "base_urls.production", "smtp://crm.example.com", "crm is reached by https://"),
        ("crm", "overview.kind", "graphql", "overview.kind: input should be"),
    ],
)  # fmt: skip
def test_what_the_code_would_ignore_is_refused_by_name_and_reason(tmp_path, service, path, value, reason):
    file = changed(tmp_path, service, path, value)

    with pytest.raises(SpecError) as refused:
        read_spec(file)

    assert reason in str(refused.value)
    assert f"{file}:" in str(refused.value)


def test_a_command_that_no_service_has_is_refused(tmp_path):
    spec = yaml.safe_load((SHIPPED / "crm.yaml").read_text(encoding="utf-8"))
    spec["operations"]["create_deal"] = spec["operations"].pop("create_lead")
    (tmp_path / "crm.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")

    with pytest.raises(SpecError, match=r"create_deal: this version has no such command.*no create_lead"):
        read_spec(tmp_path / "crm.yaml")


def test_a_folder_without_the_spec_of_a_service_is_refused(tmp_path):
    shutil.copytree(SHIPPED, tmp_path, dirs_exist_ok=True)
    (tmp_path / "callback.yaml").unlink()

    with pytest.raises(
        SpecError, match="holds no spec of callback; every service needs one: entrega spec new callback"
    ):
        load_specs(tmp_path)


def test_a_fixed_key_may_stand_in_any_header_and_behind_any_word(tmp_path):
    bearer = KEY | {"header": "Authorization", "format": "Bearer {api_key}"}

    way = read_spec(changed(tmp_path, "crm", "authentication", bearer)).authentication.api_key()

    assert (way.header, way.format) == ("Authorization", "Bearer {api_key}")


def test_the_fields_of_a_lead_are_those_that_are_sent():
    lead = CreateLead(nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")

    assert SERVICES["crm"].fields == set(type(lead).model_fields) - {"options"}


def test_the_settings_that_a_url_may_name_are_those_that_are_filled_in():
    filled = {
        "crm_api_url": "https://crm.example.com",
        "crm_token_url": "https://login.example.com",
        "whatsapp_api_url": "https://graph.example.com",
        "smtp_host": "smtp.example.com",
        "smtp_user": "ana",
        "smtp_password": "x",
    }

    assert set(load_settings(filled).urls()) == set(URL_VARIABLES)
