"""Every command helps itself: what it does, an example that can be typed, and JSON for machines."""

import os
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ingress.cli import cli


def commands(group, path=()):
    """Return every command below a group, by its words."""
    found = {}
    for name, each in group.commands.items():
        found |= commands(each, (*path, name)) if hasattr(each, "commands") else {(*path, name): each}
    return found


COMMANDS = commands(get_command(cli))
CONTRACT = {
    "up", "demo", "submit", "show", "deliveries", "dead-letters", "doctor", "breaker", "limits", "pause", "resume",
    "spec", "accounts", "keys", "erase", "migrate", "verify",
}  # fmt: skip


def examples(command):
    return [" ".join(each.split()) for each in (command.help or "").split("Example: ")[1:]]


def ids(path):
    return " ".join(path)


def test_the_command_line_is_complete():
    assert {path[0] for path in COMMANDS} >= CONTRACT
    assert {path[1] for path in COMMANDS if path[0] == "spec"} == {"check", "show", "new", "doc"}


@pytest.mark.parametrize("path", COMMANDS, ids=ids)
def test_every_command_has_an_example_of_itself(path):
    assert [each.startswith(f"entrega {' '.join(path)}") for each in examples(COMMANDS[path])] in ([True], [True, True])


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != ("mcp",)], ids=ids)  # its own protocol is JSON
def test_every_command_speaks_json(path):
    command = COMMANDS[path]

    assert "--json" in [flag for each in command.params for flag in each.opts]


@pytest.mark.parametrize("path", COMMANDS, ids=ids)
def test_every_example_can_be_typed(path):
    command = COMMANDS[path]
    typed = [shlex.split(each.partition(" < ")[0])[1 + len(path) :] for each in examples(command)]

    # Raises on a word that the command does not know.
    assert all(command.make_context(ids(path), words) for words in typed)


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=ids)
def test_help_is_printed(path):
    done = CliRunner().invoke(cli, [*path, "--help"])

    assert (done.exit_code, "Usage:" in done.stdout) == (0, True)


def test_help_tells_the_exit_codes():
    assert "Exit codes: 0 done" in CliRunner().invoke(cli, ["--help"]).stdout


@pytest.mark.parametrize(
    ("typed", "meant"), [("sow", "show"), ("delivery", "deliveries"), ("dead-leters", "dead-letters")]
)
def test_a_mistyped_command_is_told_the_near_one(typed, meant):
    done = CliRunner().invoke(cli, [typed])

    assert (done.exit_code, f"'{meant}'" in done.stderr) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_made(shell):
    program = "from ingress.cli import cli; cli(prog_name='entrega')"
    environment = {**os.environ, "_ENTREGA_COMPLETE": f"source_{shell}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)

    assert (done.returncode, "_ENTREGA_COMPLETE" in done.stdout) == (0, True)


def test_completion_knows_the_commands():
    program = "from ingress.cli import cli; cli(prog_name='entrega')"
    asked = {"_ENTREGA_COMPLETE": "complete_bash", "COMP_WORDS": "entrega dead", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **asked}, check=False
    )

    assert done.stdout.split() == ["dead-letters"]


def test_the_version_is_printed_and_nothing_else():
    result = CliRunner().invoke(cli, ["--version"])

    assert (result.exit_code, result.output) == (0, f"entrega {version('entrega')}\n")
