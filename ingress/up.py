"""`entrega up`: the system in the foreground, until Ctrl-C."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from ingress.printing import program
from ingress.system import Plan, System, addresses

_LABELS = {
    "ingress": "REST, health, metrics", "flower": "Flower", "flower_login": "Flower's login", "database": "Postgres",
    "redis": "Valkey", "sandbox_crm": "stand-in CRM", "sandbox_graph": "stand-in Graph API",
    "sandbox_smtp": "stand-in mail server", "sandbox_smtp_control": "its faults and effects", "logs": "logs",
}  # fmt: skip


def run(plan: Plan, *, as_json: bool) -> int:
    """Run the system until SIGINT or SIGTERM; return the exit code.

    Raises:
        SandboxError: A part did not start; everything that had started was stopped.
    """
    system = System(plan, _quiet if as_json else typer.echo)
    with _stop_signal() as stopped:
        try:
            system.start()
            _announce(system, as_json=as_json)
            while not stopped.wait(1.0):
                system.watch()
        finally:
            system.stop()
    return 0


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(system: System, *, as_json: bool) -> None:
    found = addresses(system)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo("\nEntrega is up. Press Ctrl-C to stop.")
    for name, label in _LABELS.items():
        if name in found:
            typer.echo(f"  {label:<22} {found[name]}")
    typer.echo("\nIn a second terminal, in this folder:")
    example = "nome='Ana Teste' email=ana.teste@exemplo.com.br interesse=produto_a"
    typer.echo(f"  {program()} submit create_lead {example}")
    if system.key_file:
        body = '{"nome": "Ana Teste", "email": "ana.teste@exemplo.com.br", "interesse": "produto_a"}'
        typer.echo("\nOr over HTTP, with the admin key that the sandbox made; others: entrega keys create --help")
        typer.echo(f"  curl {system.url}/v1/leads -H 'Content-Type: application/json' \\")
        typer.echo(f"    -H \"Authorization: Bearer $(cat {system.key_file})\" -d '{body}'")


def _quiet(_sentence: str) -> None:
    """Say nothing: only the addresses are printed, as JSON."""
