"""docker-compose.yml, `.env.example`, the settings and docs/configuration.md say the same, variable by variable."""

import re
from pathlib import Path

import pytest
import yaml

from config.settings import Settings

HOME = Path(__file__).parents[3]
SERVICES = yaml.safe_load((HOME / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
OURS = {name for name, each in SERVICES.items() if "build" in each}
PAGE = (HOME / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLE = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (HOME / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
FIELDS = {name.upper() for name in Settings.model_fields}
# Made by docker compose for its own servers, or Flower's own: no settings of ours.
OF_OTHERS = {
    *("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "VALKEY_PRODUCER_PASSWORD", "VALKEY_FLOWER_PASSWORD"),
    *("VALKEY_FOREIGN_PASSWORD", "FLOWER_BASIC_AUTH", "FLOWER_ADDRESS", "FLOWER_PORT"),
}


def table(heading):
    """Return the rows of the table below a heading of the page, as lists of cells."""
    body = PAGE.split(heading, 1)[1].split("\n#", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")]
    return rows[2:]


def names(cell):
    return set(re.findall(r"`([A-Z][A-Z0-9_]+)`", cell))


EXPLAINED = {name for line in PAGE.splitlines() if line.startswith("| `") for name in names(line.split(" | ")[0])}
GIVEN = {
    name: {"all": OURS, "none": set()}.get(row[1], set(row[1].split(", ")))
    for row in table("### Who gets what in docker compose")
    for name in names(row[0])
}


@pytest.mark.parametrize("variable", sorted(FIELDS | OF_OTHERS))
def test_a_variable_reaches_exactly_the_containers_that_the_page_names(variable):
    reached = {name for name in OURS if variable in SERVICES[name].get("environment", {})}

    assert GIVEN.get(variable) == reached


def test_no_container_gets_a_variable_that_no_setting_explains():
    given = {each for name in OURS for each in SERVICES[name]["environment"]}

    assert given <= FIELDS | OF_OTHERS


def test_every_row_of_the_table_says_why():
    assert [row for row in table("### Who gets what in docker compose") if len(row) != 3 or not row[2]] == []


def test_every_setting_is_explained_and_stands_in_the_example_and_nothing_else_does():
    assert FIELDS <= EXPLAINED
    assert FIELDS <= EXAMPLE
    assert EXAMPLE <= FIELDS | OF_OTHERS


def test_every_variable_that_compose_asks_for_stands_in_the_example():
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", (HOME / "docker-compose.yml").read_text(encoding="utf-8")))

    assert asked <= EXAMPLE


def test_every_page_says_how_many_values_compose_requires():
    compose = (HOME / "docker-compose.yml").read_text(encoding="utf-8")
    pages = compose, *((HOME / name).read_text(encoding="utf-8") for name in ("README.md", "README.pt-BR.md"))

    assert len(set(re.findall(r"\$\{(\w+):\?", compose))) == 6
    for page, told in zip(pages, ("six required values", "six required values", "seis valores"), strict=True):
        assert told in page


def test_beat_and_flower_hold_neither_the_keys_nor_the_ledger_nor_a_provider():
    secret = {"DATABASE_URL", "ENTREGA_MASTER_KEYS", "POSTGRES_PASSWORD", "ENTREGA_BOOTSTRAP_KEY"}
    provider = {each for each in FIELDS if each.startswith(("CRM_", "WHATSAPP_", "SMTP_"))}

    for part in ("beat", "flower"):
        assert SERVICES[part]["environment"].keys() & (secret | provider) == set()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_statement_52_containers_run_without_root_read_only_without_rights_and_within_bounds(name):
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] <= 1024
    assert "privileged" not in service
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service.get("user", image_user()))
    assert all(str(each).startswith("127.0.0.1:") for each in service.get("ports", []))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_container_fills_the_disk_with_its_log(name):
    assert SERVICES[name]["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}


def image_user():
    """Return the user that our image runs as, as numbers."""
    text = (HOME / "Dockerfile").read_text(encoding="utf-8")
    last = re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1]
    number = re.search(rf"useradd --uid (\d+) --user-group .* --shell /usr/sbin/nologin {last}\b", text)[1]
    return f"{number}:{number}"
