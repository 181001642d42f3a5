"""`entrega keys`: make, list and revoke the API keys of producers."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, get_args
from uuid import UUID

import typer

from ingress.shell import NOT_WELL, REFUSED, WRONG_USE, Json, Reason, fail, opened_app, parsed_age, print_json

keys = typer.Typer(help="API keys of producers: make, list, revoke; master keys: rewrap.", no_args_is_help=True)

Scopes = Annotated[
    list[str] | None,
    typer.Option(
        "--scope",
        help="submit, submit:create_lead, submit:send_whatsapp, submit:send_email, read, metrics, operate or admin.",
    ),
]
ExpiresIn = Annotated[
    timedelta | None, typer.Option(parser=parsed_age, metavar="AGE", help="E.g. 90d; never if unset.")
]


@keys.command("create")
def create(
    producer: Annotated[str, typer.Argument(help="Whose key: a word such as loja-sul.")],
    scope: Scopes = None,
    expires_in: ExpiresIn = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once: only a hash of it is kept. Without --scope it may submit and read.

    Example: entrega keys create loja-sul --scope submit:create_lead --scope read --expires-in 90d
    """
    from config.operator import operator_name
    from ingress.access import Scope, is_producer
    from ingress.printing import say
    from ledger.api_keys import ApiKeys

    if not is_producer(producer):
        fail(
            "A producer is a word of letters, digits, '.', '_' and '-', at most 64, and no name under which Entrega"
            " itself works, such as 'bootstrap', 'celery', 'cli' or 'whatsapp'. Choose another.",
            WRONG_USE,
        )
    unknown = [each for each in scope or () if each not in get_args(Scope)]
    if unknown:
        fail(f"There is no scope {unknown[0]!r}; use one of: {', '.join(get_args(Scope))}", WRONG_USE)
    expires_at = datetime.now(UTC) + expires_in if expires_in else None
    made, secret = ApiKeys(opened_app().database).create(
        producer, scope or ("submit", "read"), actor=operator_name(), expires_at=expires_at
    )
    if as_json:
        print_json(asdict(made) | {"key": secret})
        return
    say(f"Key {made.id} of {producer} ({', '.join(made.scopes)}). It is shown this one time; keep it as a password:")
    say(secret)


@keys.command("list")
def list_keys(
    producer: Annotated[str | None, typer.Option(help="Only of this producer.")] = None, as_json: Json = False
) -> None:
    """List the keys, newest first, those that ended among them. A key itself is never shown again.

    Example: entrega keys list --producer loja-sul
    """
    from ingress.printing import show_keys
    from ledger.api_keys import ApiKeys

    found = ApiKeys(opened_app().database).list(producer=producer)
    print_json([asdict(each) for each in found]) if as_json else show_keys(found)


@keys.command("revoke")
def revoke(
    key_id: Annotated[UUID, typer.Argument(help="The key's id, not the key.")], reason: Reason, as_json: Json = False
) -> None:
    """End a key; every door refuses it within half a minute.

    Example: entrega keys revoke 0193e0a0-0000-7000-8000-000000000000 --reason "it leaked"
    """
    from config.operator import operator_name
    from ingress.printing import say
    from ledger.api_keys import ApiKeys

    if not ApiKeys(opened_app().database).revoke(key_id, actor=operator_name(), reason=reason):
        fail(f"There is no key {key_id} that could be revoked. List them with: entrega keys list", REFUSED)
    print_json({"revoked": key_id}) if as_json else say(f"{key_id} is revoked.")


@keys.command("rewrap")
def rewrap_keys(as_json: Json = False) -> None:
    """Wrap everything with the first of ENTREGA_MASTER_KEYS, so that the others can be taken away. Safe to run again.

    First put the new key in front of the old one and restart every process; then run this.

    Example: entrega keys rewrap
    """
    from config.operator import operator_name
    from ingress.printing import say
    from ledger.operating import Desk
    from ledger.rewrapping import rewrap, wrapped_by_others

    app = opened_app()
    done = rewrap(app.ledger.vault)
    left = wrapped_by_others(app.ledger.vault)
    Desk(app.database, actor=operator_name()).note("master keys rewrapped", reason=f"{done} values")
    if as_json:
        print_json({"rewrapped": done, "left": left})
    elif left:
        say(f"{done} rewrapped, {left} are wrapped by another key again: a process still has it in front. Restart it.")
    else:
        say(f"{done} rewrapped. Take every key but the first out of ENTREGA_MASTER_KEYS and restart every process.")
    raise typer.Exit(NOT_WELL if left else 0)
