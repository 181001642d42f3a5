"""The section `webhook` of a form, and the secrets that it names."""

import pytest
import yaml
from pydantic import ValidationError

import config.policy
from config.policy import SpecError, Webhook, read_spec
from config.settings import load_settings

FORMS = config.policy._INTEGRATIONS
SIGNATURE = {"header": "X-Signature", "algorithm": "sha256", "format": "{hex}", "secret": "OWN_SECRET"}


def webhook(**changes):
    return Webhook.model_validate({"signature": SIGNATURE, "max_bytes": 1000, **changes}, by_alias=True, by_name=False)


@pytest.mark.parametrize("form", ["sha256=", "{hex}{hex}", "{hex}{base64}", "{digest}"])
def test_a_signature_has_one_form(form):
    with pytest.raises(ValidationError, match="once"):
        webhook(signature=SIGNATURE | {"format": form})


@pytest.mark.parametrize("network", ["anywhere", "10.0.0.1/8", "300.0.0.0/8"])
def test_a_network_must_be_one(network):
    with pytest.raises(ValidationError):
        webhook(networks=[network])


def test_no_event_is_taken_that_is_older_than_repeats_are_recognised():
    assert webhook(oldest_s=9 * 86400).oldest.days == 9

    with pytest.raises(ValidationError, match="oldest_s"):
        webhook(oldest_s=9 * 86400 + 1)


def test_an_algorithm_that_is_broken_is_not_offered():
    with pytest.raises(ValidationError):
        webhook(signature=SIGNATURE | {"algorithm": "sha1"})


def test_a_form_whose_adapter_cannot_read_webhooks_must_describe_them(tmp_path):
    form = yaml.safe_load((FORMS / "crm.yaml").read_text())
    (tmp_path / "crm.yaml").write_text(yaml.safe_dump(form | {"webhook": {"signature": SIGNATURE, "max_bytes": 1000}}))

    with pytest.raises(SpecError, match="does not know what stands in"):
        read_spec(tmp_path / "crm.yaml")


@pytest.mark.parametrize(
    ("value", "secrets"), [("new,old", ("new", "old")), ("one", ("one",)), ("new,,", ("new",)), (",", ())]
)
def test_a_comma_stands_between_the_secrets_of_a_rotation(value, secrets):
    settings = load_settings({"whatsapp_app_secret": value})

    assert settings.secrets("WHATSAPP_APP_SECRET") == secrets


def test_a_form_may_name_a_secret_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("OWN_SECRET=from-file\nOTHER_SECRET=from-file\n")
    monkeypatch.setenv("OWN_SECRET", "from-environment")
    settings = load_settings()

    assert settings.secrets("OWN_SECRET") == ("from-environment",)
    assert settings.secrets("OTHER_SECRET") == ("from-file",)
    assert settings.secrets("ABSENT_SECRET") == ()
