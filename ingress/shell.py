"""What the commands of the command line share: exit codes, options, the way to the system, how a body is typed."""

import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from uuid import UUID

import typer

from ingress.bounds import LONGEST_AGE_S
from ingress.strict_json import UnacceptableJson, parse_json

if TYPE_CHECKING:
    from tasks.app import Entrega

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

NOT_WELL, WRONG_USE, AWAY, REFUSED = 1, 2, 3, 4

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Id = Annotated[UUID, typer.Argument(help="The delivery's id.")]


def checked_reason(value: str) -> str:
    """Return a reason that was typed, masked; one that is no line of text ends the command."""
    from delivery.plain_text import is_line
    from delivery.redaction import mask_text

    if not is_line(value):
        raise typer.BadParameter("wanted one line, without control and direction characters")
    return mask_text(value)


Reason = Annotated[
    str, typer.Option("--reason", "-r", callback=checked_reason, help="Why; kept in the audit trail, masked.")
]
Kind = Annotated[str | None, typer.Option(help="Only this kind, e.g. create_lead.")]
Account = Annotated[str | None, typer.Option(help="Only this account, e.g. crm:default.")]
Before = Annotated[UUID | None, typer.Option(help="Only older than this id: the last one of the page before.")]
Most = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most this many.")]


def opened_app(*, check: bool = True) -> "Entrega":
    """Return the application, with quiet logs: the command line speaks for itself.

    Args:
        check: Whether to make sure first that the ledger's schema is the one that this program knows.
    """
    from ledger.schema import check_schema
    from tasks import app
    from tasks.logs import configure_logging

    configure_logging(app.settings.entrega_log, "WARNING")
    if check:
        check_schema(app.database)
    return app


def print_json(value: object) -> None:
    """Print for machines."""
    from delivery.plain_text import shown

    typer.echo(shown(json.dumps(value, ensure_ascii=False, default=str), escape="\\u{:04x}"))


def fail(message: str, code: int) -> NoReturn:
    """Say why on standard error and end with an exit code."""
    from delivery.plain_text import shown

    typer.echo(shown(message), err=True)
    sys.exit(code)


def typed_body(words: list[str]) -> dict[str, Any]:
    """Return the body that was typed: JSON, @file, - for standard input, or field=value pairs."""
    if len(words) == 1 and words[0] == "-":
        return _parsed(typer.get_binary_stream("stdin").read(), "standard input")
    if len(words) == 1 and words[0].startswith("@"):
        return _parsed(_file_bytes(Path(words[0][1:])), words[0][1:])
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return _parsed(_typed(words[0]), "the argument")
    pairs = [each.partition("=") for each in words]
    if not all(equals and name for name, equals, _ in pairs):
        fail("Give the body as JSON, as @file, as - for standard input, or as field=value pairs.", WRONG_USE)
    # A list or an object may stand as JSON behind its name: tags=["vip"]
    return {name: _parsed_value(value) if value[:1] in ("[", "{") else value for name, _, value in pairs}


def typed_lines() -> str:
    """Return the text on standard input."""
    try:
        return typer.get_binary_stream("stdin").read().decode()
    except UnicodeDecodeError:
        fail("Standard input is not text in UTF-8.", WRONG_USE)


def parsed_age(value: str) -> timedelta:
    """Return the time that was typed, e.g. 30m, 2h or 1d."""
    found = re.fullmatch(r"(\d{1,7})([smhd])", value.strip())
    if not found:
        raise typer.BadParameter("wanted an age such as 30m, 2h or 1d")
    seconds = int(found[1]) * _SECONDS[found[2]]
    if seconds > LONGEST_AGE_S:
        raise typer.BadParameter("wanted an age of at most ten years, 3660d")
    return timedelta(seconds=seconds)


def _parsed_value(text: str) -> Any:
    try:
        return parse_json(_typed(text))
    except UnacceptableJson:
        return text  # a text may begin like a list; where it must be one, the intake says so


def _typed(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # as it was typed, bytes that are no UTF-8 included


def _file_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, ValueError) as err:  # ValueError: no name of a file, as Python sees it
        fail(f"{file} cannot be read: {type(err).__name__}. Give a UTF-8 file that holds one JSON object.", WRONG_USE)


def _parsed(raw: bytes, where: str) -> dict[str, Any]:
    try:
        found = parse_json(raw)
    except UnacceptableJson as err:
        fail(f"The body in {where} is not JSON that can be taken: {err}.", WRONG_USE)
    if not isinstance(found, dict):
        fail(f"The body in {where} must be one JSON object.", WRONG_USE)
    return found
