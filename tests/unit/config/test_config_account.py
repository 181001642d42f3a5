"""The settings of added accounts: their own values only, checked as the environment's are."""

import pytest

from config.account import account_settings, check_account_name, own_variables
from config.policy import load_specs
from config.settings import ConfigurationError, load_settings

SPECS = load_specs()
EMAIL = {"SMTP_HOST": "127.0.0.1", "FROM_EMAIL": "reserva@exemplo.com.br"}


@pytest.fixture
def common(monkeypatch):
    monkeypatch.setenv("CRM_HOOK_SECRET", "of-the-environment")
    return load_settings({
        "smtp_host": "smtp.example.com", "smtp_user": "main", "smtp_password": "invented", "smtp_port": 587,
        "from_email": "main@exemplo.com.br", "crm_timeout": 7, "crm_api_key": "invented",
        "crm_api_url": "https://crm.example.com", "entrega_workers": 3,
    })  # fmt: skip


def test_nothing_of_the_account_default_is_lent(common):
    found = account_settings(common, SPECS["email"], EMAIL)

    assert (found.smtp_host, found.from_email) == ("127.0.0.1", "reserva@exemplo.com.br")
    assert (found.smtp_user, found.smtp_password, found.smtp_submission_port) == (None, None, 465)
    assert (found.entrega_workers, found.entrega_env) == (3, "sandbox")


def test_what_belongs_to_the_whole_system_stays(common):
    values = {"CRM_API_URL": "https://other.example.com", "CRM_API_KEY": "another"}

    found = account_settings(common, SPECS["crm"], values)

    assert (found.crm_timeout, found.crm_api_key.get_secret_value()) == (7, "another")
    assert "CRM_TIMEOUT" not in own_variables(SPECS["crm"])


def test_a_variable_of_a_forms_own_comes_from_the_account_and_never_from_the_environment(common):
    form = SPECS["crm"].model_copy(update={"variables": (*SPECS["crm"].variables, "CRM_HOOK_SECRET")})
    values = {"CRM_API_URL": "https://other.example.com", "CRM_API_KEY": "another"}

    assert account_settings(common, form, values).secrets("CRM_HOOK_SECRET") == ()
    assert account_settings(common, form, values | {"CRM_HOOK_SECRET": "a, b"}).secrets("CRM_HOOK_SECRET") == ("a", "b")
    assert common.secrets("CRM_HOOK_SECRET") == ("of-the-environment",)


@pytest.mark.parametrize(
    ("values", "named", "words"),
    [
        ({"SMTP_HOST": "127.0.0.1"}, "FROM_EMAIL", "missing"),
        (EMAIL | {"CRM_API_KEY": "very-secret"}, "CRM_API_KEY", "not a variable of this account"),
        (EMAIL | {"SMTP_HOST": "smtp.example.com"}, "SMTP_PASSWORD", "without a login"),
        (EMAIL | {"SMTP_USER": "me"}, "SMTP_PASSWORD", "go together"),
        (EMAIL | {"SMTP_PORT": "very-secret"}, "SMTP_PORT", "integer"),
        (EMAIL | {"FROM_EMAIL": "very secret"}, "FROM_EMAIL", "one plain address"),
    ],
)
def test_a_wrong_value_is_named_and_never_shown(common, values, named, words):
    with pytest.raises(ConfigurationError) as raised:
        account_settings(common, SPECS["email"], values)

    assert words in raised.value.issues[named]
    assert "very" not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["email", "email:", ":x", "fax:reserva", "email:default", "email:Reserva", "email:a b", "email:" + "x" * 41]
)
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(ConfigurationError):
        check_account_name(name, ("crm", "email"))


def test_a_name_that_can_be_is_taken():
    check_account_name("email:reserva-2", ("crm", "email"))
