"""The environment, read once and checked: the only place in the project that looks at it.

Every variable has one field here, named alike in lower case. Nothing is read on import; `load_settings` reads
the environment and `.env`, and either returns a complete picture or says in one message all that is wrong.
Values of variables never appear in a message.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import Field, SecretStr, StringConstraints, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from config.api_key_text import LEAST_BOOTSTRAP, new_api_key
from config.kept_text import kept_text
from config.master_keys import ADVICE, decoded_keys, kept_keys
from config.retention import Periods, periods_of
from config.running import announced
from config.server_urls import (
    encrypted_postgres_url,
    is_loopback,
    is_on_this_machine,
    postgres_url,
    protected_redis_url,
    redis_url,
    split_url,
)

_SMTPS_PORT, _SUBMISSION_PORT = 465, 587  # Source: RFC 8314 section 3.3 and RFC 6409 section 3.1, read 2026-11-22
_IMPLICIT_TLS_PORTS = frozenset({_SMTPS_PORT, 2465})  # 2465 is what some providers open beside it

_WHATSAPP_SECRETS = ("whatsapp_access_token", "whatsapp_app_secret", "whatsapp_verify_token")

_NO_KEY_MADE = "required with DATABASE_URL: give every process the keys that this ledger was first used with"
_SANDBOX_STAYS_HERE = (
    "sandbox (the default) keeps to this machine, and DATABASE_URL names another one; set it to staging or production"
)
# The environment of deliveries whose providers are stand-ins.
STANDINS = "standins"

Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class ConfigurationError(ValueError):
    """The environment cannot be used as it is.

    Attributes:
        issues: What is wrong with each variable, by name; never a value.
    """

    def __init__(self, issues: Mapping[str, str]) -> None:
        self.issues = dict(issues)
        listing = "\n".join(f"  {name}: {issue}" for name, issue in self.issues.items())
        how_many = "1 setting is" if len(self.issues) == 1 else f"{len(self.issues)} settings are"
        super().__init__(
            f"{how_many} missing or wrong. Correct this in the environment or in .env, then try again.\n{listing}"
        )

    def __reduce__(self) -> tuple[type["ConfigurationError"], tuple[Mapping[str, str]]]:
        """Keep the issues when the error crosses a process border."""
        return type(self), (self.issues,)


def _is_plain_allowed(environment: str | None, host: str) -> bool:
    # None means that ENTREGA_ENV itself is wrong: that is said elsewhere, and once is enough.
    return environment is None or (environment == "sandbox" and is_loopback(host))


def _checked_url(url: str, environment: str | None) -> str:
    parts = split_url(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("wanted a full URL such as https://api.example.com")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "must not hold a user, a password, a query or a fragment; credentials have variables of their own"
        )
    if parts.scheme == "http" and not _is_plain_allowed(environment, parts.hostname):
        raise ValueError("plain http:// is accepted in sandbox only, and only to loopback; use https://")
    return url.rstrip("/")


class Settings(BaseSettings):
    """Everything the environment says; see `docs/configuration.md` for a table of the variables.

    The order of the fields matters: a check may look at the fields above it.

    Attributes:
        needs_ledger: Whether DATABASE_URL and ENTREGA_MASTER_KEYS are demanded outside the sandbox.
        entrega_env: Everything but `sandbox` demands real servers, real keys and encrypted lines.
        entrega_trusted_proxies: Whose `X-Forwarded-For` is believed; a comma between several addresses or networks.
        entrega_requests_per_key: Requests of one API key under way at the same time in one web process.
        entrega_workers: Worker processes in all; while Redis is away each keeps to its share of an account's limits.
        entrega_data: Folder for what this machine keeps, such as the sandbox's master key.
        entrega_private_network: The network to Postgres and Redis is private, so that its lines may be plain.
        entrega_standins: The providers are stand-ins: deliveries accepted now never go to real ones. Sandbox only.
        entrega_integrations: Folder of integration forms that replace the shipped ones, all of them.
        entrega_keep: Days that ended deliveries, events and records stay; see `config.retention`.
        entrega_remote_control: Let workers answer Flower's questions; see `worker.control`.
        entrega_failpoints: Let a worker be ended or deceived at named points, as the fault suite orders; sandbox only.
        crm_timeout: Seconds; None leaves the CRM's form in force.
        crm_max_retries: Upper bound for the short retries of the CRM; None leaves the form in force.
        smtp_use_ssl: TLS from the first byte; without it STARTTLS is demanded unless `smtp_may_be_plain`.
    """

    needs_ledger: ClassVar[bool] = True

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    entrega_env: Literal["sandbox", "staging", "production"] = "sandbox"
    entrega_data: Path = Path(".entrega")
    entrega_log: Literal["auto", "json", "console"] = "auto"
    entrega_workers: Annotated[int, Field(ge=1, le=1000)] = 2
    entrega_host: Text = "127.0.0.1"
    entrega_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    entrega_trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    entrega_requests_per_key: Annotated[int, Field(ge=1, le=400)] = 200
    entrega_bootstrap_key: SecretStr | None = None
    entrega_api_key: SecretStr | None = None
    entrega_integrations: Path | None = None
    entrega_failpoints: bool = False
    entrega_remote_control: bool = False
    entrega_standins: bool = False
    entrega_private_network: bool = False
    entrega_master_keys: SecretStr | None = None
    entrega_keep: str = ""

    database_url: SecretStr | None = None
    redis_host: Text | None = None
    redis_port: Port | None = None
    redis_url: SecretStr | None = None
    enable_metrics: bool = True
    prometheus_multiproc_dir: Path | None = None
    sentry_dsn: SecretStr | None = None

    crm_api_url: Text | None = None
    crm_token_url: Text | None = None
    crm_api_key: SecretStr | None = None
    crm_client_id: Text | None = None
    crm_client_secret: SecretStr | None = None
    crm_timeout: Annotated[float, Field(gt=0, le=300)] | None = None
    crm_max_retries: Annotated[int, Field(ge=0, le=20)] | None = None

    whatsapp_api_url: Text | None = None
    whatsapp_access_token: SecretStr | None = None
    whatsapp_phone_number_id: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,32}$")] | None = None
    whatsapp_app_secret: SecretStr | None = None
    whatsapp_verify_token: SecretStr | None = None
    whatsapp_webhook_url: Text | None = None

    smtp_host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:\[\]_-]{1,255}$")] | None = None
    smtp_port: Port | None = None
    smtp_use_ssl: bool | None = None
    smtp_user: Text | None = None
    smtp_password: SecretStr | None = None
    from_email: Annotated[str, StringConstraints(pattern=r"^[^@\s<>,]+@[^@\s<>,]+$")] | None = None

    @field_validator("entrega_bootstrap_key", "entrega_api_key", "crm_api_key", "crm_client_secret", *_WHATSAPP_SECRETS)
    @classmethod
    def _secret_is_one_word(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
            raise ValueError("must be one word of plain ASCII without spaces or line breaks; paste it again")
        return value

    @field_validator("entrega_bootstrap_key")
    @classmethod
    def _bootstrap_key_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < LEAST_BOOTSTRAP:
            raise ValueError(f"too short for an admin key; wanted at least {LEAST_BOOTSTRAP} random characters")
        return value

    @field_validator("entrega_trusted_proxies", mode="before")
    @classmethod
    def _proxies_are_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return tuple(ip_network(each.strip()) for each in value.split(",") if each.strip())
        except ValueError:
            raise ValueError("wanted addresses or networks such as 10.0.0.5,172.16.0.0/12") from None

    @field_validator("entrega_master_keys")
    @classmethod
    def _master_keys_are_whole(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            decoded_keys(value.get_secret_value())
        elif cls.needs_ledger and _is_beyond_sandbox(info):
            raise ValueError(f"required outside sandbox; wanted base64 of 32 bytes, a comma between several ({ADVICE})")
        return value

    @field_validator("entrega_keep")
    @classmethod
    def _periods_are_days(cls, value: str) -> str:
        periods_of(value)
        return value

    @field_validator("entrega_failpoints")
    @classmethod
    def _failpoints_stay_in_the_sandbox(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's shape
        if value and info.data.get("entrega_env") != "sandbox":
            raise ValueError("failpoints end workers on purpose: accepted in sandbox only; unset it")
        return value

    @field_validator("entrega_standins")
    @classmethod
    def _standins_stay_in_the_sandbox(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's shape
        if value and _is_beyond_sandbox(info):
            raise ValueError("stand-ins are accepted in sandbox only; unset it")
        return value

    @field_validator("database_url")
    @classmethod
    def _database_is_postgres(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            url = postgres_url(value.get_secret_value())
            private = bool(info.data.get("entrega_private_network"))
            return SecretStr(encrypted_postgres_url(url, private=private) if _is_beyond_sandbox(info) else url)
        if cls.needs_ledger and _is_beyond_sandbox(info):
            raise ValueError("required outside sandbox; wanted postgresql://user:password@host:5432/database")
        return None

    @field_validator("redis_url")
    @classmethod
    def _redis_is_known(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        host, port = info.data.get("redis_host"), info.data.get("redis_port")
        if value is not None:
            url = redis_url(value.get_secret_value())
        elif host or port:
            url = f"redis://{_bracketed(host or '127.0.0.1')}:{port or 6379}/0"
        elif _is_beyond_sandbox(info):
            raise ValueError("required outside sandbox; wanted rediss://:password@host:6379/0")
        else:
            return None
        private = bool(info.data.get("entrega_private_network"))
        return SecretStr(protected_redis_url(url, private=private) if _is_beyond_sandbox(info) else url)

    @field_validator("sentry_dsn")
    @classmethod
    def _dsn_is_a_url(cls, value: SecretStr | None) -> SecretStr | None:
        parts = split_url(value.get_secret_value()) if value is not None else None
        if value is not None and (parts is None or parts.scheme not in {"http", "https"} or not parts.username):
            raise ValueError("wanted the DSN of the project, such as https://key@host/1")
        return value

    @field_validator("crm_api_url", "crm_token_url", "whatsapp_api_url", "whatsapp_webhook_url")
    @classmethod
    def _url_is_safe(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else _checked_url(value, info.data.get("entrega_env"))

    @field_validator("smtp_use_ssl")
    @classmethod
    def _tls_follows_the_port(cls, value: bool | None, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's shape
        port = info.data.get("smtp_port")
        tls_port = port in _IMPLICIT_TLS_PORTS
        wrong = port == _SUBMISSION_PORT if value else tls_port
        if value is not None and wrong:
            raise ValueError(f"does not fit SMTP_PORT {port}; 465 goes with true, 587 (STARTTLS) with false")
        return value if value is not None else port is None or tls_port

    @field_validator("smtp_password")
    @classmethod
    def _login_is_whole(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        host, user = info.data.get("smtp_host"), info.data.get("smtp_user")
        if (user is None) != (value is None):
            raise ValueError("SMTP_USER and SMTP_PASSWORD go together; set both or neither")
        if host and not user and not _is_plain_allowed(info.data.get("entrega_env"), host):
            raise ValueError(
                "SMTP without a login is accepted in sandbox only, and only to loopback; set it and SMTP_USER"
            )
        return value

    @property
    def delivery_environment(self) -> str:
        """The environment that deliveries accepted now belong to; no other environment ever sends them."""
        return STANDINS if self.entrega_standins else self.entrega_env

    def ledger_url(self) -> str | None:
        """Return where the ledger is; None where DATABASE_URL is unset.

        Raises:
            ConfigurationError: The ledger is on another machine, and the rules of the sandbox are in force.
        """
        url = self.database_url.get_secret_value() if self.database_url is not None else None
        if url is not None and self.entrega_env == "sandbox" and not is_on_this_machine(url):
            raise ConfigurationError({"ENTREGA_ENV": _SANDBOX_STAYS_HERE})
        return url

    @property
    def smtp_submission_port(self) -> int:
        """SMTP_PORT, or the usual port: 465 for TLS from the start, 587 for STARTTLS."""
        return self.smtp_port or (_SMTPS_PORT if self.smtp_use_ssl else _SUBMISSION_PORT)

    @property
    def smtp_may_be_plain(self) -> bool:
        """True when mail may go without TLS: in the sandbox, to this machine."""
        return self.entrega_env == "sandbox" and is_loopback(self.smtp_host or "")

    def urls(self) -> Mapping[str, str]:
        """Return the variables that an integration spec may name in a URL; none of them is secret."""
        found = {
            "CRM_API_URL": self.crm_api_url,
            "CRM_TOKEN_URL": self.crm_token_url,
            "WHATSAPP_API_URL": self.whatsapp_api_url,
            "SMTP_HOST": _bracketed(self.smtp_host) if self.smtp_host else None,
            "SMTP_PORT": str(self.smtp_submission_port),
        }
        return {name: value for name, value in found.items() if value is not None}

    def secrets(self, variable: str) -> tuple[str, ...]:
        """Return what a variable that a form names holds, newest first; a comma stands between several.

        A variable that has no field here is looked for in the environment, then in `.env`: a new form brings its own.
        """
        known = getattr(self, variable.lower(), None)
        value = known.get_secret_value() if isinstance(known, SecretStr) else _own_variable(variable)
        return tuple(each.strip() for each in value.split(",") if each.strip())

    def configured_services(self) -> Mapping[str, tuple[str, ...]]:
        """Return, for each service, the names of the variables it still lacks; none means it can be used.

        A service that lacks something is not a start error: its commands are held until it is configured.
        Shape: {"crm": (), "whatsapp": ("WHATSAPP_ACCESS_TOKEN",), "email": ("SMTP_HOST", "FROM_EMAIL"), "callback": ()}
        """
        login = () if self.smtp_may_be_plain else ("smtp_user", "smtp_password")
        return {
            "crm": self._absent("crm_api_url") + self._absent_crm_credentials(),
            "whatsapp": self._absent("whatsapp_access_token", "whatsapp_phone_number_id"),
            "email": self._absent("smtp_host", *login, "from_email"),
            "callback": (),
        }

    def _absent(self, *fields: str) -> tuple[str, ...]:
        return tuple(each.upper() for each in fields if getattr(self, each) is None)

    def _absent_crm_credentials(self) -> tuple[str, ...]:
        if self.crm_api_key is not None:
            return ()
        absent = self._absent("crm_client_id", "crm_client_secret")
        return absent if len(absent) < 2 else (*absent, "or CRM_API_KEY")  # noqa: PLR2004 - both parts of one login

    def master_keys(self) -> tuple[bytes, ...]:
        """Return the keys that seal the data keys: the first seals, every one opens.

        Where ENTREGA_MASTER_KEYS is unset, the key that `entrega up` made for its embedded ledger is read from
        ENTREGA_DATA. It is made only where DATABASE_URL is unset: the key of any other ledger exists already.

        Raises:
            ConfigurationError: There is no key, or the kept one cannot be read or written, or is not a key.
        """
        if self.entrega_master_keys is not None:
            return decoded_keys(self.entrega_master_keys.get_secret_value())
        file = self.entrega_data / "master.key"
        if self.database_url is not None and not file.exists():
            raise ConfigurationError({"ENTREGA_MASTER_KEYS": f"{_NO_KEY_MADE} (for a new ledger: {ADVICE})"})
        try:
            return kept_keys(file)
        except (OSError, ValueError) as err:
            advice = f"{file} cannot be used ({err}); restore it from a backup, or set ENTREGA_MASTER_KEYS"
            raise ConfigurationError({"ENTREGA_MASTER_KEYS": advice}) from err

    @property
    def periods(self) -> Periods:
        """How long the ledger keeps what it no longer needs."""
        return periods_of(self.entrega_keep)

    @property
    def bootstrap_key_file(self) -> Path:
        """Where the sandbox keeps the admin key that it makes for itself."""
        return self.entrega_data / "bootstrap.key"

    def bootstrap_key(self) -> SecretStr | None:
        """Return the admin API key, or None; the sandbox makes one and keeps it when ENTREGA_BOOTSTRAP_KEY is unset.

        Raises:
            ConfigurationError: The kept key cannot be read or written.
        """
        if self.entrega_bootstrap_key is not None or self.entrega_env != "sandbox":
            return self.entrega_bootstrap_key
        try:
            return SecretStr(kept_text(self.bootstrap_key_file, new_api_key))
        except (OSError, ValueError) as err:
            advice = f"{self.bootstrap_key_file} cannot be used ({type(err).__name__}); remove it, or set this variable"
            raise ConfigurationError({"ENTREGA_BOOTSTRAP_KEY": advice}) from err

    def api_key(self) -> SecretStr:
        """Return the key that a door on this machine works with for an agent: in the sandbox the admin key, if unset.

        Raises:
            ConfigurationError: ENTREGA_API_KEY is unset, and this is no sandbox.
        """
        key = self.entrega_api_key or (self.bootstrap_key() if self.entrega_env == "sandbox" else None)
        if key is None:
            advice = "required here outside sandbox; make a key with: entrega keys create <producer>"
            raise ConfigurationError({"ENTREGA_API_KEY": advice})
        return key

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over `.env`, and both over what `entrega up` announced in this folder."""
        return init_settings, env_settings, dotenv_settings, _Announced(settings_cls)


class BrokerSettings(Settings):
    """What beat and Flower need: the broker. They open no ledger, so they start without what opens it."""

    needs_ledger: ClassVar[bool] = False


def _own_variable(name: str) -> str:
    return os.environ.get(name) or dotenv_values(".env").get(name) or ""


class _Announced(PydanticBaseSettingsSource):
    """The variables that the system running on this machine has announced in the data folder."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - as asked
        """Answer for one field; everything is answered at once by calling the source."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the announced values by field name."""
        folder = str(self.current_state.get("entrega_data", ".entrega"))
        known = self.settings_cls.model_fields
        return {name.lower(): value for name, value in announced(Path(folder)).items() if name.lower() in known}


def load_settings(overrides: Mapping[str, Any] | None = None, kind: type[Settings] = Settings) -> Settings:
    """Read the environment, `.env` in the working directory, and what runs in the data folder.

    Args:
        overrides: Values by field name that win over all of these.
        kind: What this process needs.

    Raises:
        ConfigurationError: Something is missing or wrong; one message names every variable and what to do.
    """
    try:
        return kind(**(overrides or {}))
    except ValidationError as err:
        # The cause would carry the values.
        raise ConfigurationError(issues_of(err)) from None


def issues_of(err: ValidationError) -> Mapping[str, str]:
    """Return what is wrong with each variable, by name; never a value."""
    listed = err.errors(include_url=False, include_input=False)
    return {str(each["loc"][0]).upper(): _issue(each) for each in listed}


def _issue(error: Mapping[str, Any]) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return _PLAIN_WORDS.get(str(error["loc"][0])) or str(error["msg"])


_PLAIN_WORDS: Mapping[str, str] = {
    "whatsapp_phone_number_id": "wanted digits only: the phone number id of the Meta app, not the phone number",
    "smtp_host": "wanted a host name or an address, without scheme or port",
    "from_email": "wanted one plain address such as avisos@example.com",
}


def _is_beyond_sandbox(info: ValidationInfo) -> bool:
    return info.data.get("entrega_env") in {"staging", "production"}


def _bracketed(host: str) -> str:
    bare = host.strip("[]")
    return f"[{bare}]" if ":" in bare else quote(bare)
