"""A second account of one kind, set up while everything runs, takes over what the first one refuses: never both."""

import pytest

from sandbox.standins import Standins, sandbox_environment

COMMON = ("CRM_API_URL", "CRM_CLIENT_ID", "CRM_CLIENT_SECRET", "CRM_TOKEN_URL")
MAIL = ("SMTP_HOST", "SMTP_PORT", "SMTP_USE_SSL")


@pytest.fixture(scope="module")
def second():
    """Further providers: another CRM and another mail server."""
    with Standins() as standins:
        yield standins


def lines(standins, *names, **more):
    values = sandbox_environment(standins)
    return "\n".join(f"{name}={value}" for name, value in ({each: values[each] for each in names} | more).items())


def test_a_letter_that_the_first_mail_server_refuses_goes_through_the_second(running, second):
    set_up = running.entrega(
        "accounts", "add", "email:reserva", typed=lines(second, *MAIL, FROM_EMAIL="reserva@exemplo.com.br")
    )
    body = {"subject": "Teste", "text": "Olá!"}

    def letter(name):
        fallback = {"kind": "send_email", "to": f"{name}@exemplo.com.br", **body, "options": {"account": "reserva"}}
        return running.submit("send_email", to=f"{name}@exemplo.com.br", **body, options={"fallback": fallback})

    running.control["smtp"].plan(
        {"phase": "rcpt", "code": 550, "text": "5.1.1 unknown", "suffix": "recusada@exemplo.com.br"}
    )
    refused, fine = letter("recusada"), letter("aceita")
    running.until(refused, "dead")
    running.until(fine, "succeeded")
    running.tick("sweep")
    instead = running.wait(lambda: running.find(refused).fallback_id, "the fallback is started")
    found = running.until(instead, "succeeded")
    running.tick("sweep")
    running.works()

    assert set_up == {"account": "email:reserva", "new": True, "freed": 0}
    assert found.account == "email:reserva"
    first, other = running.effects("smtp"), second.control("smtp").effects()
    assert [first[str(each)] for each in (refused, instead, fine)] == [0, 0, 1]
    assert [(each["key"], each["mail_from"]) for each in other] == [(str(instead), "reserva@exemplo.com.br")]
    assert running.find(fine).fallback_id is None


def test_a_lead_that_the_first_crm_refuses_goes_to_the_second_with_its_own_credentials(running, second):
    """As a command names an account that a worker has not heard of yet, this is also the race of adding one."""
    running.entrega("accounts", "add", "crm:parceiro", typed=lines(second, *COMMON))
    lead = {"kind": "create_lead", "nome": "Rita Teste", "email": "rita.teste@exemplo.com.br", "interesse": "produto_a"}
    fallback = lead | {"options": {"account": "crm:parceiro"}}
    running.control["crm"].plan({"status": 400, "match": "create_lead"})

    refused = running.lead("rita", options={"fallback": fallback})
    running.until(refused, "dead")
    running.tick("sweep")
    instead = running.wait(lambda: running.find(refused).fallback_id, "the fallback is started")
    running.until(instead, "succeeded")
    direct = running.lead("rosa", options={"account": "parceiro"})
    running.until(direct, "succeeded")

    first, other = running.effects("crm"), second.control("crm").effects_per_key()
    assert [first[str(each)] for each in (refused, instead, direct)] == [0, 0, 0]
    assert other == {str(instead): 1, str(direct): 1}
    keys = {key.decode() for key in running.redis.keys("api:*:token")}
    assert "api:crm:parceiro:token" in keys


def test_a_changed_value_counts_without_a_restart_and_opens_the_account(running, second):
    running.entrega(
        "accounts", "add", "crm:rodado", typed=lines(second, *COMMON[:2], COMMON[3], CRM_CLIENT_SECRET="errado")
    )
    stuck = running.lead("vera", options={"account": "rodado"})
    running.until(stuck, "held")

    right = sandbox_environment(second)["CRM_CLIENT_SECRET"]
    changed = running.entrega(
        "accounts", "add", "crm:rodado", "--reason", "rotated", typed=f"CRM_CLIENT_SECRET={right}"
    )
    running.until(stuck, "succeeded")
    removed = running.entrega("accounts", "remove", "crm:rodado")

    assert changed == {"account": "crm:rodado", "new": False, "freed": 1}
    assert removed == {"account": "crm:rodado", "removed": True}
    trail = running.sql("SELECT action, reason FROM audit WHERE account = 'crm:rodado' ORDER BY id")
    assert [tuple(each) for each in trail if each.action.startswith("account ")] == [
        ("account added", "a further account"), ("account changed", "rotated"), ("account removed", "no longer used"),
    ]  # fmt: skip
    assert running.entrega("submit", "create_lead", "nome=V", "email=v@exemplo.com.br", 'options={"account":"rodado"}')
