"""How the command line looks to a person: tables and sentences. Values come masked, but for a revealed approval."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from delivery.plain_text import shown

if TYPE_CHECKING:
    from delivery.intake import Answer
    from delivery.redaction import JsonLike
    from ingress.doctor import Finding
    from ledger.api_keys import ApiKey
    from ledger.approvals import Request
    from ledger.endpoints import Listed
    from ledger.letters import Action, Pile
    from ledger.reading import Attempt, Delivery, Verdict
    from ledger.replays import BulkReplay

_COLOURS = {
    "succeeded": "green", "ready": "cyan", "attempting": "cyan", "waiting": "yellow", "uncertain": "magenta",
    "held": "magenta", "dead": "red", "expired": "red", "canceled": "dim", "deferred": "yellow", "rejected": "red",
}  # fmt: skip

# What a terminal obeys or does not show: a person who approves a text must see all of it.
_HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class _Harmless(RenderHook):
    """Lets nothing that a producer or a provider wrote give orders to the terminal, or turn its direction."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_HarmlessPart(each) for each in renderables]


@dataclass(frozen=True)
class _HarmlessPart:
    part: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for each in console.render(self.part, options):
            yield each if each.control else Segment(shown(each.text), each.style)


def console() -> Console:
    """Return a console on standard output; without a terminal lines are wide and plain, fit for a file or a pipe.

    Brackets and colons of a text stay as they are: what somebody typed must not colour a line, or end it with a fault.
    """
    if sys.stdout.isatty():
        made = Console(markup=False, emoji=False)
    else:
        made = Console(width=160, highlight=False, markup=False, emoji=False)
    made.push_render_hook(_Harmless())
    return made


def program() -> str:
    """Return how this person calls the command line: `entrega` where the shell finds it, else its path from here."""
    return "entrega" if shutil.which("entrega") else os.path.relpath(sys.argv[0])


def say(sentence: str) -> None:
    """Print one sentence as it is."""
    console().print(Text(sentence), soft_wrap=True)


def show_answer(answer: "Answer") -> None:
    """Print a receipt."""
    out = console()
    out.print(Text(answer.message))
    table = Table.grid(padding=(0, 2))
    table.add_row("delivery", answer.id)
    table.add_row("state", _coloured(answer.state))
    table.add_row("next step", answer.next_step)
    if answer.duplicate_of:
        table.add_row("duplicate of", answer.duplicate_of)
    out.print(table)
    out.print(Text(f"Follow it with: {program()} show {answer.id}", style="dim"))


def show_delivery(found: "Delivery") -> None:
    """Print one delivery and its timeline."""
    out = console()
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(found):
        table.add_row(name, value)
    out.print(table)
    _say_unreadable(found)
    if found.timeline:
        out.print(timeline_table(found.timeline))


def _facts(found: "Delivery") -> Iterable[tuple[str, Text | str]]:
    yield "delivery", str(found.id)
    yield "what", f"{found.kind} for {found.recipient} through {found.account}, asked by {found.producer}"
    yield "state", _coloured(found.state)
    if found.progress:
        yield "progress", found.progress
    if found.reason:
        yield "reason", Text(f"{found.code}: {found.reason}")
    if found.receipt:
        yield "receipt", Text(found.receipt)
    if found.fallback_of:
        yield "fallback of", str(found.fallback_of)
    if found.fallback_id:
        yield "its fallback", str(found.fallback_id)
    yield "accepted", f"{instant(found.created_at)} in {found.environment}"
    if found.next_at and found.state in ("ready", "waiting"):
        yield "next attempt", instant(found.next_at)
        yield "gives up", instant(found.expires_at)
    if found.settled_at:
        yield "settled", instant(found.settled_at)
    if found.replay_of:
        yield "takes the place of", str(found.replay_of)


def timeline_table(timeline: "Sequence[Attempt]") -> Table:
    """Return the attempts of one delivery as a table."""
    table = Table("n", "started", "outcome", "code", "http", "took", "then", box=None, header_style="dim")
    for each in timeline:
        took = "" if each.duration_ms is None else f"{each.duration_ms} ms"
        then = "" if each.wait_s is None else f"wait {each.wait_s} s"
        outcome = _coloured(each.outcome) if each.outcome else Text("under way", style="cyan")
        code = each.code or ""
        if each.provider_code:
            code += f" ({each.provider_code})"
        table.add_row(
            str(each.n), instant(each.started_at), outcome, Text(code), str(each.http_status or ""), took, then
        )
    return table


def show_deliveries(found: "Sequence[Delivery]", *, reasons: bool = False, here: str | None = None) -> None:
    """Print a list of deliveries; `here` is the environment that needs no mention."""
    if not found:
        say("None.")
        return
    console().print(deliveries_table(found, reasons=reasons))
    for each in found:
        if here is not None and each.environment != here:
            say(f"{each.id} was accepted in {each.environment} and is never sent from {here}.")
        _say_unreadable(each)


def _say_unreadable(found: "Delivery") -> None:
    if found.unreadable:
        named = ", ".join(found.unreadable)
        say(f"{found.id}: {named} is outside the years 2000 to 2099 in the ledger and is shown as the nearest instant.")


def deliveries_table(found: "Sequence[Delivery]", *, reasons: bool = False) -> Table:
    """Return deliveries as a table; with reasons for those who must act."""
    last = "why" if reasons else "receipt"
    table = Table("delivery", "kind", "to", "state", "attempts", "accepted", last, box=None, header_style="dim")
    table.columns[0].no_wrap = True
    for each in found:
        tail = f"{each.code}: {each.reason}" if reasons else (each.receipt or each.code or "")
        row = (str(each.id), each.kind, Text(each.recipient), _coloured(each.state), str(each.attempts))
        table.add_row(*row, instant(each.created_at), Text(tail, overflow="ellipsis", no_wrap=not reasons))
    return table


def show_verdict(verdict: "Verdict", *, well: bool) -> None:
    """Print the never-lost audit."""
    out = console()
    out.print(verdict_table(verdict))
    for fault, n in verdict.faults.items():
        what = "" if fault.startswith("audit_") else "deliveries "
        out.print(Text(f"fault: {n} {what}{fault.replace('_', ' ')}", style="red"))
    if well:
        out.print(Text("Every accepted command is accounted for.", style="green"))
    else:
        out.print(
            Text("The books do not balance. Keep the database as it is and look into the faults above.", style="red")
        )


def verdict_table(verdict: "Verdict") -> Table:
    """Return accepted = sum of states as a table of one line."""
    states = {name: n for name, n in verdict.states.items() if n}
    table = Table("accepted", "=", *states, box=None, header_style="dim")
    table.add_row(str(verdict.accepted), "", *(str(n) for n in states.values()))
    return table


def show_findings(findings: Sequence["Finding"]) -> None:
    """Print what the doctor found."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    for each in findings:
        mark = Text("ok", style="green") if each.well else Text("not well", style="red")
        table.add_row(mark, each.part, Text(each.note))
    console().print(table)


def show_payload(payload: "JsonLike", closed: str | None, *, shown: str = "masked value") -> None:
    """Print a payload, or why there is none."""
    if not isinstance(payload, dict):
        say(f"payload: none, because {closed}.")
        return
    table = Table("field", shown, box=None, header_style="dim")
    for name, value in payload.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(Text(name), Text(_HIDDEN.sub(lambda found: repr(found[0])[1:-1], text)))
    console().print(table)


def show_request(
    request: "Request", payload: "JsonLike", fallback: Mapping[str, "JsonLike"] | None, *, revealed: bool
) -> None:
    """Print a delivery that waits for approval, and all that would be sent."""
    found, heading = request.delivery, "in clear" if revealed else "masked; in clear with --reason"
    say(f"{found.kind} of {found.producer} by {found.account}: {found.reason}")
    say(f"It would send ({heading}):")
    show_payload(payload, "it was erased, or a master key is missing", shown="value")
    show_fallback(fallback, shown="value")
    say(f"content hash: {request.content_hash or 'none'}")


def show_fallback(fallback: Mapping[str, "JsonLike"] | None, *, shown: str = "masked value") -> None:
    """Print the command that would be sent if another one fails; nothing where there is none."""
    if fallback is not None:
        say(f"And if that fails, {fallback['kind']} by the account {fallback['account']}:")
        show_payload(fallback["payload"], None, shown=shown)


def show_history(actions: Sequence["Action"]) -> None:
    """Print a delivery's audit trail."""
    table = Table("when", "who", "did", "why", box=None, header_style="dim")
    for each in actions:
        table.add_row(instant(each.at), Text(each.actor), Text(each.action), Text(each.reason or ""))
    console().print(table)


def show_piles(piles: Sequence["Pile"]) -> None:
    """Print how many dead letters each account has for each code."""
    if not piles:
        say("None.")
        return
    table = Table("account", "code", "letters", "oldest", box=None, header_style="dim")
    for each in piles:
        table.add_row(each.account, Text(each.code or ""), str(each.count), instant(each.oldest_at))
    console().print(table)


def show_replays(found: Sequence["BulkReplay"]) -> None:
    """Print bulk replays and how they stand."""
    if not found:
        say("None.")
        return
    table = Table(
        "replay", "by", "started", "all", "succeeded", "dead again", "open", "put back", "how", "why",
        box=None, header_style="dim",
    )  # fmt: skip
    table.columns[0].no_wrap = True
    for each in found:
        counts = (each.total, each.succeeded, each.dead_again, each.open, each.put_back)
        how = Text(each.stop_reason or "runs")
        table.add_row(
            str(each.id), Text(each.actor), instant(each.started_at), *map(str, counts), how, Text(each.reason)
        )
    console().print(table)


def show_keys(found: Sequence["ApiKey"]) -> None:
    """Print what is known of keys."""
    if not found:
        say("None.")
        return
    table = Table("key", "begins", "producer", "scopes", "made", "by", "ends", box=None, header_style="dim")
    table.columns[0].no_wrap = True
    for each in found:
        ends = f"revoked {instant(each.revoked_at)}" if each.revoked_at else _maybe_instant(each.expires_at)
        made = (instant(each.created_at), Text(each.created_by))
        table.add_row(str(each.id), each.hint, Text(each.producer), ", ".join(each.scopes), *made, ends)
    console().print(table)


def _maybe_instant(value: datetime | None) -> str:
    return instant(value) if value else "never"


def show_endpoints(found: Sequence["Listed"], breakers: Mapping[str, str]) -> None:
    """Print where producers are told, and the state of each host's circuit breaker."""
    if not found:
        say("None.")
        return
    table = Table("endpoint", "producer", "account", "since", "breaker", "state", box=None, header_style="dim")
    table.columns[0].no_wrap = True
    for each in found:
        state = Text(f"disabled: {each.disabled_reason}", style="red") if each.disabled_at else Text("open")
        row = (str(each.id), Text(each.producer), Text(each.account), instant(each.created_at))
        table.add_row(*row, breakers[each.account], state)
    console().print(table)


def _coloured(word: str) -> Text:
    return Text(word, style=_COLOURS.get(word, ""))


def instant(value: datetime) -> str:
    """Return an instant in local time."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
