"""The part of `make attack` that no busy machine disturbs: no such attack harms a running system."""

import subprocess
import sys
from pathlib import Path

# These end on a machine that runs nothing else meanwhile; CI runs four files at once. `make attack` runs every attack.
_CHOSEN = (
    "broker",
    "folder",
    "atrest",
    "nasty",
    "poisonous",
    "interim",
    "unknown_parameters",
    "own_app",
)
_ROOT = Path(__file__).resolve().parents[2]


def test_no_known_attack_harms_a_running_system():
    command = [sys.executable, "-m", "tests.attacks.run", "--short"]
    command += [f"--only={each}" for each in _CHOSEN]

    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
