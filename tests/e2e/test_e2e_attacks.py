"""The short version of `make attack`: no known attack harms a running system."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def test_no_known_attack_harms_a_running_system():
    command = [sys.executable, "-m", "tests.attacks.run", "--short"]

    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
