"""`entrega producers`: what each producer may do, and the ice for one that runs wild."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingress.shell import REFUSED, WRONG_USE, Json, Reason, fail, opened_app, parsed_age, print_json

if TYPE_CHECKING:
    from delivery.producers import LoopGuard, Policies, ProducerPolicy
    from ledger.producers import Producer, Producers

producers = typer.Typer(help="Producers: what each may do; freeze one that runs wild.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="E.g. loja-sul; `cli` and `celery` are our own doors.")]
Cap = Annotated[
    int | None, typer.Option(min=0, max=1_000_000_000, help="0 takes it away, or back to the common number.")
]
Entries = Annotated[
    list[str] | None, typer.Option(metavar="RECIPIENT", help="An address, a number, or @domain; may be repeated.")
]
Senders = Annotated[
    list[str] | None, typer.Option(metavar="SENDER", help="An address or @domain it may send mail from; repeatable.")
]
Loop = Annotated[int | None, typer.Option(min=0, max=1_000_000, help="Same contents to one person; 0: no guard.")]
Within = Annotated[timedelta | None, typer.Option(parser=parsed_age, metavar="AGE", help="Counted within, e.g. 1h.")]


@producers.command("list")
def show_all(as_json: Json = False) -> None:
    """List the producers that have a policy of their own, or are frozen. All others have the common one.

    Example: entrega producers list
    """
    found = _book().list()
    print_json([_facts(each) for each in found]) if as_json else _show(found)


@producers.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show what a producer may do, and what it has used of it. Of an allow-list only domains can be shown.

    Example: entrega producers show loja-sul
    """
    found = _book().find(name) or _common(name)
    print_json(_facts(found)) if as_json else _show([found])


@producers.command("set")
def change(
    name: Name,
    per_minute: Cap = None,
    per_day: Cap = None,
    new_recipients_per_day: Cap = None,
    recipients_per_mail: Cap = None,
    allow: Entries = None,
    disallow: Entries = None,
    allow_everybody: Annotated[bool, typer.Option("--allow-everybody", help="Drop the allow-list.")] = False,
    sender: Senders = None,
    drop_sender: Senders = None,
    any_sender: Annotated[bool, typer.Option("--any-sender", help="Drop the list of senders.")] = False,
    most_open: Cap = None,
    most_open_mb: Cap = None,
    needs_approval: Annotated[bool | None, typer.Option(help="Every delivery waits for a person.")] = None,
    loop_most: Loop = None,
    loop_within: Within = None,
    reason: Reason = "set by an operator",
    as_json: Json = False,
) -> None:
    """Change what a producer may do; what is left out stays. Caps count people. In force everywhere within two seconds.

    Example: entrega producers set loja-sul --per-minute 60 --per-day 2000 --new-recipients-per-day 200

    Example: entrega producers set teste --allow @exemplo.com.br --allow +5511999990001 --needs-approval
    """
    from delivery.producers import DEFAULT

    book = _book()
    before = (book.find(name) or _common(name)).policy
    policy = replace(
        before,
        per_minute=_turned(before.per_minute, per_minute),
        per_day=_turned(before.per_day, per_day),
        new_recipients_per_day=_turned(before.new_recipients_per_day, new_recipients_per_day),
        recipients_per_mail=_turned(before.recipients_per_mail, recipients_per_mail),
        allowed=_allowed(before, allow or (), disallow or (), everybody=allow_everybody),
        senders=_senders(before, sender or (), drop_sender or (), any_sender=any_sender),
        most_open=(before.most_open if most_open is None else most_open) or DEFAULT.most_open,
        most_open_mb=(before.most_open_mb if most_open_mb is None else most_open_mb) or DEFAULT.most_open_mb,
        needs_approval=before.needs_approval if needs_approval is None else needs_approval,
        loop=_loop(before, loop_most, loop_within),
    )
    found = book.set(_checked(name), policy, reason=reason)
    print_json(_facts(found)) if as_json else _show([found])


@producers.command("freeze")
def freeze(name: Name, reason: Reason, as_json: Json = False) -> None:
    """Take nothing more from a producer; what was accepted goes on, and so do all others.

    Example: entrega producers freeze loja-sul --reason "its agent sends nonsense"
    """
    from ingress.printing import say

    _book().freeze(_checked(name), reason=reason)
    if as_json:
        print_json({"producer": name, "frozen": True})
    else:
        say(f"{name} is frozen. Take from it again with: entrega producers unfreeze {name}")


@producers.command("unfreeze")
def unfreeze(name: Name, reason: Reason = "unfrozen by an operator", as_json: Json = False) -> None:
    """Take commands from a producer again, and end its alert.

    Example: entrega producers unfreeze loja-sul --reason "its loop was mended"
    """
    from ingress.printing import say

    if not _book().unfreeze(name, reason=reason):
        fail(f"{name} is not frozen. See who is: entrega producers list", REFUSED)
    print_json({"producer": name, "frozen": False}) if as_json else say(f"{name} may submit again.")


def _book() -> "Producers":
    from config.operator import operator_name
    from ledger.producers import Producers

    return Producers(opened_app().database, actor=operator_name())


def _checked(name: str) -> str:
    from ingress.access import BOOTSTRAP_PRODUCER, is_producer

    if not is_producer(name) and name != BOOTSTRAP_PRODUCER:
        fail("A producer is a word of letters, digits, '.', '_' and '-', at most 64.", WRONG_USE)
    return name


def _common(name: str) -> "Producer":
    from delivery.producers import DEFAULT
    from ledger.producers import Producer

    return Producer(name, DEFAULT, None, 0, 0, 0)


def _turned(before: int | None, typed: int | None) -> int | None:
    return before if typed is None else typed or None


def _loop(policy: "ProducerPolicy", most: int | None, within: timedelta | None) -> "LoopGuard | None":
    from delivery.producers import LoopGuard

    if most is None and within is None:
        return policy.loop
    guard = policy.loop or LoopGuard()
    most = guard.most if most is None else most
    return LoopGuard(most, within or guard.within) if most else None


def _allowed(
    policy: "ProducerPolicy", allow: Sequence[str], disallow: Sequence[str], *, everybody: bool
) -> frozenset[str] | None:
    if everybody and (allow or disallow):
        fail("Give --allow and --disallow, or --allow-everybody; not both.", WRONG_USE)
    if everybody:
        return None
    if not allow and not disallow:
        return policy.allowed
    marks = opened_app().policies
    kept = (policy.allowed or frozenset()) | {_entry(each, marks) for each in allow}
    return kept - {_entry(each, marks) for each in disallow}


def _senders(
    policy: "ProducerPolicy", add: Sequence[str], drop: Sequence[str], *, any_sender: bool
) -> frozenset[str] | None:
    if any_sender and (add or drop):
        fail("Give --sender and --drop-sender, or --any-sender; not both.", WRONG_USE)
    if any_sender:
        return None
    typed = [each.strip().lower() for each in (*add, *drop)]
    if not all(re.fullmatch(r"[^@\s]*@[^@\s]+", each) for each in typed):
        fail("A sender is an e-mail address or @domain; nothing was set.", WRONG_USE)
    if not typed:
        return policy.senders
    return ((policy.senders or frozenset()) | set(typed[: len(add)])) - set(typed[len(add) :])


def _entry(typed: str, marks: "Policies") -> str:
    from delivery.producers import allowed_entry

    try:
        return allowed_entry(typed, marks)
    except ValueError:
        fail("An entry is an e-mail address, a number such as +5511999990001, or @domain; nothing was set.", WRONG_USE)


def _facts(found: "Producer") -> dict[str, Any]:
    policy = found.policy
    domains = sorted(each for each in policy.allowed or () if each.startswith("@"))
    allowed = None if policy.allowed is None else {"domains": domains, "others": len(policy.allowed) - len(domains)}
    loop = {"most": policy.loop.most, "within_s": policy.loop.within.total_seconds()} if policy.loop else None
    return {
        "name": found.name,
        "per_minute": policy.per_minute,
        "per_day": policy.per_day,
        "new_recipients_per_day": policy.new_recipients_per_day,
        "recipients_per_mail": policy.recipients_per_mail,
        "most_open": policy.most_open,
        "most_open_mb": policy.most_open_mb,
        "used": {"minute": found.in_minute, "day": found.in_day, "new_recipients": found.new_in_day},
        "allowed": allowed,
        "senders": None if policy.senders is None else sorted(policy.senders),
        "needs_approval": policy.needs_approval,
        "loop_guard": loop,
        "frozen_at": found.frozen_at,
        "frozen_reason": policy.frozen,
    }


def _show(found: "Sequence[Producer]") -> None:
    from rich.table import Table
    from rich.text import Text

    from ingress.printing import console, say

    if not found:
        say("None has a policy of its own.")
        return
    titles = (
        "producer",
        "state",
        "per minute",
        "per day",
        "new people a day",
        "one mail",
        "may reach",
        "approval",
        "same content",
    )
    table = Table(*titles, box=None, header_style="dim")
    for each in found:
        policy = each.policy
        state = Text("frozen: " + policy.frozen, style="red") if policy.frozen else Text("open", style="green")
        caps = (
            _cap(each.in_minute, policy.per_minute), _cap(each.in_day, policy.per_day),
            _cap(each.new_in_day, policy.new_recipients_per_day), str(policy.recipients_per_mail or ""),
        )  # fmt: skip
        loop = f"{policy.loop.most} in {policy.loop.within}" if policy.loop else "no guard"
        table.add_row(each.name, state, *caps, Text(_reach(policy)), "needed" if policy.needs_approval else "", loop)
    console().print(table)


def _cap(used: int, cap: int | None) -> str:
    return "" if cap is None else f"{used} of {cap}"


def _reach(policy: "ProducerPolicy") -> str:
    if policy.allowed is None:
        return "everybody"
    domains = sorted(each for each in policy.allowed if each.startswith("@"))
    others = len(policy.allowed) - len(domains)
    return ", ".join([*domains, *([f"{others} recipients"] if others else [])]) or "nobody"
