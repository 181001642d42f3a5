"""Whom a command may reach: its own recipients, and those of its fallback."""

from collections.abc import Mapping
from typing import Any

from delivery.commands import KINDS, Command, CreateLead


def fallback_of(fallback: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Part a fallback command into its kind and its body."""
    return str(fallback.get("kind", "")), {name: value for name, value in fallback.items() if name != "kind"}


def messages_of(command: Command) -> tuple[Command, ...]:
    """Return a checked command, and its fallback when it has one: all that may be sent for it."""
    if command.options.fallback is None:
        return (command,)
    kind, body = fallback_of(command.options.fallback)
    return command, KINDS[kind].model_validate(body)


def reached(command: Command) -> tuple[str, ...]:
    """Return everybody whom a checked command may reach, once for each message."""
    return tuple(each for message in messages_of(command) for each in dict.fromkeys(message.recipients))


def named(command: Command) -> tuple[str, ...]:
    """Return everybody whom a checked command names by address or number: a lead's number is written to the CRM."""
    numbers = (each.telefone for each in messages_of(command) if isinstance(each, CreateLead))
    return (*reached(command), *(each for each in numbers if each))
