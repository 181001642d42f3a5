"""`entrega erase`: a person's data goes. Addresses are typed or piped: a command line is kept in many places."""

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ingress.shell import NOT_WELL, REFUSED, WRONG_USE, Json, Reason, fail, opened_app, print_json, typed_lines

if TYPE_CHECKING:
    from ledger.erasing import Erased


def erase(
    reason: Reason = "asked for by the person",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where addresses are piped.")] = False,
    as_json: Json = False,
) -> None:
    """Erase a person: payloads, data key, masked recipient; deliveries that still wait are canceled. No way back.

    Asks for e-mail addresses, phone numbers and WhatsApp ids, or reads them from standard input, one a line. A person
    is known by each of them apart, so give all of them.

    Example: entrega erase --yes < addresses.txt
    """
    from config.operator import operator_name
    from ledger.erasing import Eraser

    recipients = _typed_recipients()
    app = opened_app()
    eraser = Eraser(app.ledger.vault, operator_name())
    if not yes:
        _agree(eraser.count(recipients))
    done = eraser.erase(recipients, reason=reason)
    _show(done, as_json=as_json)
    raise typer.Exit(NOT_WELL if done.under_way else 0)


def _typed_recipients() -> list[str]:
    from delivery.fields import recipient_of

    is_typed = sys.stdin.isatty()
    question = "E-mail addresses, phone numbers (+...), WhatsApp ids, with commas between"
    text = str(typer.prompt(question, err=True)) if is_typed else typed_lines()
    found = []
    for n, each in enumerate((line for line in re.split(r"[\n,;]", text) if line.strip()), 1):
        try:
            found.append(recipient_of(each))
        except ValueError:
            fail(f"Number {n} is no e-mail address, phone number (+...) or WhatsApp id; nothing was erased.", REFUSED)
    if not found:
        fail("No address was given; nothing was erased.", WRONG_USE)
    return found


def _agree(count: int) -> None:
    if not sys.stdin.isatty():
        fail(f"{count} deliveries would be erased. Addresses are piped, so agree with --yes.", REFUSED)
    if not typer.confirm(f"{count} deliveries. Erase what is known of the person, for good?", err=True):
        fail("Nothing was erased.", REFUSED)


def _show(done: "Erased", *, as_json: bool) -> None:
    from ingress.printing import say

    if as_json:
        print_json(
            {
                "erased": done.deliveries,
                "canceled": len(done.canceled),
                "dead": done.dead,
                "under_way": done.under_way,
            }
        )
        return
    say(f"{done.deliveries} deliveries erased; {len(done.canceled)} of them were waiting and are canceled.")
    if done.dead:
        say(f"{done.dead} of them may have been carried out before: ask the provider to erase the person too.")
    if done.under_way:
        say(f"{done.under_way} are being sent right now: erase again in a minute.")
