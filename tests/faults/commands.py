"""What producers hand over in a run, from its seed and a number alone: kinds, bodies, options, and what they do next.

Times are the exception: an instant in a body is counted from the moment it is first asked for.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

# Few enough that the whole numbers can be searched for: a masked one may show all but its last digits.
_PHONES = tuple(f"+551198765004{n}" for n in range(10))
# Only invented people; the canaries are the words that may show nowhere but in sealed columns and at the providers.
CANARIES = ("canarinho", "zefirina", "piu-piu-amarelo", *(number[1:] for number in _PHONES))
FOREIGN_CANARIES = ("forasteira", "segredo-de-fora")
BLOCK = 10  # commands that one producer hands over together
_SEQUENCE = 4
_KINDS = ("create_lead", "create_lead", "send_whatsapp", "send_email")

Wish = Literal["plain", "canceled_late", "canceled_at_once", "late", "expiring", "fallback", "fallback_expiring"]
# In which shares; the rest is plain.
_WISHES: Mapping[Wish, float] = {
    "canceled_late": 0.015, "canceled_at_once": 0.015, "late": 0.05, "expiring": 0.03,
    "fallback": 0.03, "fallback_expiring": 0.02,
}  # fmt: skip
_REPEATED = 0.05


@dataclass(frozen=True)
class Order:
    """One command as a producer hands it over.

    Attributes:
        cancel: The producer takes it back as soon as it is accepted.
        repeat: It is handed over again under its key, as a nervous producer does.
    """

    number: int
    kind: str
    body: Mapping[str, object] = field(repr=False)
    cancel: bool
    repeat: bool


def order(seed: int, n: int) -> Order:
    """Return command `n` of a seed."""
    rng = random.Random(f"{seed}/{n}")
    sequence = _sequence(n)
    wish: Wish = (
        "plain" if sequence else rng.choices(("plain", *_WISHES), (1 - sum(_WISHES.values()), *_WISHES.values()))[0]
    )
    kind = _kind(rng, sequence, wish)
    options: dict[str, object] = {
        "key": f"faults-{seed}-{n}", "priority": rng.choices(("high", "normal", "low"), (1, 6, 1))[0],
    }  # fmt: skip
    if kind != "create_lead":
        options["on_uncertain"] = "hold"  # a second copy is only sent where it was asked for
    if sequence:
        options["order_key"] = sequence
    options |= _times(wish, rng)
    if wish.startswith("fallback"):
        options["fallback"] = {"kind": "send_email", **_body("send_email", n), "options": {"on_uncertain": "hold"}}
    return Order(
        n, kind, _body(kind, n) | {"options": options},
        cancel=wish.startswith("canceled"),
        repeat="expiring" not in wish and rng.random() < _REPEATED,  # after its time it would be refused, rightly
    )  # fmt: skip


def foreign_lead(seed: int, n: int) -> dict[str, object]:
    """Return the body of a lead that a plain Celery client sends."""
    return {
        "nome": f"Quitéria Forasteira {n}", "email": f"forasteira.{seed}.{n}@exemplo.com.br", "interesse": "produto_b",
        "observacoes": "segredo-de-fora",
    }  # fmt: skip


def _sequence(n: int) -> str | None:
    """Return the order key of those that must arrive one after the other: some of every fifth block."""
    block, place = divmod(n, BLOCK)
    return f"conversation-{block}" if block % 5 == 0 and place < _SEQUENCE else None


def _kind(rng: random.Random, sequence: str | None, wish: Wish) -> str:
    if sequence:  # an order key holds for one account
        return ("create_lead", "send_whatsapp")[int(sequence.rpartition("-")[2]) // 5 % 2]
    if wish.startswith("fallback"):
        return "send_whatsapp"
    return rng.choice(_KINDS)


def _times(wish: Wish, rng: random.Random) -> dict[str, object]:
    now = datetime.now(UTC)
    if wish in {"expiring", "fallback_expiring"}:
        due = now + timedelta(seconds=2)
        return {"send_at": due.isoformat(), "expires_at": (due + timedelta(seconds=0.4)).isoformat()}
    if wish in {"late", "canceled_late"}:
        return {"send_at": (now + timedelta(seconds=rng.uniform(2, 6))).isoformat()}
    return {}


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
