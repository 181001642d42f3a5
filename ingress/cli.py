"""The command line. Each command is thin: it asks the ledger or the intake and prints; `--json` prints for machines.

Exit codes: 0 done · 1 what was asked about is not well (verify, doctor, demo, up) · 2 wrong use or wrong settings ·
3 the ledger is away · 4 refused (invalid command, key reused, not found).
"""

import json
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ingress.accounts import accounts
from ingress.approvals import approvals
from ingress.backups import backup, restore
from ingress.breakers import breakers
from ingress.broker import broker
from ingress.callbacks import callbacks
from ingress.dead_letters import dead_letters
from ingress.erasing import erase
from ingress.forms import forms
from ingress.keys import keys
from ingress.limits import limits
from ingress.producers import producers
from ingress.rollouts import rollouts
from ingress.set_aside import set_aside
from ingress.shell import AWAY, NOT_WELL, REFUSED, WRONG_USE, Account, Before, Id, Json, Kind, Most, Reason
from ingress.shell import fail as _fail
from ingress.shell import opened_app as _app
from ingress.shell import print_json as _print_json
from ingress.shell import typed_body as _body

if TYPE_CHECKING:
    from tasks.app import Entrega

PausedAccount = Annotated[str | None, typer.Argument(help="E.g. crm:default.")]
ChainEnd = Annotated[
    str | None, typer.Option("--end", help="An end of the audit trail's chain, from a log line `audit_chained`.")
]
Everything = Annotated[bool, typer.Option("--all", help="Everything, everywhere.")]

cli = typer.Typer(
    name="entrega",
    help="Hands leads, WhatsApp messages and e-mails to outside APIs: once in effect, never lost.",
    epilog="Exit codes: 0 done; 1 what was asked about is not well; 2 wrong use or wrong settings;"
    " 3 the ledger is away; 4 refused.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's Markdown would take longer to load than all the rest of `--help`
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
cli.add_typer(dead_letters, name="dead-letters")
cli.add_typer(breakers, name="breaker")
cli.add_typer(broker, name="broker")
cli.add_typer(rollouts, name="rollout")
cli.add_typer(keys, name="keys")
cli.add_typer(callbacks, name="callbacks")
cli.add_typer(producers, name="producers")
cli.add_typer(approvals, name="approvals")
cli.add_typer(accounts, name="accounts")
cli.add_typer(set_aside, name="set-aside")
cli.add_typer(forms, name="spec")
cli.command("limits")(limits)
cli.command("erase")(erase)
cli.command("backup")(backup)
cli.command("restore")(restore)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"entrega {version('entrega')}")
        raise typer.Exit


@cli.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Take what stands in front of a command."""


@cli.command()
def up(
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Add stand-ins for the CRM, WhatsApp and mail.")] = False,
    flower: Annotated[bool, typer.Option("--flower", help="Add Flower, behind a password.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes, 16 threads each.")] = 1,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say each step, and where the parts answer.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as JSON, for a program: with passwords.")
    ] = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C.

    Postgres and Valkey are embedded where DATABASE_URL and REDIS_URL are unset; their data stays in ENTREGA_DATA.

    Example: entrega up --sandbox --flower
    """
    from config.policy import load_specs
    from config.settings import load_settings
    from ingress.system import Plan
    from ingress.up import run

    settings = load_settings()
    load_specs(settings.entrega_integrations)  # a spec that cannot be served ends the start here
    commands = sys.platform == "linux"
    plan = Plan(settings, sandbox=sandbox, flower=flower, workers=workers, commands=commands, verbose=verbose)
    raise typer.Exit(run(plan, as_json=as_json))


@cli.command()
def demo(as_json: Json = False) -> None:
    """Show the main job and its worst days in under a minute, on real processes and stand-in providers.

    Example: entrega demo
    """
    from ingress.demo import run

    raise typer.Exit(run(as_json=as_json))


@cli.command()
def submit(
    kind: Annotated[str, typer.Argument(help="create_lead, send_whatsapp or send_email.")],
    body: Annotated[list[str], typer.Argument(help="JSON, @file, - for standard input, or field=value pairs.")],
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: the same key and body stand for one delivery.")
    ] = None,
    english: Annotated[bool, typer.Option("--en", help="Sentences in English instead of Portuguese.")] = False,
    as_json: Json = False,
) -> None:
    """Hand over one command and print its receipt.

    Example: entrega submit create_lead nome="Ana Teste" email=ana.teste@exemplo.com.br interesse=produto_a
    """
    from ingress.printing import show_answer

    command = _body(body)
    options = command.get("options", {})
    if key and isinstance(options, dict):  # else the intake says what they must be
        if options.get("key") not in {None, key}:
            _fail("options.key differs from --key; give one of them.", WRONG_USE)
        command = {**command, "options": {**options, "key": key}}
    answer = _app().intake.submit(kind, command, producer="cli", language="en" if english else "pt")
    _print_json(asdict(answer)) if as_json else show_answer(answer)


@cli.command()
def show(delivery_id: Id, as_json: Json = False) -> None:
    """Show one delivery with the timeline of its attempts.

    Example: entrega show 0193e0a0-0000-7000-8000-000000000000
    """
    from ingress.printing import show_delivery

    found = _app().archive.find(delivery_id)
    if found is None:
        _fail(f"There is no delivery {delivery_id}. List them with: entrega deliveries", REFUSED)
    _print_json(asdict(found)) if as_json else show_delivery(found)


@cli.command()
def deliveries(
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be given several times.")] = None,
    kind: Kind = None,
    account: Account = None,
    before: Before = None,
    most: Most = 20,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first.

    Example: entrega deliveries --state waiting --state dead
    """
    from ingress.printing import show_deliveries
    from ledger.models import STATES

    unknown = [each for each in state or () if each not in STATES]
    if unknown:
        _fail(f"There is no state {unknown[0]!r}; use one of: {', '.join(STATES)}", WRONG_USE)
    app = _app()
    found = app.archive.search(states=tuple(state or ()), kind=kind, account=account, before=before, most=most)
    here = app.settings.delivery_environment
    _print_json([asdict(each) for each in found]) if as_json else show_deliveries(found, here=here)


@cli.command()
def cancel(delivery_id: Id, reason: Reason, as_json: Json = False) -> None:
    """Cancel a delivery that was surely not carried out; it is never sent.

    Example: entrega cancel 0193e0a0-0000-7000-8000-000000000000 --reason "the customer called"
    """
    from config.operator import operator_name
    from ingress.printing import say
    from ledger.canceling import NotCancelable
    from ledger.canceling import cancel as cancel_delivery
    from ledger.order import next_in_order

    app = _app()
    try:
        cancel_delivery(app.database, delivery_id, actor=operator_name(), reason=reason)
    except NotCancelable as err:
        _fail(f"{str(err)[0].upper()}{str(err)[1:]}", REFUSED)
    app.hints.send(next_in_order(app.database, [delivery_id]))
    _print_json({"id": str(delivery_id), "state": "canceled"}) if as_json else say(f"{delivery_id} is canceled.")


@cli.command()
def pause(reason: Reason, account: PausedAccount = None, everything: Everything = False, as_json: Json = False) -> None:
    """Hold every delivery of an account from its next attempt on; nothing is lost, others go on.

    With --all nothing is attempted anywhere, within seconds; commands are still accepted, wait, and no time runs out.

    Example: entrega pause crm:default --reason "the CRM moves tonight"

    Example: entrega pause --all --reason "an agent sends nonsense"
    """
    from ingress.printing import say

    app = _app()
    name = _one_of(app, account, everything=everything)
    if name is None:
        _desk(app).pause_all(reason=reason)
        words = "Nothing is attempted any more; what is under way ends. Go on with: entrega resume --all"
    else:
        _desk(app).pause(name, reason=reason)
        words = f"{name} is held. Open it again with: entrega resume {name}"
    _print_json({"account": name, "all": everything, "held": True}) if as_json else say(words)


@cli.command()
def resume(
    account: PausedAccount = None,
    everything: Everything = False,
    reason: Reason = "resumed by an operator",
    as_json: Json = False,
) -> None:
    """Open a held account again and free its deliveries; with --all, end the pause of everything.

    Example: entrega resume crm:default --reason "new password set"

    Example: entrega resume --all
    """
    from ingress.printing import say

    app = _app()
    name = _one_of(app, account, everything=everything)
    if name is None:
        was_paused = _desk(app).resume_all(reason=reason)
        words = "Attempts begin again; accounts that are held stay held." if was_paused else "Nothing was paused."
        _print_json({"account": None, "all": True, "was_paused": was_paused}) if as_json else say(words)
        return
    hints = _desk(app).resume(name, reason=reason)
    app.hints.send(hints)
    _print_json({"account": name, "freed": len(hints)}) if as_json else say(f"{name} is open; {len(hints)} freed.")


@cli.command()
def doctor(as_json: Json = False) -> None:
    """Check that every part and provider is reachable, and say what to do where it is not.

    Example: entrega doctor
    """
    from ingress.doctor import examine
    from ingress.printing import show_findings

    findings = examine(_app(check=False))
    _print_json([asdict(each) for each in findings]) if as_json else show_findings(findings)
    raise typer.Exit(0 if all(each.well for each in findings) else NOT_WELL)


@cli.command()
def migrate(as_json: Json = False) -> None:
    """Bring the ledger's schema up to what this version needs; safe to run again, and by several at once.

    Example: entrega migrate
    """
    from ingress.printing import say
    from ledger.hashing import hash_clear
    from ledger.schema import migrate as bring_up_to_date

    app = _app(check=False)
    before, after = bring_up_to_date(app.database, app.settings.delivery_environment)
    hash_clear(app.ledger.vault)
    if as_json:
        _print_json({"before": before, "after": after})
    else:
        say(
            f"The schema is at revision {after}"
            + (", as before." if before == after else f" (was: {before or 'empty'}).")
        )


@cli.command()
def verify(end: ChainEnd = None, as_json: Json = False) -> None:
    """Audit the promise: accepted = succeeded + open + dead + canceled + expired, and nothing is out of place.

    Also checks that no row of the audit trail was changed, added or deleted since it was chained, within a minute.

    Example: entrega verify

    Example: entrega verify --end 12:5f2c9a
    """
    from ingress.printing import show_verdict
    from ledger.audit_chain import AuditChain, head_of

    try:
        noted = head_of(end) if end else None
    except ValueError:
        _fail("--end wants what a log line `audit_chained` holds: a number, a colon, hexadecimal digits.", WRONG_USE)
    app = _app()
    verdict = app.archive.verify()
    verdict = replace(verdict, faults={**verdict.faults, **AuditChain(app.ledger.vault).faults(noted=noted)})
    balanced = verdict.accepted == sum(verdict.states.values())
    well = balanced and not verdict.faults
    _print_json({**asdict(verdict), "well": well}) if as_json else show_verdict(verdict, well=well)
    raise typer.Exit(0 if well else NOT_WELL)


@cli.command()
def mcp(
    english: Annotated[bool, typer.Option("--en", help="Sentences in English instead of Portuguese.")] = False,
) -> None:
    """Serve one agent over the Model Context Protocol on standard input and output; its client starts this.

    The key is ENTREGA_API_KEY; in the sandbox the admin key if unset. Over HTTP the same tools are at /mcp.

    Example: entrega mcp
    """
    app = _app()
    key = app.settings.api_key()
    from ingress.mcp_server import serve_stdio
    from ingress.problems import Problem
    from ingress.rest import rest_door

    try:
        serve_stdio(rest_door(app), key, "en" if english else "pt")
    except Problem as err:
        _fail(f"ENTREGA_API_KEY: {err.body('en')['error']['message']}", WRONG_USE)


def main() -> None:
    """Run the command line; a fault becomes one sentence and an exit code, never a traceback."""
    for place, word in enumerate(sys.argv[1:], start=1):
        if not word.isprintable() and any("\ud800" <= each <= "\udfff" for each in word):
            _fail(f"Word {place} of the command is not text in UTF-8.", WRONG_USE)
    try:
        cli(prog_name="entrega")
    except Exception as err:
        told = _told(err)
        if told is None:
            raise
        _fail(*told)


def _told(err: Exception) -> tuple[str, int] | None:
    """Return the sentence and the exit code for an expected fault, or None."""
    # Only now: whoever asks for help does not wait for pydantic and the sandbox.
    from config.policy import SpecError
    from config.running import AlreadyRunning
    from config.settings import ConfigurationError
    from delivery.errors import InvalidCommand, KeyReused, LedgerUnavailable, LedgerUnusable, ProducerRefused
    from sandbox.doors import SandboxError

    match err:
        case ConfigurationError() | SpecError() | LedgerUnusable():
            return str(err), WRONG_USE
        case LedgerUnavailable():
            return f"The ledger is away: {err}", AWAY
        case InvalidCommand():
            return json.dumps(err.as_answer(), ensure_ascii=False) if "--json" in sys.argv else _issues(err), REFUSED
        case KeyReused() | ProducerRefused():
            return str(err), REFUSED
        case SandboxError() | AlreadyRunning():
            return str(err), NOT_WELL
    return None


def _issues(err: Any) -> str:
    lines = "\n".join(f"  {each.field}: {each.issue}" for each in err.issues)
    return f"{err.kind!r} was refused, nothing was written:\n{lines}"


def _desk(app: "Entrega") -> Any:
    from config.operator import operator_name
    from ledger.operating import Desk

    return Desk(app.database, actor=operator_name())


def _one_of(app: "Entrega", account: str | None, *, everything: bool) -> str | None:
    """Return the account that was named; None for all of them."""
    if (account is None) != everything:
        _fail("Name one account, or give --all.", WRONG_USE)
    return None if account is None else _known(app, account)


def _known(app: "Entrega", account: str) -> str:
    if account not in app.accounts and not app.ledger.endpoints.knows(account):
        _fail(f"There is no account {account!r}; there are: {', '.join(app.accounts)}", WRONG_USE)
    return account
