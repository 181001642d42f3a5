"""How a step's DDL runs: one statement after the other, each ended by a semicolon at the end of its line."""

from alembic import op


def run(script: str) -> None:
    """Carry out the statements of a script in the current step."""
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(statement)
