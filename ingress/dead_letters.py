"""`entrega dead-letters`: look at what only a person can move on, and move it. Payloads are masked before they print.

Exit codes are those of `ingress.cli`; an action that left some of the named deliveries alone ends with 4.
"""

import re
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

import typer

from ingress.bounds import FASTEST_PACE, MOST_REPLAYED, SLOWEST_PACE
from ingress.shell import (
    REFUSED,
    WRONG_USE,
    Account,
    Before,
    Id,
    Json,
    Kind,
    Most,
    Reason,
    fail,
    opened_app,
    parsed_age,
    print_json,
    typed_body,
)

if TYPE_CHECKING:
    from ledger.letters import Letter, LetterFilter, Letters
    from ledger.replays import StopRule
    from tasks.app import Entrega

_SECONDS = {"s": 1, "m": 60, "h": 3600}
# The sweep sends the others, as fast as workers take them.
_MOST_HINTS = 1000

dead_letters = typer.Typer(help="Deliveries that only a person can move on.", no_args_is_help=True)


def _pace(value: str) -> float:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)/([smh])", value.strip())
    pace = float(found[1]) / _SECONDS[found[2]] if found else 0.0
    if not SLOWEST_PACE <= pace <= FASTEST_PACE:
        raise typer.BadParameter("wanted a pace such as 10/s, 30/m or 100/h, from 4/h to 10000/s")
    return pace


def _threshold(value: str) -> tuple[float, Literal["share", "errors"]]:
    found = re.fullmatch(r"(\d{1,7})(%?)", value.strip())
    if not found or (found[2] and int(found[1]) > 100):  # noqa: PLR2004 - per cent
        raise typer.BadParameter("wanted a share such as 20%, or a number of errors such as 50")
    return (int(found[1]) / 100, "share") if found[2] else (float(found[1]), "errors")


Code = Annotated[str | None, typer.Option(help="Only with this error code, e.g. invalid.")]
Producer = Annotated[str | None, typer.Option(help="Only from this producer.")]
Older = Annotated[
    timedelta | None, typer.Option(parser=parsed_age, metavar="AGE", help="Only dead for longer, e.g. 2h, 1d.")
]
Newer = Annotated[
    timedelta | None, typer.Option(parser=parsed_age, metavar="AGE", help="Only dead for less long, e.g. 30m.")
]
Ids = Annotated[list[UUID], typer.Argument(help="Which ones.")]


@dead_letters.command("list")
def list_dead(
    kind: Kind = None,
    account: Account = None,
    code: Code = None,
    producer: Producer = None,
    older_than: Older = None,
    newer_than: Newer = None,
    before: Before = None,
    most: Most = 20,
    summary: Annotated[bool, typer.Option("--summary", help="Count them for each account and code.")] = False,
    as_json: Json = False,
) -> None:
    """List the dead letters and held deliveries, newest first.

    Example: entrega dead-letters list --account crm:default --newer-than 2h
    """
    from ingress.printing import show_deliveries, show_piles
    from ledger.letters import LetterFilter

    letters = _letters(opened_app())
    wanted = LetterFilter(kind, account, code, producer, older_than, newer_than)
    if summary:
        piles = letters.summary(wanted)
        print_json([asdict(each) for each in piles]) if as_json else show_piles(piles)
        return
    found = letters.search(wanted, before=before, most=most)
    print_json([asdict(each) for each in found]) if as_json else show_deliveries(found, reasons=True)


@dead_letters.command("show")
def show_dead(
    delivery_id: Id,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why you look; kept in the audit trail.")] = "looked at",
    as_json: Json = False,
) -> None:
    """Show one delivery with its timeline, its audit trail and its payload, masked. That you looked is kept on record.

    Example: entrega dead-letters show 0193e0a0-0000-7000-8000-000000000000
    """
    from ingress.editing import masked_fallback, masked_payload
    from ingress.printing import show_delivery, show_fallback, show_history, show_payload

    app = opened_app()
    letters = _letters(app)
    letter = _viewed(letters, delivery_id, reason)
    found, history = app.archive.find(delivery_id), letters.history(delivery_id)
    if found is None:
        fail(f"Delivery {delivery_id} was erased just now.", REFUSED)
    payload, fallback = masked_payload(letter.stored), masked_fallback(letter.stored)
    if as_json:
        seen = {"payload": payload, "fallback": fallback, "payload_note": letter.closed, "may_exist": letter.may_exist}
        print_json(asdict(found) | seen | {"history": [asdict(each) for each in history]})
        return
    show_delivery(found)
    show_payload(payload, letter.closed)
    show_fallback(fallback)
    show_history(history)


@dead_letters.command("replay")
def replay_dead(
    reason: Reason,
    delivery_ids: Annotated[list[UUID] | None, typer.Argument(help="Which ones; or filters.")] = None,
    kind: Kind = None,
    account: Account = None,
    code: Code = None,
    producer: Producer = None,
    older_than: Older = None,
    newer_than: Newer = None,
    most: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MOST_REPLAYED, help="At most this many, oldest first.")
    ] = 10_000,
    pace: Annotated[
        float | None,
        typer.Option(parser=_pace, metavar="N/s", help="How many become due: 10/s, 30/m. Else all at once."),
    ] = None,
    stop_after: Annotated[
        str, typer.Option(metavar="N|N%", help="Stop when more than this die again; a share counts from 10 ended on.")
    ] = "20%",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Try dead letters again, with fresh budgets: those named, or all that filters match.

    A replay by filter first says how many match and asks; with --json and without --yes it only says. It goes on by
    itself at its pace, and stops by itself when too many die again. What may have arrived is looked up first.

    Example: entrega dead-letters replay 0193e0a0-0000-7000-8000-000000000000 --reason "field corrected in the CRM"

    Example: entrega dead-letters replay --account crm:default --code forbidden --pace 10/s --reason "rights restored"
    """
    from ledger.letters import LetterFilter
    from ledger.replays import StopRule

    wanted = LetterFilter(kind, account, code, producer, older_than, newer_than)
    if bool(delivery_ids) == bool(wanted.said()):
        fail("Name either deliveries or at least one filter, e.g. --account crm:default --code forbidden.", WRONG_USE)
    limit = _threshold(stop_after)
    if delivery_ids:
        _replay_named(delivery_ids, reason, as_json=as_json)
        return
    app = opened_app()
    matching = _previewed(app, wanted, yes=yes, as_json=as_json)
    if matching:
        _replay_matching(app, wanted, reason, StopRule(*limit), pace, min(matching, most), as_json=as_json)


@dead_letters.command("replays")
def list_replays(most: Most = 20, as_json: Json = False) -> None:
    """List the replays by filter, newest first: how they stand, and why they stopped.

    Example: entrega dead-letters replays
    """
    from ingress.printing import show_replays
    from ledger.replays import Replays

    found = Replays(opened_app().database).recent(most=most)
    print_json([asdict(each) for each in found]) if as_json else show_replays(found)


@dead_letters.command("edit")
def edit_dead(
    delivery_id: Id,
    reason: Reason,
    changes: Annotated[
        list[str] | None, typer.Argument(help="field=value; lists and objects as JSON; field=null takes it out.")
    ] = None,
    body: Annotated[str | None, typer.Option(help="The whole new body instead: @file, - or JSON.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also when the old one may have arrived.")] = False,
    as_json: Json = False,
) -> None:
    """Correct a dead letter: a new delivery takes its place, checked like any other, and the old one is canceled.

    Example: entrega dead-letters edit 0193e0a0-0000-7000-8000-000000000000 interesse=produto_a --reason "wrong product"
    """
    from ingress.editing import edited_body, masked_payload
    from ingress.printing import say, show_payload
    from ledger.letters import LetterMoved

    if bool(changes) == bool(body):
        fail("Give either field=value pairs or --body.", WRONG_USE)
    app = opened_app()
    letters = _letters(app)
    letter = _editable(letters, delivery_id, reason, anyway=anyway)
    new = edited_body(letter, typed_body(changes or [str(body)]), whole=body is not None, language="en")
    new["options"]["key"] = letters.edit_key(delivery_id, new)
    ledger = letters.resubmitting(delivery_id, reason=reason)
    intake = replace(app.intake, ledger=ledger)  # under the policy of its producer
    try:
        answer = intake.submit(letter.kind, new, producer=letter.producer, language="en")
    except LetterMoved as err:
        fail(str(err), REFUSED)
    old_payload, new_payload = masked_payload(letter.stored), masked_payload({"content": new})
    if as_json:
        print_json({"edited": delivery_id, "receipt": asdict(answer), "before": old_payload, "after": new_payload})
        return
    say("Before:")
    show_payload(old_payload, None)
    say("After:")
    show_payload(new_payload, None)
    say(f"Delivery {answer.id} ({answer.state}) takes the place of {delivery_id}, which is canceled.")


@dead_letters.command("discard")
def discard_dead(delivery_ids: Ids, reason: Reason, as_json: Json = False) -> None:
    """Give dead letters up for good: they are canceled, and stay on record.

    Example: entrega dead-letters discard 0193e0a0-0000-7000-8000-000000000000 --reason "a test lead"
    """
    from ingress.printing import say

    done = _letters(opened_app()).discard(delivery_ids, reason=reason)
    discarded = [str(each) for each in delivery_ids if each in done]
    left = [str(each) for each in delivery_ids if each not in done]
    if as_json:
        print_json({"discarded": discarded, "not_discarded": left})
    else:
        say(f"{len(discarded)} discarded." + _left_alone(left))
    raise typer.Exit(REFUSED if left else 0)


def _replay_named(delivery_ids: list[UUID], reason: str, *, as_json: bool) -> None:
    from ingress.printing import say

    app = opened_app()
    done = _letters(app).replay(delivery_ids, reason=reason)
    app.hints.send(done.hints)
    left = [str(each) for each in delivery_ids if each not in done.ids]
    if as_json:
        print_json({"replayed": [str(each) for each in done.ids], "not_replayed": left})
    else:
        say(f"{len(done.ids)} replayed." + _left_alone(left))
    raise typer.Exit(REFUSED if left else 0)


def _previewed(app: "Entrega", wanted: "LetterFilter", *, yes: bool, as_json: bool) -> int:
    """Return how many match and may be replayed: 0 when there are none, or nobody agreed."""
    from ingress.printing import say
    from ledger.replays import Replays

    matching = Replays(app.database).count(wanted)
    if matching and yes:
        return matching
    if as_json:
        print_json({"matching": matching, "replayed": 0, "replay": None})
        return 0
    if not matching:
        say("No dead letter matches.")
    return matching if matching and typer.confirm(f"{matching} match. Replay them?") else 0


def _replay_matching(
    app: "Entrega",
    wanted: "LetterFilter",
    reason: str,
    stop: "StopRule",
    pace: float | None,
    most: int,
    *,
    as_json: bool,
) -> None:
    from config.operator import operator_name
    from ingress.printing import program, say
    from ledger.letters import Signed
    from ledger.replays import Replays

    signed = Signed(operator_name(), reason)
    replay, done = Replays(app.database).start(wanted, signed, pace=pace, stop=stop, most=most)
    app.hints.send(done.hints[:_MOST_HINTS])
    if as_json:
        print_json({"replayed": len(done.ids), "replay": replay})
    else:
        say(f"{len(done.ids)} replayed as {replay}. Follow it with: {program()} dead-letters replays")


def _letters(app: "Entrega") -> "Letters":
    from config.operator import operator_name
    from ledger.letters import Letters

    return Letters(app.ledger, actor=operator_name())


def _viewed(letters: "Letters", delivery_id: UUID, reason: str) -> "Letter":
    letter = letters.view(delivery_id, reason=reason)
    if letter is None:
        fail(f"There is no delivery {delivery_id}. List them with: entrega dead-letters list", REFUSED)
    return letter


def _editable(letters: "Letters", delivery_id: UUID, reason: str, *, anyway: bool) -> "Letter":
    letter = _viewed(letters, delivery_id, reason)
    if letter.state not in ("dead", "held"):
        fail(f"Delivery {delivery_id} is {letter.state}; only dead and held ones are edited.", REFUSED)
    if letter.closed:
        fail(f"Delivery {delivery_id} cannot be edited: {letter.closed}.", REFUSED)
    if letter.may_exist and not anyway:
        fail(
            f"Delivery {delivery_id} may have arrived, and an edited one would be a second. Replay looks it up first; "
            "or give --anyway.",
            REFUSED,
        )
    return letter


def _left_alone(left: list[str]) -> str:
    return f" Neither dead nor held, left alone: {', '.join(left)}" if left else ""
