"""`entrega up`: the system in the foreground, until Ctrl-C."""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from ingress.printing import program
from ingress.system import Plan, System, addresses

# What `--verbose` adds: where the parts are, and never a password.
_LABELS = {
    "sandbox_crm": "stand-in CRM", "sandbox_graph": "stand-in Graph API",
    "sandbox_smtp": "stand-in mail server", "sandbox_smtp_control": "its faults and effects",
}  # fmt: skip


def run(plan: Plan, *, as_json: bool) -> int:
    """Run the system until SIGINT or SIGTERM; return the exit code.

    Raises:
        SandboxError: A part did not start; everything that had started was stopped.
    """
    system = System(plan, _quiet if as_json else typer.echo)
    system.say("Starting; Ctrl-C stops everything.")
    with _stop_signal() as stopped:
        try:
            system.start()
            announce(system, as_json=as_json)
            while not stopped.wait(1.0):
                system.watch()
            system.say("\nStopping; calls under way have 10 s to end.")
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


def announce(system: System, *, as_json: bool) -> None:
    """Print where a started system is; with passwords for a program only."""
    found = addresses(system)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"\nEntrega is up: {system.url}")
    if system.key_file:
        typer.echo(f"  admin key  {_short(system.key_file)}")
    typer.echo(f"  logs       {_short(system.data / 'logs')}")
    if "flower" in found:
        password_file = _short(system.data / "flower.password")
        typer.echo(f"  Flower     {found['flower']} (user operator, password in {password_file})")
    if system.plan.verbose:
        _announce_parts(system, found)
    if system.standins is not None:  # never where the providers are real
        typer.echo("\nTry it in a second terminal, in this folder:")
        typer.echo(
            f"  {program()} submit create_lead nome='Ana Teste' email=ana.teste@exemplo.com.br interesse=produto_a"
        )


def _announce_parts(system: System, found: Mapping[str, str]) -> None:
    for name, label in _LABELS.items():
        if name in found:
            typer.echo(f"  {label:<22} {found[name]}")
    typer.echo(f"  {'Postgres and Redis':<22} {_short(system.data / 'running.json')} (with their passwords)")
    if "celery_clients" in found:
        typer.echo(f"  {'other Celery clients':<22} {_short(system.foreign_url_file)} (their REDIS_URL)")


def _short(path: Path) -> Path:
    """Return a path as it is typed from here, where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _quiet(_sentence: str) -> None:
    """Say nothing: only the addresses are printed, as JSON."""
