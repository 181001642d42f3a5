"""`entrega set-aside`: events that could not be worked on and wait for a person."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ingress.shell import Json, Most, Reason, opened_app, print_json

if TYPE_CHECKING:
    from ledger.setting_aside import Kept

set_aside = typer.Typer(
    help="Events that could not be worked on, of providers and for producers; the others go on.", no_args_is_help=True
)


@set_aside.command("list")
def list_kept(most: Most = 100, as_json: Json = False) -> None:
    """List the events that failed three times, those that wait longest first.

    Example: entrega set-aside list
    """
    from ledger.setting_aside import SetAside

    found = SetAside(opened_app().database).list(most=most)
    print_json([asdict(each) for each in found]) if as_json else _show(found)


@set_aside.command("retry")
def retry(reason: Reason, as_json: Json = False) -> None:
    """Let all of them be worked on again, e.g. after an update of this program.

    Example: entrega set-aside retry --reason "version 1.1 reads them"
    """
    from config.operator import operator_name
    from ingress.printing import say
    from ledger.setting_aside import SetAside

    found = SetAside(opened_app().database).retry(actor=operator_name(), reason=reason)
    print_json({"retried": found}) if as_json else say(f"{found} will be worked on again within seconds.")


def _show(found: "list[Kept]") -> None:
    from rich.table import Table
    from rich.text import Text

    from ingress.printing import console, instant, say

    if not found:
        say("None.")
        return
    table = Table("event", "account", "kind", "came", "set aside", "fault", box=None, header_style="dim")
    for each in found:
        name = f"{each.table.removesuffix('_events')} {each.id}"
        times = (instant(each.at), instant(each.set_aside_at))
        table.add_row(name, each.account or "", Text(each.kind), *times, Text(each.fault))
    console().print(table)
