"""The settings of an account that an operator added: its own values in the place of those of the account `default`."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from config.settings import ConfigurationError, Settings, issues_of
from config.spec import Spec

# These say how the whole system works and not who we are to a provider; they stay in the environment.
_COMMON = frozenset({"CRM_TIMEOUT", "CRM_MAX_RETRIES", "WHATSAPP_WEBHOOK_URL"})
_NAME = re.compile(r"[a-z][a-z0-9_]*:[a-z0-9][a-z0-9_-]{0,39}")


def own_variables(spec: Spec) -> tuple[str, ...]:
    """Return the variables that each account of an integration has for itself, as its form lists them."""
    return tuple(each for each in spec.variables if each not in _COMMON)


class AccountSettings(Settings):
    """What an added account sees: nothing of the environment, so that it never lends another account's credential.

    Attributes:
        own: The account's values by variable, those that `Settings` has no field for among them.
    """

    own: Mapping[str, SecretStr] = {}

    def secrets(self, variable: str) -> tuple[str, ...]:
        """See `Settings.secrets`; only the account's own values are looked at."""
        value = self.own.get(variable)
        return tuple(each.strip() for each in value.get_secret_value().split(",") if each.strip()) if value else ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Look at nothing but what is given."""
        return (init_settings,)


def check_account_name(name: str, services: Collection[str]) -> None:
    """Make sure that an account may be called so.

    Args:
        services: Those that accounts can be added to, e.g. ("crm", "email", "whatsapp").

    Raises:
        ConfigurationError: The name is not {service}:{word}, or no such service is there, or the word is `default`.
    """
    service, _, word = name.partition(":")
    if not _NAME.fullmatch(name) or service not in services:
        known = ", ".join(sorted(services))
        raise ConfigurationError({name: f"wanted service:name in small letters, the service one of {known}"})
    if word == "default":
        raise ConfigurationError({name: "is set by the environment, not here"})


def account_settings(common: Settings, spec: Spec, values: Mapping[str, str]) -> Settings:
    """Return the settings of an added account, checked as those of the environment are.

    Args:
        common: The settings of this process; what does not belong to the integration comes from them.
        values: The account's own, by variable. Shape: {"SMTP_HOST": "smtp.example.com", "FROM_EMAIL": "..."}

    Raises:
        ConfigurationError: A variable is not the integration's, is wrong, or is missing; never shows a value.
    """
    own = own_variables(spec)
    strange = [each for each in values if each not in own]
    if strange:
        raise ConfigurationError(dict.fromkeys(strange, f"not a variable of this account; wanted {', '.join(own)}"))
    given: dict[str, Any] = {name: getattr(common, name) for name in Settings.model_fields}
    given |= dict.fromkeys((each.lower() for each in own if each.lower() in given), None)
    given |= {name.lower(): value for name, value in values.items() if name.lower() in given}
    kept = {name: value for name, value in given.items() if value is not None}
    try:
        found = AccountSettings(**kept, own={name: SecretStr(value) for name, value in values.items()})
    except ValidationError as err:
        # The cause would carry the values.
        raise ConfigurationError(issues_of(err)) from None
    missing = found.configured_services().get(spec.name, ())
    if missing:
        raise ConfigurationError(dict.fromkeys(missing, "missing; give it too"))
    return found
