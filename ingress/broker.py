"""`entrega broker`: what strangers sent to the broker and no task could take."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ingress.shell import REFUSED, Json, Most, fail, opened_app, print_json

if TYPE_CHECKING:
    from ledger.rejected import KeptMessage

broker = typer.Typer(help="Messages on the broker that no task could take.", no_args_is_help=True)

Why = Annotated[str | None, typer.Option(help="Only refused for this reason, e.g. malformed.")]
Message = Annotated[UUID | None, typer.Argument(help="Show the copy of this one.")]


@broker.command("rejected")
def rejected(message: Message = None, reason: Why = None, most: Most = 20, as_json: Json = False) -> None:
    """List the refused messages, newest first, or show one: which client sent it, and what is wrong with it.

    The copy tells names of fields and sizes, and no content. The newest 1,000 are kept.

    Example: entrega broker rejected --reason invalid_command
    """
    from ledger.rejected import RejectedMessages

    kept = RejectedMessages(opened_app().database)
    if message is None:
        listed = kept.newest(most=most, reason=reason)
        print_json([_as_json(each) for each in listed]) if as_json else _show(listed)
        return
    found = kept.find(message)
    if found is None:
        fail(f"No refused message {message} is kept; `entrega broker rejected` lists the newest.", REFUSED)
    print_json(_as_json(found)) if as_json else _show_one(found)


def _as_json(kept: "KeptMessage") -> Mapping[str, object]:
    return {"id": kept.id, "at": kept.at, **asdict(kept.message)}


def _show(listed: "Sequence[KeptMessage]") -> None:
    from rich.table import Table
    from rich.text import Text

    from ingress.printing import console, program, say

    if not listed:
        say("None.")
        return
    table = Table("id", "refused", "queue", "reason", "task", "what is wrong", box=None, header_style="dim")
    for each in listed:
        told = each.message
        words = (str(each.id), f"{each.at:%Y-%m-%d %H:%M:%S}", told.queue, told.reason, told.task, _issues(each))
        table.add_row(*map(Text, words))
    console().print(table)
    say(f"What a message looked like: {program()} broker rejected ID")


def _show_one(kept: "KeptMessage") -> None:
    from ingress.printing import say

    told = kept.message
    say(f"Refused at {kept.at:%Y-%m-%d %H:%M:%S %Z} as {told.reason}: {_issues(kept) or 'no field is named'}")
    say(f"Queue {told.queue}, task {told.task or '(none)'}, message {told.message_id or '(no id)'}, {told.size} bytes")
    say(told.copy)


def _issues(kept: "KeptMessage") -> str:
    return "; ".join(f"{each.field}: {each.issue}" for each in kept.message.issues)
