"""`entrega demo`: the main job and its worst days, on real processes, against stand-in providers.

Each scene states what it expects and checks it against two books: our ledger, and what the stand-ins really did.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text

from config.neutral import forget_variables
from config.settings import Settings, load_settings
from delivery.errors import InvalidCommand
from ingress.printing import console, deliveries_table, program, timeline_table, verdict_table
from ingress.system import Plan, System
from ledger.reading import Delivery
from sandbox.children import Child
from sandbox.doors import make_folder
from sandbox.standins import StandinControl, controls
from tasks.app import Entrega

_PATIENCE = timedelta(seconds=120)
# A short call deadline makes a short lease, so that the audience need not wait long for a dead worker's delivery.
_CALL_DEADLINE_S = 2.0


@dataclass
class _Stage:
    """What the scenes play on.

    Attributes:
        wrong: What was not as expected; the demo fails when it holds anything.
    """

    system: System
    app: Entrega
    control: dict[str, StandinControl]
    out: Console
    accepted: list[UUID] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def submit(self, kind: str, **body: Any) -> UUID:
        """Hand over one command as a producer does."""
        answer = self.app.intake.submit(kind, body, producer="demo")
        self.accepted.append(UUID(answer.id))
        return UUID(answer.id)

    def until(self, id_: UUID, state: str) -> Delivery:
        """Wait until a delivery is in a state; note it as wrong when it does not get there."""
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        while (found := self.find(id_)).state != state and time.monotonic() < deadline:
            self.system.watch()
            time.sleep(0.1)
        self.expect(found.state == state, f"delivery {id_} is {found.state} after {_PATIENCE.seconds} s, not {state}")
        return found

    def until_acted(self, provider: str, id_: UUID) -> None:
        """Wait until a delivery took effect at a stand-in, whether its worker knows of that or not."""
        deadline = time.monotonic() + _PATIENCE.total_seconds()
        while not self.effects(provider, id_) and time.monotonic() < deadline:
            time.sleep(0.02)

    def find(self, id_: UUID) -> Delivery:
        """Return a delivery that was accepted."""
        return cast("Delivery", self.app.archive.find(id_))

    def expect(self, fulfilled: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as a sentence
        """Note what is not as it should be."""
        if not fulfilled:
            self.wrong.append(otherwise)
            self.out.print(Text(f"    not as expected: {otherwise}", style="red"))

    def tell(self, sentence: str) -> None:
        """Print one line of the story."""
        self.out.print(Text(f"    {sentence}"))

    def effects(self, provider: str, id_: UUID) -> int:
        """Return how often a delivery really took effect at a stand-in."""
        return self.control[provider].effects_per_key()[str(id_)]


def run(*, as_json: bool) -> int:
    """Play every scene and the final audit; return 0 when all was as it should be, else 1."""
    out = Console(quiet=True) if as_json else console()
    began = time.monotonic()
    with _stage(out) as stage:
        for number, (title, scene) in enumerate(_SCENES.items(), start=1):
            out.print(Text(f"\n{number}. {title}", style="bold"))
            scene(stage)
        verdict = stage.app.archive.verify()
        found = stage.app.archive.search(most=100)
        _check_books(stage, len(stage.accepted), verdict.accepted, sum(verdict.states.values()), dict(verdict.faults))
        _finale(stage, found)
        out.print(verdict_table(verdict))
        seconds = time.monotonic() - began
        if as_json:
            story = {"well": not stage.wrong, "wrong": stage.wrong, "seconds": round(seconds, 1), **asdict(verdict)}
            typer.echo(json.dumps(story, default=str))
    _last_word(out, stage.wrong, seconds)
    return 1 if stage.wrong else 0


@contextmanager
def _stage(out: Console) -> Iterator[_Stage]:
    data = Path(tempfile.mkdtemp(prefix="entrega-demo-"))
    data.chmod(0o711)  # run by root, Postgres has an account of its own that must pass through here
    forget_variables()
    plan = Plan(_settings(data), sandbox=True, verbose=True)
    system = System(plan, lambda sentence: out.print(Text(f"    {sentence}", style="dim")))
    out.print(
        Text("Starting Postgres, Valkey, a worker, beat, and stand-ins for the CRM, WhatsApp and mail", style="bold")
    )
    system.variables |= {"ENTREGA_ENV": "sandbox", "CRM_TIMEOUT": str(_CALL_DEADLINE_S)}
    try:
        with chdir(data):  # no `.env` here
            system.start()
            yield _Stage(system, _producer(system), controls(system.standins_or_fail), out)
    finally:
        out.print(Text("\nStopping", style="bold"))
        system.stop()
        shutil.rmtree(data, ignore_errors=True)


def _settings(data: Path) -> Settings:
    make_folder(data)
    with chdir(data):
        return load_settings({"entrega_env": "sandbox", "entrega_data": data, "entrega_port": 0})


def _producer(system: System) -> Entrega:
    app = Entrega("demo")
    app.settings = load_settings({name.lower(): value for name, value in system.variables.items()})
    return app


def _three_arrive(stage: _Stage) -> None:
    lead = stage.submit("create_lead", nome="Ana Teste", email="ana.teste@exemplo.com.br", interesse="produto_a")
    message = stage.submit("send_whatsapp", to="+5511999990001", text="Olá, Ana! Recebemos o seu contato.")
    letter = stage.submit("send_email", to="ana.teste@exemplo.com.br", subject="Recebemos o seu contato", text="Olá!")
    for provider, id_ in (("crm", lead), ("graph", message), ("smtp", letter)):
        found = stage.until(id_, "succeeded")
        stage.tell(f"{found.kind} for {found.recipient}: {found.state}, the provider's receipt is {found.receipt}")
        stage.expect(
            stage.effects(provider, id_) == 1, f"{provider} shows {stage.effects(provider, id_)} effects, not 1"
        )


def _wrong_address(stage: _Stage) -> None:
    try:
        stage.submit("create_lead", nome="Bia Teste", email="bia.teste(arroba)exemplo", interesse="produto_z")
    except InvalidCommand as err:
        for each in err.issues:
            stage.tell(f"refused at the door: {each.field}: {each.issue}")
        stage.expect({each.field for each in err.issues} == {"email", "interesse"}, "other fields were named")
    else:
        stage.expect(fulfilled=False, otherwise="a wrong e-mail address was accepted")


def _token_expires(stage: _Stage) -> None:
    stage.control["crm"].plan({"expire_tokens": True, "match": "create_lead"})  # not for the probe of the account
    id_ = stage.submit("create_lead", nome="Caio Teste", email="caio.teste@exemplo.com.br", interesse="produto_b")
    found = stage.until(id_, "succeeded")
    stage.out.print(timeline_table(found.timeline))
    stage.expect([each.http_status for each in found.timeline] == [401, 201], "expected one 401, then 201")


def _crm_is_away(stage: _Stage) -> None:
    stage.control["crm"].plan({"status": 503, "times": 3, "match": "create_lead"})
    id_ = stage.submit("create_lead", nome="Davi Teste", email="davi.teste@exemplo.com.br", interesse="servico_x")
    stage.until(id_, "waiting")
    stage.tell("the CRM answers 503; the lead waits in the ledger")
    found = stage.until(id_, "succeeded")
    stage.tell("the CRM has recovered; the lead arrived by itself")
    stage.out.print(timeline_table(found.timeline))
    stage.expect([each.http_status for each in found.timeline] == [503, 503, 503, 201], "expected three 503, then 201")
    stage.expect(stage.effects("crm", id_) == 1, "the lead was not created exactly once")


def _worker_dies(stage: _Stage) -> None:
    stage.control["crm"].plan({"hang_s": 30, "effect": True, "match": "create_lead"})
    id_ = stage.submit("create_lead", nome="Eva Teste", email="eva.teste@exemplo.com.br", interesse="produto_a")
    stage.until_acted("crm", id_)  # the CRM has created the lead and not answered yet
    cast("Child", stage.system.parts["worker1"]).kill()
    stage.tell("the worker was killed with SIGKILL in the middle of the call: the CRM acted, its answer is lost")
    with stage.out.status("    waiting until the dead worker's lease ends (17 s)"):
        found = stage.until(id_, "succeeded")
    stage.out.print(timeline_table(found.timeline))
    stage.tell(f"asked again under the same key; the CRM holds {stage.effects('crm', id_)} lead for it")
    stage.expect(stage.effects("crm", id_) == 1, f"the CRM holds {stage.effects('crm', id_)} leads, not 1")
    stage.expect(found.timeline[0].code == "lease_lost", "the first attempt was not lost with its worker")


_SCENES: dict[str, Callable[[_Stage], None]] = {
    "A lead, a WhatsApp message and an e-mail arrive": _three_arrive,
    "A wrong e-mail address is refused before anything is written": _wrong_address,
    "The CRM's token expires and is renewed": _token_expires,
    "The CRM is away for a while": _crm_is_away,
    "A worker is killed in the middle of a delivery": _worker_dies,
}


def _check_books(stage: _Stage, submitted: int, accepted: int, in_states: int, faults: dict[str, int]) -> None:
    stage.expect(
        submitted == accepted == in_states, f"{submitted} submitted, {accepted} accepted, {in_states} in the ledger"
    )
    stage.expect(not faults, f"the audit found {faults}")


def _finale(stage: _Stage, found: list[Delivery]) -> None:
    stage.out.print(Text("\nThe ledger at the end, and the audit", style="bold"))
    stage.out.print(deliveries_table(found))


def _last_word(out: Console, wrong: list[str], seconds: float) -> None:
    if wrong:
        out.print(Text(f"\n{len(wrong)} thing(s) were not as they should be.", style="bold red"))
    else:
        text = f"\nNothing was lost and nothing happened twice ({seconds:.0f} s). Now yours: {program()} up --sandbox"
        out.print(Text(text, style="bold green"))
