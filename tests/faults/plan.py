"""What a run does, from its seed alone: the commands, the faults, their order and their places among the commands.

The same seed gives the same plan. How it ends in time does not repeat: threads, processes and the machine decide.
"""

import random
from dataclasses import dataclass

# Few enough that the whole numbers can be searched for: a masked one may show all but its last digits.
_PHONES = tuple(f"+551198765004{n}" for n in range(10))
# Only invented people; the canaries are the words that may show nowhere but in sealed columns and at the providers.
CANARIES = ("canarinho", "zefirina", "piu-piu-amarelo", *(number[1:] for number in _PHONES))
FOREIGN_CANARIES = ("forasteira", "segredo-de-fora")
_KINDS = ("create_lead", "create_lead", "send_whatsapp", "send_email")
_REPEATED, _PRODUCERS = 0.05, 4
_FIRST, _LAST = 0.04, 0.92  # faults strike between these shares of the commands


@dataclass(frozen=True)
class Step:
    """One fault of the plan.

    Attributes:
        at: It strikes when this many commands were handed over.
        seed: Of the fault's own choices.
    """

    at: int
    kind: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    seed: int
    deliveries: int
    steps: tuple[Step, ...]

    def command(self, n: int) -> tuple[str, dict[str, object]]:
        """Return the kind and the body of command `n`; every one has a key of its own."""
        kind = _KINDS[random.Random(f"{self.seed}/kind/{n}").randrange(len(_KINDS))]
        body = _body(kind, n)
        options: dict[str, object] = {"key": f"faults-{self.seed}-{n}"}
        if kind != "create_lead":
            options["on_uncertain"] = "hold"  # a second copy is only sent where it was asked for
        return kind, body | {"options": options}

    def is_repeated(self, n: int) -> bool:
        """Tell whether command `n` is handed over again under its key, as a nervous producer does."""
        return random.Random(f"{self.seed}/repeat/{n}").random() < _REPEATED

    def shares(self) -> list[range]:
        """Return which commands each producer hands over."""
        return [range(n, self.deliveries, _PRODUCERS) for n in range(_PRODUCERS)]


def make_plan(seed: int, *, deliveries: int, faults: int, kinds: tuple[str, ...]) -> Plan:
    """Return the plan of a seed: every kind once before any comes again, as far as `faults` reach."""
    rng = random.Random(seed)
    bag: list[str] = []
    while len(bag) < faults:
        bag += rng.sample(kinds, len(kinds))
    width = (_LAST - _FIRST) * deliveries / max(1, faults)
    places = [int(_FIRST * deliveries + width * (n + rng.random())) for n in range(faults)]
    steps = [Step(at, kind, rng.randrange(2**32)) for at, kind in zip(places, bag[:faults], strict=True)]
    return Plan(seed, deliveries, tuple(steps))


def foreign_lead(seed: int, n: int) -> dict[str, object]:
    """Return the body of a lead that a plain Celery client sends."""
    return {
        "nome": f"Quitéria Forasteira {n}", "email": f"forasteira.{seed}.{n}@exemplo.com.br", "interesse": "produto_b",
        "observacoes": "segredo-de-fora",
    }  # fmt: skip


def _body(kind: str, n: int) -> dict[str, object]:
    if kind == "create_lead":
        return {
            "nome": f"Zefirina Canarinho {n}", "email": f"zefirina.{n}@exemplo.com.br", "interesse": "produto_a",
            "telefone": _phone(n), "observacoes": f"piu-piu-amarelo {n}",
        }  # fmt: skip
    if kind == "send_whatsapp":
        return {"to": _phone(n), "text": f"piu-piu-amarelo {n}"}
    return {"to": f"zefirina.{n}@exemplo.com.br", "subject": f"Canarinho {n}", "text": f"piu-piu-amarelo {n}"}


def _phone(n: int) -> str:
    return _PHONES[n % len(_PHONES)]
