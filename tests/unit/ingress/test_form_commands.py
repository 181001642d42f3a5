import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import config.integrations
from config.policy import load_specs
from ingress.cli import cli
from ingress.form_page import form_page

SHIPPED = Path(config.integrations.__file__).parent
SECTIONS = [
    "1. Visão Geral", "2. Informações da API", "3. Endpoints Utilizados", "4. Fluxo de Integração",
    "5. Tratamento de Erros", "6. Cache Strategy", "7. Monitoramento e Observabilidade", "8. Segurança", "9. Testes",
    "10. Dependências", "11. Rollout Plan", "12. Contatos e Suporte", "13. Checklist de Implementação", "14. Changelog",
]  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENTREGA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CRM_TIMEOUT", "7")
    monkeypatch.setenv("CRM_API_URL", "https://crm.exemplo.com.br")
    return lambda *words: CliRunner().invoke(cli, ["spec", *words])


def test_the_forms_in_use_are_well(run):
    done = run("check", "--json")

    told = json.loads(done.stdout)
    assert (done.exit_code, told["well"], told["problems"]) == (0, ["callback", "crm", "email", "whatsapp"], [])


def test_what_a_form_holds_and_this_version_does_not_use_is_told_key_by_key(run):
    lines = run("check", str(SHIPPED / "crm.yaml")).stdout.replace("\n", " ")

    told = re.findall(r"crm\.yaml: ?(\d+): ([\w.*]+): not used by this version", lines)
    assert {"cache", "metrics", "redaction", "alerts.slow_response.measure"} <= {name for _, name in told}
    assert "operations.create_lead.fields.*.max_length" in {name for _, name in told}
    assert {name for _, name in told} & {"breaker", "limits", "alerts.breaker_open.measure", "probe.every_s"} == set()
    line = int(next(number for number, name in told if name == "cache"))
    assert (SHIPPED / "crm.yaml").read_text().splitlines()[line - 1] == "cache:"


def test_a_wrong_form_is_told_with_file_line_and_reason(run, tmp_path):
    run("new", "erp")
    text = (tmp_path / "erp.yaml").read_text().replace("  method: POST  ", "  metod: POST   ")
    (tmp_path / "erp.yaml").write_text(text)
    line = text[: text.index("metod")].count("\n") + 1

    done = run("check", "erp.yaml")
    told = json.loads(run("check", "erp.yaml", "--json").stdout)

    assert done.exit_code == 1
    assert f"erp.yaml:{line}: operations.create_lead.metod: unknown field; did you mean method?" in done.stdout
    assert {"file": "erp.yaml", "line": line} == {key: told["problems"][-1][key] for key in ("file", "line")}


def test_a_new_form_says_what_its_service_still_needs(run, tmp_path):
    served, unserved = run("new", "crm"), run("new", "meucrm")
    (tmp_path / "specs").mkdir()
    (tmp_path / "meucrm.yaml").rename(tmp_path / "specs" / "meucrm.yaml")

    assert "Fill it in, then: entrega spec check crm.yaml" in served.stdout
    assert "It cannot be used yet: this version serves crm, whatsapp, email, callback" in " ".join(
        unserved.stdout.split()
    )


@pytest.mark.parametrize("part", [["up"], ["spec", "check"]])
def test_a_spec_that_cannot_be_served_is_refused_by_name_before_anything_starts(run, tmp_path, monkeypatch, part):
    shutil.copytree(SHIPPED, tmp_path / "specs")
    run("new", "meucrm", "--out", "specs/meucrm.yaml")
    monkeypatch.setenv("ENTREGA_INTEGRATIONS", str(tmp_path / "specs"))

    done = CliRunner().invoke(cli, part)

    assert done.exit_code != 0
    assert re.search(
        r"meucrm\.yaml:\d+: name: this version serves .* no service 'meucrm'", done.output + str(done.exception)
    )


def test_a_new_form_never_takes_the_place_of_a_file(run, tmp_path):
    (tmp_path / "erp.yaml").write_text("mine")

    done = run("new", "erp")

    assert (done.exit_code, (tmp_path / "erp.yaml").read_text()) == (4, "mine")


@pytest.mark.parametrize("name", ["ERP", "../erp", "1erp", ""])
def test_a_service_is_a_plain_word(run, tmp_path, name):
    assert run("new", name).exit_code == 2
    assert list(tmp_path.glob("**/*.yaml")) == []


def test_the_policy_in_force_has_the_environments_numbers(run):
    shown = json.loads(run("show", "crm", "--json").stdout)

    assert shown["url"] == "https://crm.exemplo.com.br"
    assert "CRM_CLIENT_ID" in shown["missing"]
    assert shown["form"]["operations"]["create_lead"]["timeouts"]["total_s"] == 7
    assert shown["form"]["errors"]["unavailable"]["retries"] == 5


def test_an_unknown_form_names_those_there_are(run):
    done = run("show", "erp")

    assert (done.exit_code, "crm, email, whatsapp" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["crm", "whatsapp", "email"])
def test_a_page_has_the_sections_of_the_template_in_their_order(name):
    page = form_page(load_specs()[name])

    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize(
    "line",
    [
        "- [x] Alta",
        "| 429 | rate limit | Tentar de novo (`rate_limited`) |",
        "| `unavailable` | Sim (5x) | linear, 2 s a 30 s | Fila de retry (PostgreSQL) |  |",
        "Open Duration: 30 s",
        "- `CRM_CLIENT_SECRET`",
        "| `interesse` | string | sim |  | produto_a, produto_b, servico_x |  |",
    ],
)
def test_a_page_says_what_the_form_says(line):
    assert line in form_page(load_specs()["crm"]).splitlines()


def test_a_page_can_be_written_to_a_file(run, tmp_path):
    assert run("doc", "crm", "--out", "crm.md").exit_code == 0
    assert (tmp_path / "crm.md").read_text(encoding="utf-8").startswith("# Especificação de Integração com API\n")
