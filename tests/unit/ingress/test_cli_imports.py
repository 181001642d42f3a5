"""What the command line loads before it knows which command is wanted."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("heavy", ["mcp", "fastapi", "sqlalchemy", "celery"])
def test_help_starts_without_what_only_some_commands_need(heavy):
    program = f"import sys, ingress.cli; sys.exit({heavy!r} in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

    assert done.returncode == 0
