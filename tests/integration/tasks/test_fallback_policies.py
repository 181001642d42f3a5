"""A fallback is sent under the policy of its producer: seen, approved, counted and held together with its command."""

from dataclasses import replace
from datetime import timedelta

import pytest

from config.policy import load_specs
from config.settings import load_settings
from delivery.intake import Intake
from delivery.outcomes import Rejected
from delivery.ports import Settlement
from delivery.producers import DEFAULT, LoopGuard
from ledger.approvals import Approvals, Approver
from ledger.letters import Signed
from ledger.producers import Producers, StoredPolicies
from tasks import app, sweep
from tests.integration.conftest import claim

BOSS = Approver(Signed("bia", "seen, fine"))
CHAT = {"kind": "send_whatsapp", "to": "+5511999990001", "text": "Nunca aprovado"}


class Silence:
    def __init__(self):
        self.sent = []

    def backlog(self):
        return None

    def publish(self, hints):
        self.sent += [each.id for each in hints]
        return len(self.sent)

    send = publish


@pytest.fixture
def voice():
    return Silence()


@pytest.fixture(autouse=True)
def intake(monkeypatch, ledger, archive, database, voice):
    values = load_settings({"database_url": "postgresql://x@127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"})
    specs, policies = load_specs(), StoredPolicies(database, ledger.vault, ticks=iter(range(0, 10**6, 10)).__next__)
    intake = Intake(ledger, voice, specs, tuple(f"{name}:default" for name in specs), policies=policies)
    parts = {"settings": values, "ledger": ledger, "archive": archive, "database": database, "hints": voice}
    for name, part in (parts | {"intake": intake, "policies": policies}).items():
        monkeypatch.setitem(app.__dict__, name, part)
    return intake


@pytest.fixture
def bind(database):
    def give(**changes):
        Producers(database, actor="ana").set("loja", replace(DEFAULT, **changes), reason="test")

    return give


def ask(intake, n=1, fallback=CHAT):
    lead = {"nome": "Ana Teste", "email": f"ana.teste{n}@exemplo.com.br", "interesse": "produto_a"}
    return intake.submit("create_lead", lead | {"options": {"fallback": fallback}}, producer="loja")


def dies(ledger, archive, id_):
    """Let a delivery be refused by its provider; return its fallback."""
    (claimed,) = claim(ledger, id_)
    ledger.settle([Settlement(claimed, Rejected("invalid", "a field is wrong"))])
    sweep.run()
    return archive.find(archive.find(claimed.order.delivery_id).fallback_id)


def test_an_approval_covers_the_command_and_its_fallback(intake, bind, ledger, archive):
    bind(needs_approval=True)
    held = ask(intake)
    Approvals(ledger).approve([held.id], BOSS)

    second = dies(ledger, archive, held.id)

    assert (second.kind, second.state) == ("send_whatsapp", "ready")


def test_a_fallback_whose_command_nobody_approved_waits_for_approval(intake, bind, ledger, archive, voice):
    accepted = ask(intake)
    bind(needs_approval=True)

    second = dies(ledger, archive, accepted.id)

    assert (second.state, second.code) == ("held", "needs_approval")
    assert second.id not in voice.sent
    assert [each.id for each in Approvals(ledger).list()] == [second.id]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"allowed": frozenset({"@exemplo.com.br"})}, "recipient_not_allowed"),
        ({"frozen": "x"}, "producer_frozen"),
    ],
)
def test_a_fallback_that_its_producer_may_not_send_any_more_is_held(
    intake, bind, ledger, archive, database, changes, code
):
    accepted = ask(intake)
    bind(**{name: value for name, value in changes.items() if name != "frozen"})
    if "frozen" in changes:
        Producers(database, actor="ana").freeze("loja", reason="runs wild")

    second = dies(ledger, archive, accepted.id)

    assert (second.state, second.code) == ("held", code)


def test_a_fallback_is_counted_with_its_command_and_not_again(intake, bind, ledger, archive, database):
    bind(per_day=4)
    accepted = ask(intake)

    dies(ledger, archive, accepted.id)

    assert Producers(database, actor="ana").find("loja").in_day == 2


def test_the_loop_guard_counts_fallbacks(intake, bind, ledger, archive):
    bind(loop=LoopGuard(2, timedelta(hours=1)))

    states = [dies(ledger, archive, ask(intake, n).id).state for n in range(2)]
    third = ask(intake, 2)

    assert states == ["ready", "ready"]
    assert dies(ledger, archive, third.id).state == "held"


def test_the_fallback_of_a_fallback_is_refused(intake):
    chain = CHAT | {"options": {"fallback": CHAT}}

    with pytest.raises(ValueError, match="create_lead"):
        ask(intake, fallback=chain)
