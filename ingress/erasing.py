"""`entrega erase`: a person's data goes. Addresses are typed or piped: a command line is kept in many places."""

import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ingress.shell import NOT_WELL, REFUSED, WRONG_USE, Json, Reason, fail, opened_app, print_json, typed_lines

if TYPE_CHECKING:
    from ledger.erasing import Erased, Eraser, Tombstone


def erase(
    reason: Reason = "asked for by the person",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where addresses are piped.")] = False,
    suppress: Annotated[bool, typer.Option("--suppress", help="Also accept nothing more for the person.")] = False,
    allow: Annotated[
        bool, typer.Option("--allow", help="Erase nothing: accept commands for the person again.")
    ] = False,
    tombstones: Annotated[
        bool, typer.Option("--tombstones", help="Erase nothing: print who was erased, as keyed hashes.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Read tombstones from standard input, and erase again whom they name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Erase a person: payloads, data key, masked recipient; deliveries that still wait are canceled. No way back.

    Asks for e-mail addresses, phone numbers and WhatsApp ids, or reads them from standard input, one a line. A person
    is known by each of them apart, so give all of them.

    A backup from before still holds the person: keep the tombstones apart from the backups, and replay them after a
    restore.

    Example: entrega erase --yes < addresses.txt

    Example: entrega erase --replay < tombstones.jsonl
    """
    from config.operator import operator_name
    from ledger.erasing import Eraser

    if suppress + allow + tombstones + replay > 1:
        fail("Give one of --suppress, --allow, --tombstones and --replay.", WRONG_USE)
    if tombstones:
        _print_tombstones(Eraser(opened_app().ledger.vault, operator_name()))
        return
    stones = _typed_tombstones() if replay else []
    recipients = [] if replay else _typed_recipients()
    eraser = Eraser(opened_app().ledger.vault, operator_name())
    if allow:
        _allow(eraser, recipients, reason, as_json=as_json)
        return
    if replay:
        done = eraser.replay(stones, reason=reason)
    else:
        if not yes:
            _agree(eraser.count(recipients))
        done = eraser.erase(recipients, reason=reason, suppress=suppress)
    _show(done, as_json=as_json)
    raise typer.Exit(NOT_WELL if done.under_way else 0)


def _print_tombstones(eraser: "Eraser") -> None:
    for each in eraser.tombstones():
        print_json(asdict(each) | {"at": each.at.isoformat()})


def _typed_tombstones() -> "list[Tombstone]":
    from ledger.erasing import tombstone_of

    found = []
    for n, line in enumerate((each for each in typed_lines().splitlines() if each.strip()), 1):
        try:
            found.append(tombstone_of(line))
        except ValueError:
            fail(f"Line {n} is no tombstone of `entrega erase --tombstones`; nothing was erased.", REFUSED)
    return found


def _allow(eraser: "Eraser", recipients: list[str], reason: str, *, as_json: bool) -> None:
    from ingress.printing import say

    allowed = eraser.allow(recipients, reason=reason)
    words = "Commands are accepted again within seconds." if allowed else "Nothing was suppressed for these addresses."
    print_json({"allowed": allowed}) if as_json else say(words)


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
