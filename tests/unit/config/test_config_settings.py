"""The environment is read once, checked as a whole, and never repeated in a message."""

import base64
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import config.settings
from config.settings import ConfigurationError, Settings, load_settings

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(32)).decode()
PRODUCTION = {
    "ENTREGA_ENV": "production",
    "ENTREGA_MASTER_KEYS": KEY,
    "DATABASE_URL": "postgresql://entrega:s3gredo-banco@db.example/entrega",
    "REDIS_URL": "rediss://:s3gredo-redis@redis.example:6379/0",
}

SECRETS = (
    "CRM_API_KEY",
    "CRM_CLIENT_SECRET",
    "WHATSAPP_ACCESS_TOKEN",
    "WHATSAPP_APP_SECRET",
    "WHATSAPP_VERIFY_TOKEN",
    "SMTP_PASSWORD",
    "ENTREGA_BOOTSTRAP_KEY",
    "ENTREGA_API_KEY",
)
IMPORT_AND_WATCH = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import config.settings, config.policy, config.timetable
sys.exit(any(each.endswith((".env", ".yaml")) for each in opened))
"""


@pytest.fixture(autouse=True)
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An environment and a working directory with nothing in them."""
    empty: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", empty)
    monkeypatch.chdir(tmp_path)
    return empty


def _refusal() -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    return caught.value


@pytest.mark.parametrize(("value", "found"), [("", []), ("10.0.0.5", ["10.0.0.5/32"]),
                                              (" 10.0.0.5 , 172.16.0.0/12,2001:db8::/32",
                                               ["10.0.0.5/32", "172.16.0.0/12", "2001:db8::/32"])])  # fmt: skip
def test_trusted_proxies_are_addresses_and_networks(
    monkeypatch: pytest.MonkeyPatch, value: str, found: list[str]
) -> None:
    monkeypatch.setenv("ENTREGA_TRUSTED_PROXIES", value)

    assert [str(each) for each in load_settings().entrega_trusted_proxies] == found


@pytest.mark.parametrize("value", ["*", "10.0.0.5/8", "proxy.internal", "10.0.0.5;10.0.0.6"])
def test_what_is_no_network_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ENTREGA_TRUSTED_PROXIES", value)

    with pytest.raises(ConfigurationError, match="ENTREGA_TRUSTED_PROXIES: wanted addresses or networks"):
        load_settings()


def test_nothing_needs_to_be_set_in_the_sandbox() -> None:
    settings = load_settings()

    assert (settings.entrega_env, settings.entrega_host, settings.entrega_port) == ("sandbox", "127.0.0.1", 8080)
    assert (settings.entrega_data, settings.entrega_log) == (Path(".entrega"), "auto")
    assert settings.database_url is None
    assert settings.redis_url is None
    assert settings.enable_metrics


def test_a_complete_production_environment_is_accepted(env: dict[str, str]) -> None:
    env.update(PRODUCTION, CRM_API_URL="https://crm.example/", CRM_TIMEOUT="30", CRM_MAX_RETRIES="3")

    settings = load_settings()

    assert settings.crm_api_url == "https://crm.example"
    assert (settings.crm_timeout, settings.crm_max_retries) == (30, 3)


def test_a_dot_env_file_is_read_and_the_environment_wins(env: dict[str, str]) -> None:
    Path(".env").write_text("ENTREGA_PORT=9000\nENTREGA_LOG=json\nUNRELATED=1\n", encoding="utf-8")
    env["ENTREGA_LOG"] = "console"

    settings = load_settings()

    assert (settings.entrega_port, settings.entrega_log) == (9000, "console")


def test_an_empty_variable_counts_as_unset(env: dict[str, str]) -> None:
    env["CRM_API_URL"] = ""

    assert load_settings().crm_api_url is None


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_outside_the_sandbox_real_servers_and_keys_are_required(env: dict[str, str], environment: str) -> None:
    env["ENTREGA_ENV"] = environment

    refusal = _refusal()

    assert set(refusal.issues) == {"DATABASE_URL", "REDIS_URL", "ENTREGA_MASTER_KEYS"}


def test_everything_that_is_wrong_is_told_at_once(env: dict[str, str]) -> None:
    env.update(
        ENTREGA_ENV="production",
        ENTREGA_PORT="eighty",
        CRM_API_URL="http://crm.example",
        CRM_TIMEOUT="-1",
        WHATSAPP_PHONE_NUMBER_ID="+5511999990001",
        SMTP_HOST="smtp.example",
        FROM_EMAIL="nobody",
    )

    refusal = _refusal()

    assert set(refusal.issues) == {
        "ENTREGA_PORT",
        "ENTREGA_MASTER_KEYS",
        "DATABASE_URL",
        "REDIS_URL",
        "CRM_API_URL",
        "CRM_TIMEOUT",
        "WHATSAPP_PHONE_NUMBER_ID",
        "SMTP_PASSWORD",
        "FROM_EMAIL",
    }
    assert "9 settings are missing or wrong" in str(refusal)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("ENTREGA_ENV", "prod", "'sandbox', 'staging' or 'production'"),
        ("ENTREGA_LOG", "xml", "'auto', 'json' or 'console'"),
        ("ENTREGA_PORT", "70000", "less than or equal to 65535"),
        ("ENTREGA_MASTER_KEYS", "s3gredo!", "key 1 is not base64"),
        ("ENTREGA_MASTER_KEYS", f"{KEY},czNncmVkbw==", "key 2 has 7 bytes; wanted base64 of exactly 32"),
        ("ENTREGA_MASTER_KEYS", f"{KEY},{KEY}", "a key stands twice"),
        ("ENTREGA_BOOTSTRAP_KEY", "s3gredo com espaco", "one word of plain ASCII"),
        ("DATABASE_URL", "mysql://root:s3gredo@db/x", "wanted postgresql://user:password@host:5432/database"),
        ("REDIS_URL", "http://:s3gredo@redis", "wanted redis://host:6379/0"),
        ("REDIS_PORT", "0", "greater than or equal to 1"),
        ("ENABLE_METRICS", "perhaps", "valid boolean"),
        ("SENTRY_DSN", "https://s3gredo.example/1", "wanted the DSN of the project"),
        ("CRM_API_URL", "crm.example", "wanted a full URL such as https://"),
        ("CRM_API_URL", "https://user:s3gredo@crm.example", "must not hold a user, a password"),
        ("CRM_API_URL", "https://crm.example/?token=s3gredo", "must not hold a user, a password"),
        ("CRM_API_URL", "http://127.0.0.1:80\\@crm.example/", "wanted a full URL"),
        ("CRM_API_URL", "https://crm.example:99999", "wanted a full URL"),
        ("CRM_API_KEY", "s3gredo\nInjected: x", "one word of plain ASCII"),
        ("CRM_MAX_RETRIES", "-1", "greater than or equal to 0"),
        ("WHATSAPP_ACCESS_TOKEN", "s3gredo s3gredo", "one word of plain ASCII"),
        ("WHATSAPP_PHONE_NUMBER_ID", "../s3gredo", "wanted digits only"),
        ("SMTP_HOST", "smtp://s3gredo.example/", "without scheme or port"),
        ("FROM_EMAIL", "Equipe <s3gredo@example.com>", "one plain address"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_wanted_and_never_quoted(
    env: dict[str, str], name: str, value: str, wanted: str
) -> None:
    env[name] = value

    refusal = _refusal()

    assert list(refusal.issues) == [name]
    assert wanted in refusal.issues[name]
    assert "s3gredo" not in str(refusal)
    assert refusal.__cause__ is None


@pytest.mark.parametrize("name", ["CRM_API_URL", "CRM_TOKEN_URL", "WHATSAPP_API_URL", "WHATSAPP_WEBHOOK_URL"])
@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ("sandbox", "http://crm.example"),
        ("sandbox", "http://10.0.0.1:8000"),
        ("sandbox", "http://127.0.0.1.crm.example"),
        ("sandbox", "http://0.0.0.0:8000"),
        ("production", "http://127.0.0.1:8000"),
        ("staging", "http://localhost:8000"),
    ],
)
def test_plain_http_is_refused_but_to_loopback_in_the_sandbox(
    env: dict[str, str], name: str, environment: str, url: str
) -> None:
    env.update(PRODUCTION, ENTREGA_ENV=environment)
    env[name] = url

    refusal = _refusal()

    assert "plain http:// is accepted in sandbox only" in refusal.issues[name]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"])
def test_plain_http_to_loopback_is_accepted_in_the_sandbox(env: dict[str, str], url: str) -> None:
    env["CRM_API_URL"] = url

    assert load_settings().crm_api_url == url


@pytest.mark.parametrize(
    ("environment", "host"), [("sandbox", "smtp.example"), ("production", "127.0.0.1"), ("production", "smtp.example")]
)
def test_mail_without_a_login_is_refused_but_to_loopback_in_the_sandbox(
    env: dict[str, str], environment: str, host: str
) -> None:
    env.update(PRODUCTION, ENTREGA_ENV=environment, SMTP_HOST=host)

    refusal = _refusal()

    assert "SMTP without a login is accepted in sandbox only" in refusal.issues["SMTP_PASSWORD"]


def test_failpoints_are_refused_outside_the_sandbox(env: dict[str, str]) -> None:
    env.update(PRODUCTION, ENTREGA_FAILPOINTS="true")

    refusal = _refusal()

    assert list(refusal.issues) == ["ENTREGA_FAILPOINTS"]
    assert "sandbox only" in refusal.issues["ENTREGA_FAILPOINTS"]


def test_mail_to_loopback_may_be_plain_in_the_sandbox(env: dict[str, str]) -> None:
    env.update(SMTP_HOST="localhost", SMTP_PORT="2525", FROM_EMAIL="avisos@exemplo.com.br")

    settings = load_settings()

    assert settings.smtp_may_be_plain
    assert settings.configured_services()["email"] == ()


def test_a_user_without_a_password_is_refused(env: dict[str, str]) -> None:
    env.update(SMTP_HOST="localhost", SMTP_USER="robo")

    assert "set both or neither" in _refusal().issues["SMTP_PASSWORD"]


@pytest.mark.parametrize(
    ("given", "port", "use_ssl"),
    [
        ({}, 465, True),
        ({"SMTP_PORT": "465"}, 465, True),
        ({"SMTP_PORT": "587"}, 587, False),
        ({"SMTP_PORT": "2525"}, 2525, False),
        ({"SMTP_USE_SSL": "false"}, 587, False),
        ({"SMTP_USE_SSL": "true", "SMTP_PORT": "2525"}, 2525, True),
    ],
)
def test_the_smtp_port_and_its_encryption_follow_each_other(
    env: dict[str, str], given: dict[str, str], port: int, *, use_ssl: bool
) -> None:
    env.update(given)

    settings = load_settings()

    assert (settings.smtp_submission_port, settings.smtp_use_ssl) == (port, use_ssl)


@pytest.mark.parametrize(("port", "use_ssl"), [("465", "false"), ("587", "true")])
def test_a_port_that_cannot_speak_the_wanted_encryption_is_refused(
    env: dict[str, str], port: str, use_ssl: str
) -> None:
    env.update(SMTP_PORT=port, SMTP_USE_SSL=use_ssl)

    assert "does not fit SMTP_PORT" in _refusal().issues["SMTP_USE_SSL"]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_a_postgres_url_is_understood(env: dict[str, str], scheme: str) -> None:
    env["DATABASE_URL"] = f"{scheme}://u:p@db.example/entrega"

    settings = load_settings()

    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql+psycopg://u:p@db.example/entrega"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"REDIS_HOST": "redis.example"}, "redis://redis.example:6379/0"),
        ({"REDIS_HOST": "redis.example", "REDIS_PORT": "6380"}, "redis://redis.example:6380/0"),
        ({"REDIS_PORT": "6380"}, "redis://127.0.0.1:6380/0"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
        ({"REDIS_HOST": "redis.example", "REDIS_URL": "redis://other.example/1"}, "redis://other.example/1"),
    ],
)
def test_host_and_port_stand_in_for_a_missing_redis_url(env: dict[str, str], given: dict[str, str], url: str) -> None:
    env.update(given)

    settings = load_settings()

    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == url


PRIVATE = {"ENTREGA_PRIVATE_NETWORK": "true"}


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"REDIS_URL": "rediss://:s3gredo@redis.example:6379/0"}, "rediss://:s3gredo@redis.example:6379/0"),
        ({"REDIS_URL": "redis://127.0.0.1:6379/0"}, "redis://127.0.0.1:6379/0"),
        ({"REDIS_URL": "", "REDIS_PORT": "6379"}, "redis://127.0.0.1:6379/0"),
        (PRIVATE | {"REDIS_URL": "redis://:s3gredo@valkey:6379/0"}, "redis://:s3gredo@valkey:6379/0"),
        (PRIVATE | {"REDIS_URL": "redis://:s3gredo@10.0.0.7:6379/0"}, "redis://:s3gredo@10.0.0.7:6379/0"),
        (PRIVATE | {"REDIS_URL": "redis://u:s3gredo@redis.internal/0"}, "redis://u:s3gredo@redis.internal/0"),
    ],
)
def test_outside_the_sandbox_a_protected_redis_is_accepted(
    env: dict[str, str], given: dict[str, str], url: str
) -> None:
    env.update(PRODUCTION | given)

    settings = load_settings()

    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"REDIS_URL": "redis://:s3gredo@redis.example:6379/0"}, "redis:// is a plain line"),
        ({"REDIS_URL": "redis://:s3gredo@valkey:6379/0"}, "set ENTREGA_PRIVATE_NETWORK=true"),
        (PRIVATE | {"REDIS_URL": "redis://:s3gredo@redis.example:6379/0"}, "redis:// is a plain line"),
        (PRIVATE | {"REDIS_URL": "redis://valkey:6379/0"}, "needs a password"),
        ({"REDIS_URL": "rediss://redis.example:6379/0"}, "needs a password"),
        ({"REDIS_URL": "", "REDIS_HOST": "redis.example"}, "needs a password"),
        (PRIVATE | {"REDIS_URL": "", "REDIS_HOST": "10.0.0.7"}, "needs a password"),
    ],
)
def test_statement_26_outside_the_sandbox_a_redis_of_another_machine_needs_a_password_and_tls(
    env: dict[str, str], given: dict[str, str], words: str
) -> None:
    env.update(PRODUCTION | given)

    refusal = _refusal()

    assert set(refusal.issues) == {"REDIS_URL"}
    assert words in refusal.issues["REDIS_URL"]
    assert "s3gredo" not in str(refusal)


@pytest.mark.parametrize(
    ("given", "rest"),
    [
        ({"DATABASE_URL": "postgres://u:p@db.example/entrega"}, "u:p@db.example/entrega?sslmode=require"),
        ({"DATABASE_URL": "postgres://u:p@db.example/e?a=1"}, "u:p@db.example/e?a=1&sslmode=require"),
        ({"DATABASE_URL": "postgres://u:p@db.example/e?sslmode=verify-full"}, "u:p@db.example/e?sslmode=verify-full"),
        ({"DATABASE_URL": "postgres://u:p@postgres/entrega"}, "u:p@postgres/entrega?sslmode=require"),
        ({"DATABASE_URL": "postgres://u:p@[::1]/entrega"}, "u:p@[::1]/entrega"),
        ({"DATABASE_URL": "postgres:///entrega?host=/run/pg"}, "/entrega?host=/run/pg"),
        ({"DATABASE_URL": "postgres://u:p@localhost/e?host=::1"}, "u:p@localhost/e?host=::1"),
        (
            {"DATABASE_URL": "postgres://u:p@localhost/e?host=db.example"},
            "u:p@localhost/e?host=db.example&sslmode=require",
        ),
        (
            {"DATABASE_URL": "postgres://u:p@localhost/e?host=localhost:5432&host=db.example:5432"},
            "u:p@localhost/e?host=localhost:5432&host=db.example:5432&sslmode=require",
        ),
        (
            {"DATABASE_URL": "postgres://u:p@localhost/e?hostaddr=10.0.0.7"},
            "u:p@localhost/e?hostaddr=10.0.0.7&sslmode=require",
        ),
        (
            PRIVATE | {"DATABASE_URL": "postgres://u:p@postgres/e?host=db.example"},
            "u:p@postgres/e?host=db.example&sslmode=require",
        ),
        (PRIVATE | {"DATABASE_URL": "postgres://u:p@postgres:5432/entrega"}, "u:p@postgres:5432/entrega"),
        (PRIVATE | {"DATABASE_URL": "postgres://u:p@db.example/entrega"}, "u:p@db.example/entrega?sslmode=require"),
    ],
)
def test_statement_26_outside_the_sandbox_the_line_to_a_ledger_of_another_machine_is_encrypted(
    env: dict[str, str], given: dict[str, str], rest: str
) -> None:
    env.update(PRODUCTION | given)

    assert load_settings().ledger_url() == f"postgresql+psycopg://{rest}"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_outside_the_sandbox_a_line_that_may_be_plain_is_refused(env: dict[str, str], mode: str) -> None:
    env.update(PRODUCTION | {"DATABASE_URL": f"postgres://u:p@db.example/entrega?sslmode={mode}"})

    assert f"sslmode={mode} allows a plain line" in _refusal().issues["DATABASE_URL"]


@pytest.mark.parametrize("host", ["db.example", "10.0.0.7", "postgres", "localhost,db.example"])
def test_the_sandbox_keeps_to_ledgers_of_this_machine(env: dict[str, str], host: str) -> None:
    env["DATABASE_URL"] = f"postgres://u:p@{host}/entrega"
    settings = load_settings()

    with pytest.raises(ConfigurationError, match="set it to staging or production") as refused:
        settings.ledger_url()

    assert set(refused.value.issues) == {"ENTREGA_ENV"}


@pytest.mark.parametrize(
    ("given", "service", "absent"),
    [
        ({}, "crm", ("CRM_API_URL", "CRM_CLIENT_ID", "CRM_CLIENT_SECRET", "or CRM_API_KEY")),
        ({"CRM_API_URL": "https://crm.example", "CRM_API_KEY": "k"}, "crm", ()),
        ({"CRM_API_URL": "https://crm.example", "CRM_CLIENT_ID": "i"}, "crm", ("CRM_CLIENT_SECRET",)),
        ({"CRM_API_KEY": "k"}, "crm", ("CRM_API_URL",)),
        ({"WHATSAPP_ACCESS_TOKEN": "t"}, "whatsapp", ("WHATSAPP_PHONE_NUMBER_ID",)),
        ({"WHATSAPP_ACCESS_TOKEN": "t", "WHATSAPP_PHONE_NUMBER_ID": "109"}, "whatsapp", ()),
        ({}, "email", ("SMTP_HOST", "SMTP_USER", "SMTP_PASSWORD", "FROM_EMAIL")),
        ({"SMTP_HOST": "s.example", "SMTP_USER": "u", "SMTP_PASSWORD": "p"}, "email", ("FROM_EMAIL",)),
    ],
)
def test_each_service_tells_which_variables_it_still_lacks(
    env: dict[str, str], given: dict[str, str], service: str, absent: tuple[str, ...]
) -> None:
    env.update(given)

    assert load_settings().configured_services()[service] == absent


def test_the_urls_for_the_forms_hold_no_secret(env: dict[str, str]) -> None:
    env.update(CRM_API_URL="https://crm.example", CRM_API_KEY="s3gredo", SMTP_HOST="::1")

    assert load_settings().urls() == {"CRM_API_URL": "https://crm.example", "SMTP_HOST": "[::1]", "SMTP_PORT": "465"}


def test_no_secret_shows_when_settings_are_printed(env: dict[str, str]) -> None:
    env.update(PRODUCTION, SMTP_USER="robo", SENTRY_DSN="https://s3gredo@sentry.example/1")
    env.update(dict.fromkeys(SECRETS, "s3gredo-" * 4))

    settings = load_settings()

    printed = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "s3gredo" not in printed
    assert KEY not in printed


def test_settings_cannot_be_changed_once_read() -> None:
    settings = load_settings()

    with pytest.raises(ValueError, match="frozen"):
        settings.entrega_port = 1  # type: ignore[misc] # the point of the case


def test_master_keys_keep_their_order_because_the_first_one_seals(env: dict[str, str]) -> None:
    env["ENTREGA_MASTER_KEYS"] = f"{KEY}, {OTHER_KEY}"

    assert load_settings().master_keys() == (bytes(range(32)), bytes(32))


def test_the_sandbox_makes_a_master_key_once_and_only_its_owner_may_read_it(env: dict[str, str]) -> None:
    env["ENTREGA_DATA"] = "data"
    settings = load_settings()

    first, again = settings.master_keys(), settings.master_keys()

    kept = Path("data/master.key")
    assert first == again
    assert [len(key) for key in first] == [32]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert list(kept.parent.iterdir()) == [kept]


def test_a_key_is_never_made_for_a_ledger_that_the_environment_names(env: dict[str, str]) -> None:
    env["DATABASE_URL"] = "postgresql://u:p@127.0.0.1/entrega"
    settings = load_settings()

    with pytest.raises(ConfigurationError, match="the keys that this ledger was first used with") as refused:
        settings.master_keys()

    assert set(refused.value.issues) == {"ENTREGA_MASTER_KEYS"}
    assert not Path(".entrega").exists()


def test_a_key_that_was_made_earlier_is_read_where_the_environment_names_the_ledger(env: dict[str, str]) -> None:
    made = load_settings().master_keys()
    env["DATABASE_URL"] = "postgresql://u:p@127.0.0.1/entrega"

    assert load_settings().master_keys() == made


@pytest.mark.parametrize(
    ("given", "environment"),
    [
        ({}, "sandbox"),
        ({"ENTREGA_STANDINS": "true"}, "standins"),
        (PRODUCTION, "production"),
        (PRODUCTION | {"ENTREGA_ENV": "staging"}, "staging"),
    ],
)
def test_deliveries_belong_to_the_environment_and_those_of_stand_ins_to_one_of_their_own(
    env: dict[str, str], given: dict[str, str], environment: str
) -> None:
    env.update(given)

    assert load_settings().delivery_environment == environment


def test_stand_ins_are_refused_outside_the_sandbox(env: dict[str, str]) -> None:
    env.update(PRODUCTION, ENTREGA_STANDINS="true")

    assert "sandbox only" in _refusal().issues["ENTREGA_STANDINS"]


def test_an_agents_key_is_the_one_that_was_set(env: dict[str, str]) -> None:
    env["ENTREGA_API_KEY"] = "entrega_inventada"

    assert load_settings().api_key().get_secret_value() == "entrega_inventada"


def test_the_sandboxs_agent_works_with_its_admin_key_where_none_is_set() -> None:
    settings = load_settings()

    assert settings.api_key() == settings.bootstrap_key()


def test_outside_sandbox_an_agent_needs_a_key_of_its_own_even_where_there_is_an_admin_key(env: dict[str, str]) -> None:
    env.update(PRODUCTION | {"ENTREGA_BOOTSTRAP_KEY": "uma-chave-inventada-bem-comprida"})

    with pytest.raises(ConfigurationError, match="entrega keys create"):
        load_settings().api_key()


def test_a_damaged_master_key_is_never_replaced() -> None:
    kept = Path(".entrega/master.key")
    kept.parent.mkdir()
    kept.write_text("damaged", encoding="ascii")

    with pytest.raises(ConfigurationError, match="restore it from a backup, or set ENTREGA_MASTER_KEYS"):
        load_settings().master_keys()

    assert kept.read_text(encoding="ascii") == "damaged"


def test_importing_the_settings_reads_no_file_and_minds_no_variable() -> None:
    root, wrong = Path(config.settings.__file__).parents[1], {"ENTREGA_PORT": "eighty"}

    done = subprocess.run(
        [sys.executable, "-c", IMPORT_AND_WATCH], cwd=root, env=wrong, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_settings_given_by_hand_are_checked_alike() -> None:
    with pytest.raises(ValueError, match="plain http"):
        Settings(crm_api_url="http://crm.example")


def test_a_configuration_error_survives_the_border_between_processes() -> None:
    error = ConfigurationError({"DATABASE_URL": "required"})

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert (str(copy), copy.issues) == (str(error), error.issues)
