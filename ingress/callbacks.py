"""`entrega callbacks`: where producers are told what becomes of their deliveries, and the secrets that prove us.

A secret prints once, to the person who asked for it; a URL never prints beyond its host, for its path may hold a token.
"""

import base64
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ingress.shell import REFUSED, Json, Most, Reason, fail, opened_app, print_json

if TYPE_CHECKING:
    from tasks.app import Entrega

callbacks = typer.Typer(help="Callbacks: endpoints of producers and their signing secrets.", no_args_is_help=True)

Producer = Annotated[str, typer.Argument(help="The producer's name, as its deliveries show it.")]
EndpointId = Annotated[UUID, typer.Argument(help="The endpoint's id, from: entrega callbacks list.")]


@callbacks.command("list")
def show_all(
    producer: Annotated[str | None, typer.Option(help="Only this producer's.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Only those that get nothing.")] = False,
    most: Most = 100,
    as_json: Json = False,
) -> None:
    """List endpoints, newest first, with the circuit breakers of their hosts.

    Example: entrega callbacks list --producer loja --disabled
    """
    from ingress.printing import show_endpoints

    app = opened_app()
    found = app.ledger.endpoints.search(producer=producer, disabled=disabled, most=most)
    breakers = _breakers(app, {each.account for each in found})
    if as_json:
        print_json([asdict(each) | {"breaker": breakers[each.account]} for each in found])
    else:
        show_endpoints(found, breakers)


@callbacks.command()
def secret(producer: Producer, as_json: Json = False) -> None:
    """Print a producer's signing secret, once; it is made now if there is none yet.

    Example: entrega callbacks secret loja
    """
    from config.operator import operator_name

    shown = opened_app().ledger.endpoints.show_secret(producer, actor=operator_name())
    if shown is None:
        fail(
            f"The secret of {producer} was shown before. Make a new one with: entrega callbacks rotate {producer}",
            REFUSED,
        )
    _print_secret(producer, shown, as_json=as_json)


@callbacks.command()
def rotate(
    producer: Producer,
    keep_hours: Annotated[int, typer.Option(min=0, max=720, help="The old secret signs beside it so long.")] = 24,
    as_json: Json = False,
) -> None:
    """Make a new signing secret and print it, once; the old one signs beside it for a while.

    Example: entrega callbacks rotate loja --keep-hours 48
    """
    from config.operator import operator_name

    keep = timedelta(hours=keep_hours)
    made = opened_app().ledger.endpoints.rotate_secret(producer, keep=keep, actor=operator_name())
    if made is None:
        fail(f"Somebody else rotated the secret of {producer} in this moment; nothing was changed.", REFUSED)
    _print_secret(producer, made, as_json=as_json)


@callbacks.command()
def disable(endpoint: EndpointId, reason: Reason, as_json: Json = False) -> None:
    """Send nothing to an endpoint any more, until it is enabled.

    Example: entrega callbacks disable 0193e0a0-0000-7000-8000-000000000000 --reason "the shop asked us to"
    """
    from config.operator import operator_name
    from ingress.printing import say

    if not opened_app().ledger.endpoints.disable(endpoint, actor=operator_name(), reason=reason):
        fail(f"There is no endpoint {endpoint}, or it is disabled already. See: entrega callbacks list", REFUSED)
    _print_state(endpoint, "disabled") if as_json else say(f"{endpoint} is disabled.")


@callbacks.command()
def enable(endpoint: EndpointId, reason: Reason = "enabled by an operator", as_json: Json = False) -> None:
    """Send to an endpoint again. Callbacks that died meanwhile are dead letters: replay them.

    Example: entrega callbacks enable 0193e0a0-0000-7000-8000-000000000000 --reason "the shop is back"
    """
    from config.operator import operator_name
    from ingress.printing import say

    if not opened_app().ledger.endpoints.enable(endpoint, actor=operator_name(), reason=reason):
        fail(f"There is no endpoint {endpoint}, or it is not disabled. See: entrega callbacks list", REFUSED)
    replay = "entrega dead-letters replay --kind callback --code undeliverable"
    _print_state(endpoint, "enabled") if as_json else say(f"{endpoint} is enabled. What died meanwhile: {replay}")


@callbacks.command("test")
def try_out(endpoint: EndpointId, as_json: Json = False) -> None:
    """Send an event `endpoint.test` to an endpoint, signed as all are.

    Example: entrega callbacks test 0193e0a0-0000-7000-8000-000000000000
    """
    from ingress.printing import program, say

    app = opened_app()
    hint = app.callbacks.try_out(endpoint)
    if hint is None:
        fail(f"There is no endpoint {endpoint}, or it is disabled. See: entrega callbacks list", REFUSED)
    app.hints.send([hint])
    follow = f"Follow it with: {program()} show {hint.id}"
    print_json({"id": str(hint.id)}) if as_json else say(f"A test is on its way. {follow}")


def _breakers(app: "Entrega", accounts: set[str]) -> dict[str, str]:
    from delivery.callbacks import Callback
    from worker.wiring import breaker_gate, shared_memory

    gate = breaker_gate(app, shared_memory(app.settings))
    return {each: gate.status(each, Callback.kind).state for each in accounts}


def _print_secret(producer: str, key: bytes, *, as_json: bool) -> None:
    from ingress.printing import say

    text = "whsec_" + base64.b64encode(key).decode()
    if as_json:
        print_json({"producer": producer, "secret": text})
        return
    typer.echo(text)
    say("Keep it now: it is not shown again.")


def _print_state(endpoint: UUID, state: str) -> None:
    print_json({"endpoint": str(endpoint), "state": state})
